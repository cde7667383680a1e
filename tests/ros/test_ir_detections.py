"""Detections in pixels of the infrared camera, over DDS: fused and from the infrared camera alone."""

from __future__ import annotations

import numpy as np
import pytest
from vision_msgs.msg import Detection2DArray

from tests.ros.harness import corners, ir_pixels, rgb_pixels, running, to_ns, wait_until
from tests.ros.management import Manager
from tests.ros.rig import Rig, Streams

RED, HOT = (20, 20, 60, 50), (40, 30, 60, 50)
RED_IN_IR, HOT_IN_RGB = (5, 8, 25, 23), (90, 64, 130, 104)
IR_TO_RGB = "[2.0, 0.0, 10.5, 0.0, 2.0, 4.5, 0.0, 0.0, 1.0]"
RGB_PIXELS, IR_PIXELS = rgb_pixels((160, 120), RED), ir_pixels((80, 60), HOT)


def boxes(message: Detection2DArray) -> dict[str, np.ndarray]:
    return {d.results[0].hypothesis.class_id: corners(d) for d in message.detections}


@pytest.mark.slow  # a node; tests/core/bags/test_annotate.py covers the message
def test_detections_have_the_infrared_frames_header_and_pixels(blob_model, peer):
    options = {
        "model": blob_model,
        "device": "cpu",
        "threads": 1,
        "fallback_mode": "fused_only",
        "ir_to_rgb": IR_TO_RGB,
    }
    with running("-r", "__ns:=/in_ir", **options) as node:
        rig = Rig(peer, "in_ir")
        rig.wait_for_node()
        in_ir = peer.collect(Detection2DArray, f"{rig.name}/ir/detections")
        late_ns = 7_000_000
        wait_until(lambda: rig.answer_to(RGB_PIXELS, IR_PIXELS, late_ns) and in_ir, "detections in infrared pixels")
        detections, _ = rig.answer_to(RGB_PIXELS, IR_PIXELS, late_ns)
        stamp = to_ns(detections.header.stamp)
        (own,) = wait_until(
            lambda: [m for m in list(in_ir) if to_ns(m.header.stamp) == stamp + late_ns], "the infrared stamp"
        )
        assert own.header.frame_id == "ir_optical"
        assert {d.header.frame_id for d in own.detections} == {"ir_optical"}
        assert detections.header.frame_id == "rgb_optical"
        np.testing.assert_allclose(boxes(detections)["0"], RED, atol=1.5)
        np.testing.assert_allclose(boxes(detections)["1"], HOT_IN_RGB, atol=2.5)
        np.testing.assert_allclose(boxes(own)["0"], RED_IN_IR, atol=1)
        np.testing.assert_allclose(boxes(own)["1"], HOT, atol=1.5)

        assert Manager(peer, node, rig.name).set("fallback_mode", "auto")[0]
        streams = Streams(rig, RGB_PIXELS, IR_PIXELS)
        streams.stopped = {"rgb"}
        with streams.flowing():
            rig.wait_for_mode("ir_only")
            before = len(in_ir)
            wait_until(lambda: len(in_ir) > before + 3, "detections of the infrared camera alone")
            own = in_ir[-1]
            alone = wait_until(
                lambda: next((m for m in list(rig.detections) if m.header.stamp == own.header.stamp), None),
                "the same detections in RGB pixels",
            )
        assert (own.header.frame_id, alone.header.frame_id) == ("ir_optical", "rgb_optical")
        np.testing.assert_allclose(boxes(own)["1"], HOT, atol=1.5)
        np.testing.assert_allclose(boxes(alone)["1"], HOT_IN_RGB, atol=2.5)
