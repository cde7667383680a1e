"""A recording replayed offline and sent to the real node over DDS gives the same detections."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

from spectradino_core.bags.make import CameraSchedule, MakeOptions, make_bag
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.replay import Replay, ReplayResult
from spectradino_core.bags.sources import SceneViews
from spectradino_core.streams.detecting import open_pipeline
from spectradino_core.streams.settings import Settings
from tests.ros.harness import LATCHED, PATIENCE_S, RELIABLE, Peer, corners, running, to_ns, wait_until

MODES = ("fused", "rgb_only", "ir_only")


@pytest.mark.slow
def test_the_node_and_the_replay_give_equal_results(repository, tmp_path):
    model = repository / "models/lwir_box.onnx"
    # A camera's silence is measured on the real clock, on which inference takes long on a busy machine: hence slow
    # cameras, whose waiting frames are given up after two of their periods.
    given: dict[str, object] = {
        "frozen_ms": 0.0, "stale_ms": 60000.0, "ir_time_offset_ms": 20.0, "sync_slop_ms": 600.0,
        "score_threshold": 0.2, "threads": 1, "device": "cpu",  # "auto" takes OpenVINO in the node only
    }  # fmt: skip
    settings = Settings(**given)  # type: ignore[arg-type]
    source = SceneViews(21, size=(320, 256), ir_size=(160, 128), time_of_day="day")
    rhythm = MakeOptions(
        CameraSchedule(2.0, jitter_ms=3.0), CameraSchedule(1.0, phase_ms=11.0, offset_ms=20.0), duration_s=8.0
    )
    bag = make_bag(source, tmp_path / "drive.mcap", rhythm).bag

    with BagReader(bag) as reader:
        replay = Replay(open_pipeline(model, settings), settings)
        frames = list(reader.frames())
        made_by: list[tuple[bytes, str, list[ReplayResult]]] = [
            (f.raw, f.stream.value, list(replay.frame(f))) for f in frames
        ]
    offline = [answer for _, _, answers in made_by for answer in answers]
    assert len(offline) >= 7
    assert sum(len(a.perception) for a in offline if a.perception is not None) >= 10, "there is something to compare"

    peer = Peer("bag_player", camera_qos=RELIABLE)
    try:
        detections = peer.collect(Detection2DArray, "/detector_node/detections")
        reports = peer.collect(FrameReport, "/detector_node/frame_report")
        masks = peer.collect(Image, "/detector_node/segmentation/mask")
        modes = peer.collect(String, "/detector_node/mode", LATCHED)
        with running(model=model, **given) as node:
            peer.wait_for_node()
            wait_until(lambda: modes, "the node's latched mode, which tells that we are matched")
            time.sleep(1.0)
            answered = 0
            for raw, stream, answers in made_by:
                peer.cameras[stream].publish(raw)  # the very bytes that were recorded
                answered += len(answers)
                wait_until(lambda: min(map(len, (reports, detections, masks))) >= answered, "an answer", PATIENCE_S)  # noqa: B023
                time.sleep(0.02)
            assert node.count("dropped a frame") == 0, node.log
    finally:
        peer.close()

    assert [to_ns(m.header.stamp) for m in detections] == [a.stamp_ns for a in offline]
    for answer, found, report, mask in zip(offline, detections, reports, masks, strict=True):
        assert answer.perception is not None
        assert (to_ns(report.rgb_stamp), to_ns(report.ir_stamp)) == (answer.rgb_stamp_ns, answer.ir_stamp_ns)
        assert MODES[report.mode] == answer.mode.value
        assert report.ir_offset_ms == pytest.approx((answer.error_ns or 0) / 1e6)
        assert found.header.frame_id == answer.frame_id
        ids = [d.results[0].hypothesis.class_id for d in found.detections]
        assert ids == [str(label) for label in answer.perception.labels]
        live = np.reshape([corners(d) for d in found.detections], (-1, 4))
        np.testing.assert_allclose(live, answer.perception.boxes, atol=1e-3)
        scores = [d.results[0].hypothesis.score for d in found.detections]
        np.testing.assert_allclose(scores, answer.perception.scores, atol=1e-5)
        np.testing.assert_array_equal(np.reshape(mask.data, (mask.height, mask.width)), answer.perception.mask)
