"""Written bags read by Foxglove's own Python library, which uses the schemas in the file like its viewer.

`ros2 bag play` and the viewer need software that is not on PyPI; this is the part of them that can be tested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from spectradino_core.bags.annotate import NODE_TOPICS, AnnotateOptions, annotate
from spectradino_core.streams.settings import Settings
from tests.blob_model import make_blob_model
from tests.core.bags.recorded import IR, RGB, SIZE, pairs, record


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list[Any]]:
    """Messages by topic of an annotated bag."""
    folder: Path = tmp_path_factory.mktemp("drive")
    model = make_blob_model(folder / "blob.onnx", SIZE)
    recording = record(folder / "drive", pairs(6))
    settings = Settings(ir_kelvin_per_count=0.01)
    done = annotate(recording, model, folder / "out.mcap", AnnotateOptions(settings, inputs=True))
    messages: dict[str, list[Any]] = {}
    with open(done.path, "rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        for _, channel, _, message in reader.iter_decoded_messages():
            messages.setdefault(channel.topic, []).append(message)
    return messages


def test_every_topic_is_decoded(found):
    assert set(found) == {f"/detector_node/{name}" for name in NODE_TOPICS} | {RGB, IR}


def test_images_and_detections_hold_what_was_written(found):
    overlay = found["/detector_node/segmentation/overlay"][0]
    assert overlay.encoding == "rgb8"
    assert len(overlay.data) == overlay.height * overlay.step
    assert np.frombuffer(overlay.data, np.uint8).any()
    mask = found["/detector_node/segmentation/mask"][0]
    assert mask.encoding == "mono8"
    detections = [message.detections for message in found["/detector_node/detections"]]
    assert any(detections)
    first = next(filter(None, detections))[0]
    assert first.results[0].hypothesis.class_id in ("0", "1")
    assert 0.0 < first.results[0].hypothesis.score <= 1.0
    assert first.bbox.size_x > 1.0
    assert len(found["/detector_node/frame_report"][0].steps) > 3
    annotations = found["/detector_node/annotations"]
    assert len(annotations) == len(detections)
    for message, listed in zip(annotations, detections, strict=True):
        assert [text.text.split()[0] for text in message.texts] == [
            ("red", "hot")[int(d.results[0].hypothesis.class_id)] for d in listed
        ]
        for outline, detection in zip(message.points, listed, strict=True):
            assert (outline.type, len(outline.points)) == (2, 4)  # a closed polygon
            assert outline.timestamp.nanosec == detection.header.stamp.nanosec
            first, opposite, box = outline.points[0], outline.points[2], detection.bbox
            assert (first.x + opposite.x) / 2 == pytest.approx(box.center.position.x)
            assert (opposite.x - first.x, opposite.y - first.y) == pytest.approx((box.size_x, box.size_y))
    temperatures = found["/detector_node/temperatures"][0].detections
    assert [t.class_id for t in temperatures] == [d.results[0].hypothesis.class_id for d in detections[0]]
