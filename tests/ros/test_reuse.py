"""A thermal camera at 9 Hz with an RGB camera at 30 Hz, over DDS: every RGB frame has a result."""

from __future__ import annotations

import time

import pytest
from spectradino_msgs.msg import FrameReport

from spectradino_core.runtime.bundle import companion_path
from tests.blob_model import make_blob_model
from tests.core.runtime.test_companions import WEIGHTS
from tests.ros.harness import corners, ir_pixels, rgb_pixels, running, to_ns, wait_until
from tests.ros.rig import Rig

SIZE, IR_SIZE = (160, 120), (80, 60)
MS = 1_000_000
RGB_MS, IR_MS = 1000 / 30, 1000 / 9


def play(rig: Rig, seconds: float, ir_from_s: float = 0.0, ir_to_s: float = 1e9) -> list[int]:
    """Send both cameras' frames at their rates, infrared only within a window; returns the stamps of the RGB frames."""
    begun, start, stamps, ir_sent = time.monotonic(), rig.peer.now(), [], 0
    while (at := len(stamps) * RGB_MS) < seconds * 1e3:
        time.sleep(max(0.0, begun + at / 1e3 - time.monotonic()))
        stamps.append(start + round(at * MS))
        left = 10 + len(stamps) % 60
        rig.send(rgb_pixels(SIZE, (left, 20, left + 40, 50)), None, stamps[-1])
        while ir_sent * IR_MS <= at:
            if ir_from_s * 1e3 <= at < ir_to_s * 1e3:
                rig.send(None, ir_pixels(IR_SIZE, (40, 30, 60, 50)), 0, start + round(ir_sent * IR_MS * MS))
            ir_sent += 1
    return stamps


@pytest.mark.slow  # it waits; tests/core/bags/test_replay.py covers reuse
def test_every_rgb_frame_is_fused_with_the_newest_infrared_frame(tmp_path, peer):
    features = {"features": (1, 46 * 34, 196), "provenance": WEIGHTS}
    model = make_blob_model(tmp_path / "blob.onnx", **features)
    make_blob_model(companion_path(model, "reuse"), streams="reuse", **features)
    with running("-r", "__ns:=/slow_ir", model=model, device="cpu", threads=1):
        rig = Rig(peer, "slow_ir")
        rig.wait_for_node()
        rig.answer_to(rgb_pixels(SIZE, (20, 20, 60, 50)), ir_pixels(IR_SIZE, (40, 30, 60, 50)))
        stamps = play(rig, 4.0)
        wait_until(lambda: any(to_ns(r.header.stamp) == stamps[-1] for r in list(rig.reports)), "the last answer", 5.0)
        wait_until(lambda: "infrared features reused" in rig.facts().get("engine", ""), "the network for reuse")
        reports = {to_ns(report.header.stamp): report for report in list(rig.reports)}
        answered = [reports[stamp] for stamp in stamps if stamp in reports]
        overload = {d.cause: d.count for d in answered[-1].drops}.get("overload", 0)
        assert len(answered) + overload >= 0.98 * len(stamps)
        assert len(answered) > 0.8 * len(stamps), "unless other programs take the processor"
        assert {report.mode for report in answered} == {FrameReport.MODE_FUSED}
        reused = [report for report in answered if report.ir_reused]
        assert 0.5 < len(reused) / len(answered) < 0.8
        settled = answered[10:]
        assert max(-report.ir_offset_ms for report in settled) < 2 * IR_MS
        for report in settled:
            stamp, ir = to_ns(report.rgb_stamp), to_ns(report.ir_stamp)
            assert report.ir_offset_ms == pytest.approx((ir - stamp) / MS)
        found = {to_ns(message.header.stamp): message for message in list(rig.detections)}
        for number, stamp in list(enumerate(stamps, 1))[-20:]:
            if stamp in found:
                red, hot = sorted(found[stamp].detections, key=lambda d: d.results[0].hypothesis.class_id)
                assert abs(corners(red)[0] - (10 + number % 60)) < 3, "of this RGB frame, not of an earlier one"
                assert abs(corners(hot)[0] - 80) < 4
        wait_until(lambda: int(rig.facts().get("pairs with a reused ir frame", 0)) >= len(reused) - 5, "the count")


@pytest.mark.slow  # it waits for a camera to fall silent; tests/core/streams/test_modes.py covers the decisions
def test_a_slow_infrared_camera_is_lost_and_comes_back(blob_model, peer):
    with running("-r", "__ns:=/lost_ir", model=blob_model, device="cpu", threads=1, stale_ms=500.0) as node:
        rig = Rig(peer, "lost_ir")
        rig.wait_for_node()
        rig.answer_to(rgb_pixels(SIZE, (20, 20, 60, 50)), ir_pixels(IR_SIZE, (40, 30, 60, 50)))
        play(rig, 3.5, ir_to_s=1.5)
        wait_until(lambda: rig.reports[-1].mode == FrameReport.MODE_RGB_ONLY, "RGB alone", 5.0)
        assert not rig.reports[-1].ir_reused
        play(rig, 2.0)
        assert rig.reports[-1].mode == FrameReport.MODE_FUSED
        assert node.count(r"\[WARN\].*mode fused -> rgb_only: ir ") == 1
