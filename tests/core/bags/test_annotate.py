"""Annotated bags: the node's topics with the replay's results, resumed after a stop, opened by rosbags."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from spectradino_core import cli
from spectradino_core.bags import BagError
from spectradino_core.bags.annotate import NODE_TOPICS, AnnotateOptions, annotate
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.replay import Replay
from spectradino_core.streams.detecting import open_pipeline
from spectradino_core.streams.settings import Settings
from tests.blob_model import make_blob_model
from tests.core.bags.recorded import IR, RGB, SIZE, START_NS, pairs, record


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("model") / "blob.onnx", SIZE)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Sixty pairs; the IR camera is silent for two seconds."""
    rows = [r for r in pairs(60) if r.topic == RGB or not 20 <= (r.stamp_ns - START_NS) / 1e8 < 40]
    rows[6].pixels[0, 0] = (0, 255, 0)  # a capture on which the blob model fails
    return record(tmp_path_factory.mktemp("drive") / "drive", rows)


def opened(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """Read time and message by topic with rosbags only."""
    with AnyReader([path]) as reader:
        found: dict[str, list[tuple[int, Any]]] = {c.topic: [] for c in reader.connections}
        for connection, at, raw in reader.messages():
            found[connection.topic].append((at, reader.deserialize(raw, connection.msgtype)))
    return found


def ns(stamp: Any) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def boxes(found: dict[str, list[tuple[int, Any]]]) -> list[tuple]:
    return [
        (at, ns(m.header.stamp), m.header.frame_id,
         [(d.results[0].hypothesis.class_id, d.results[0].hypothesis.score, d.bbox.center.position.x,
           d.bbox.center.position.y, d.bbox.size_x, d.bbox.size_y) for d in m.detections])
        for at, m in found["/detector_node/detections"]
    ]  # fmt: skip


def identities(found: dict[str, list[tuple[int, Any]]]) -> list[list[str]]:
    return [[d.id for d in m.detections] for _, m in found["/detector_node/detections"]]


@pytest.mark.slow  # tests/ros/test_filters.py covers it
def test_class_ids_are_names_on_request(model, tmp_path):
    recording, ids = record(tmp_path / "drive", pairs(2)), {}
    for form in ("index", "name"):
        done = annotate(recording, model, tmp_path / f"{form}.mcap", AnnotateOptions(Settings(class_id_as=form)))
        ids[form] = [[found[0] for found in detections] for *_, detections in boxes(opened(done.path))]
    assert ids == {"index": [["1", "0"]] * 2, "name": [["hot", "red"]] * 2}


@pytest.mark.slow  # runtime/test_openvino.py compares the engines
@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_writes_what_onnx_runtime_does(model, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SPECTRADINO_CACHE", str(tmp_path / "cache"))
    drive, found = record(tmp_path / "drive", pairs(4)), {}
    for device in ("cpu", "openvino"):
        words = ["bag", "run", str(drive), "--model", str(model), "--out", str(tmp_path / device), "--device", device]
        with caplog.at_level(logging.INFO):
            assert cli.main([*words, "--threads", "1", "--no-overlay"]) == 0
        found[device] = boxes(opened(tmp_path / device))
    assert re.search(r"blob\.onnx: OpenVINO [\d.]+ on CPU \(\w+\)", caplog.text)
    assert len(found["openvino"]) == 4
    for ours, theirs in zip(found["openvino"], found["cpu"], strict=True):
        assert ours[:3] == theirs[:3]
        assert [class_id for class_id, *_ in ours[3]] == ["1", "0"]
        # In bf16, where the processor has it.
        np.testing.assert_allclose(*([values[1:] for values in one[3]] for one in (ours, theirs)), atol=0.004)


def test_detections_in_infrared_pixels_have_the_infrared_header(model, tmp_path):
    recording = record(tmp_path / "drive", pairs(2))
    half = Settings(ir_to_rgb=(0.5, 0.0, 8.0, 0.0, 0.5, 6.0, 0.0, 0.0, 1.0))
    found = opened(annotate(recording, model, tmp_path / "out.mcap", AnnotateOptions(half)).path)
    reports = [message for _, message in found["/detector_node/frame_report"]]
    in_ir = [message for _, message in found["/detector_node/ir/detections"]]
    assert [ns(m.header.stamp) for m in in_ir] == [ns(report.ir_stamp) for report in reports]
    for (_, main), own in zip(found["/detector_node/detections"], in_ir, strict=True):
        (wide,) = (d.bbox.size_x for d in own.detections if d.results[0].hypothesis.class_id == "1")
        (narrow,) = (d.bbox.size_x for d in main.detections if d.results[0].hypothesis.class_id == "1")
        assert wide == pytest.approx(2 * narrow, abs=0.01)


def test_temperatures_are_written_for_a_radiometric_camera(model, tmp_path):
    """Of the hot square of 30000 counts; the red one, over it, is where the noise of 1000 to 1099 counts lies."""
    drive = record(tmp_path / "drive", pairs(2))
    radiometric = Settings(ir_kelvin_per_count=0.01, ir_celsius_offset=-100.0)
    found = opened(annotate(drive, model, tmp_path / "out.mcap", AnnotateOptions(radiometric)).path)
    detections = [message for _, message in found["/detector_node/detections"]]
    messages = [message for _, message in found["/detector_node/temperatures"]]
    assert [m.header for m in messages] == [m.header for m in detections]
    assert [ns(m.ir_stamp) - ns(m.header.stamp) for m in messages] == [4_000_000] * 2
    for one, listed in zip(messages, detections, strict=True):
        assert [t.class_id for t in one.detections] == [d.results[0].hypothesis.class_id for d in listed.detections]
        hot, red = one.detections
        assert (hot.minimum, hot.mean, hot.maximum) == pytest.approx((200, 200, 200), abs=0.01)
        assert -90.0 <= red.minimum < red.mean < red.maximum <= -89.01


def test_it_holds_what_the_node_publishes(recording, model, tmp_path):
    settings = Settings(stale_ms=500.0, deadline_ms=100.0)
    done = annotate(recording, model, tmp_path / "out.mcap", AnnotateOptions(settings, inputs=True))
    with BagReader(recording) as reader:
        replay = Replay(open_pipeline(model, settings), settings)
        answers = [a for a in replay.run(reader) if a.perception is not None]
    assert done.drops == {"inference_failed": 1} | replay.drops()
    assert done.results == dict(replay.results)
    found = opened(done.path)
    assert set(found) == {f"/detector_node/{name}" for name in NODE_TOPICS if name != "temperatures"} | {RGB, IR}
    assert [p.name for p in tmp_path.iterdir()] == ["out.mcap"]
    listed = boxes(found)
    masks, overlays = found["/detector_node/segmentation/mask"], found["/detector_node/segmentation/overlay"]
    reports = [m for _, m in found["/detector_node/frame_report"]]
    assert len(listed) == len(masks) == len(overlays) == len(reports) == len(answers)
    for answer, (at, stamp, frame_id, detections), report, (_, mask) in zip(
        answers, listed, reports, masks, strict=True
    ):
        assert answer.perception is not None
        assert (at, stamp, frame_id) == (answer.ready_ns, answer.stamp_ns, answer.frame_id)
        corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for _, _, x, y, w, h in detections]
        np.testing.assert_allclose(np.reshape(corners, (-1, 4)), answer.perception.boxes)
        np.testing.assert_allclose([d[1] for d in detections], answer.perception.scores)
        assert [d[0] for d in detections] == [str(label) for label in answer.perception.labels]
        np.testing.assert_array_equal(np.reshape(mask.data, (SIZE[1], SIZE[0])), answer.perception.mask)
        assert (ns(report.rgb_stamp), ns(report.ir_stamp)) == (answer.rgb_stamp_ns or 0, answer.ir_stamp_ns or 0)
        assert report.detections == len(detections)
        assert report.mode == ["fused", "rgb_only", "ir_only"].index(answer.mode.value)
        assert math.isnan(report.ir_offset_ms) == (answer.error_ns is None)
        assert {d.cause: d.count for d in report.drops} == answer.drops
        assert [s.name for s in report.steps] == ["decode", "pairing", "preprocess", "engine", "postprocess"]
        assert (report.model, report.deadline_ms) == ("blob", 100.0)
    assert [m.data for _, m in found["/detector_node/mode"]] == ["fused", "rgb_only", "fused"]
    typed = found["/detector_node/camera_mode"]
    assert [(at, m.mode) for at, m in typed] == [
        (at, ["fused", "rgb_only"].index(m.data)) for at, m in found["/detector_node/mode"]
    ]
    assert [ns(m.header.stamp) for _, m in typed] == [at for at, _ in typed]
    [(_, about)] = found["/detector_node/vision_info"]
    assert (about.method, about.database_location) == ("blob", "/detector_node/label_info")
    assert [c.class_name for c in found["/detector_node/label_info"][0][1].class_map] == ["red", "hot"]
    with BagReader(recording) as reader:
        expected = [(raw.received_ns, bytes(raw.data)) for raw in reader.stored([RGB])]
    with BagReader(done.path) as reader:
        assert [(raw.received_ns, bytes(raw.data)) for raw in reader.stored([RGB])] == expected


def test_the_cameras_of_an_annotated_bag_are_found(recording, model, tmp_path):
    done = annotate(
        recording, model, tmp_path / "out", AnnotateOptions(inputs=True, storage="mcap", compression="chunk")
    )
    with BagReader(done.path) as reader:
        assert (reader.rgb_topic, reader.ir_topic) == (RGB, IR)


class StopError(Exception):
    pass


def stopped_after(frames: int) -> Any:
    seen = 0

    def tick(_: object) -> None:
        nonlocal seen
        seen += 1
        if seen >= frames:
            raise StopError

    return tick


# slow: tracking, which has a state of its own, covers a run without it.
@pytest.mark.parametrize("tracking", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_stopped_run_resumes_and_equals_an_uninterrupted_one(recording, model, tmp_path, tracking):
    options = AnnotateOptions(Settings(stale_ms=500.0, tracking=tracking), overlay=False, segment=10)
    whole = opened(annotate(recording, model, tmp_path / "whole.mcap", options).path)
    for frames in (45, 70):
        with pytest.raises(StopError):
            annotate(recording, model, tmp_path / "out.mcap", options, stopped_after(frames))
        assert not (tmp_path / "out.mcap").exists()
    done = annotate(recording, model, tmp_path / "out.mcap", options)
    assert done.kept >= 20
    again = opened(done.path)
    assert boxes(again) == boxes(whole)
    assert identities(again) == identities(whole)
    last = set(identities(whole)[-1])
    assert last.isdisjoint({"", "1", "2"}) if tracking else last == {""}
    for name in ("segmentation/mask", "mode"):
        theirs, ours = whole[f"/detector_node/{name}"], again[f"/detector_node/{name}"]
        assert [(at, bytes(np.asarray(m.data)) if name != "mode" else m.data) for at, m in ours] == [
            (at, bytes(np.asarray(m.data)) if name != "mode" else m.data) for at, m in theirs
        ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mcap", "whole.mcap"]


@pytest.mark.slow  # the stopped run above covers what is used
def test_what_another_choice_left_is_not_used(recording, model, tmp_path):
    first = AnnotateOptions(overlay=False, segment=5)
    with pytest.raises(StopError):
        annotate(recording, model, tmp_path / "out.mcap", first, stopped_after(30))
    other = AnnotateOptions(Settings(score_threshold=0.85), overlay=False, segment=5)
    done = annotate(recording, model, tmp_path / "out.mcap", other)
    assert done.kept == 0
    assert {d[0] for _, _, _, found in boxes(opened(done.path)) for d in found} == {"1"}, "red scores 0.8"


@pytest.mark.slow  # the stopped run above covers resuming
def test_a_killed_process_leaves_no_bag_and_is_resumed(recording, model, tmp_path):
    script = (
        "import sys, time\n"
        "from spectradino_core.bags.annotate import AnnotateOptions, annotate\n"
        "n = 0\n"
        "def tick(_):\n"
        "    global n; n += 1\n"
        "    if n == 60: print('here', flush=True); time.sleep(600)\n"
        "annotate(*sys.argv[1:4], AnnotateOptions(overlay=False, segment=5), tick)\n"
    )
    words = [sys.executable, "-c", script, str(recording), str(model), str(tmp_path / "out.mcap")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        options = AnnotateOptions(overlay=False, segment=5)
        with pytest.raises(BagError, match="another run is writing it"):
            annotate(recording, model, tmp_path / "out.mcap", options)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    finally:
        process.kill()
    assert [p.name for p in tmp_path.iterdir()] == [".out.mcap.part"]
    time.sleep(0.05)
    done = annotate(recording, model, tmp_path / "out.mcap", options)
    assert done.kept >= 10
    assert [p.name for p in tmp_path.iterdir()] == ["out.mcap"]


def test_what_is_refused_before_anything_is_done(recording, model, tmp_path):
    (tmp_path / "out.mcap").write_bytes(b"mine")
    with pytest.raises(BagError, match="exists already"):
        annotate(recording, model, tmp_path / "out.mcap")
    with pytest.raises(BagError, match="the recording itself"):
        annotate(recording, model, recording, AnnotateOptions(overwrite=True))
    assert (tmp_path / "out.mcap").read_bytes() == b"mine"
    assert recording.is_dir()
    annotate(recording, model, tmp_path / "out.mcap", AnnotateOptions(overwrite=True, overlay=False))
    assert len(opened(tmp_path / "out.mcap")["/detector_node/detections"]) > 40
