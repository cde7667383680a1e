"""Track identities of detections over DDS: through changes of the cameras in use and on both topics."""

from __future__ import annotations

import pytest
from vision_msgs.msg import Detection2DArray

from tests.ros.harness import ir_pixels, rgb_pixels, running, wait_until
from tests.ros.rig import Rig, Streams

RED, HOT = (20, 20, 60, 50), (40, 30, 60, 50)
RGB_PIXELS, IR_PIXELS = rgb_pixels((160, 120), RED), ir_pixels((80, 60), HOT)
OPTIONS = {
    "device": "cpu",
    "threads": 1,
    "ir_to_rgb": "[2.0, 0.0, 10.5, 0.0, 2.0, 4.5, 0.0, 0.0, 1.0]",
    "stale_ms": 400.0,
}


def names(message: Detection2DArray) -> dict[str, str]:
    """Identities by class id; the model finds one object of each class."""
    return {d.results[0].hypothesis.class_id: d.id for d in message.detections}


@pytest.mark.slow  # a node; tests/core/runtime/test_tracking.py covers it
def test_identities_last_when_a_camera_stops(blob_model, peer):
    with running("-r", "__ns:=/tracked", model=blob_model, tracking=True, track_memory_ms=3000.0, **OPTIONS):
        rig = Rig(peer, "tracked")
        rig.wait_for_node()
        in_ir = peer.collect(Detection2DArray, f"{rig.name}/ir/detections")
        streams = Streams(rig, RGB_PIXELS, IR_PIXELS)
        with streams.flowing():
            both = wait_until(
                lambda: next((m for m in list(rig.detections) if all(names(m).values()) and len(names(m)) == 2), None),
                "both objects with identities",
            )
            given = names(both)
            assert sorted(given.values()) == ["1", "2"]
            wait_until(lambda: in_ir and names(in_ir[-1]) == given, "the same identities in infrared pixels")
            streams.stopped = {"rgb"}
            rig.wait_for_mode("ir_only")
            before, before_ir = len(rig.detections), len(in_ir)
            wait_until(lambda: len(rig.detections) > before + 3 and len(in_ir) > before_ir + 3, "one camera's results")
            assert names(rig.detections[-1]) == {"1": given["1"]}
            assert names(in_ir[-1]) == {"1": given["1"]}
            streams.stopped = set()
            rig.wait_for_mode("fused")
            wait_until(lambda: names(rig.detections[-1]) == given, "the identities of before")


@pytest.mark.slow  # a node; the test above covers the field
def test_without_tracking_there_are_no_identities(blob_model, peer):
    with running("-r", "__ns:=/untracked", model=blob_model, **OPTIONS):
        rig = Rig(peer, "untracked")
        rig.wait_for_node()
        for _ in range(3):
            detections, _ = rig.answer_to(RGB_PIXELS, IR_PIXELS)
        assert names(detections) == {"0": "", "1": ""}
