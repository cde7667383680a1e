"""Inference switched off and on, and limited to a rate, over DDS."""

from __future__ import annotations

import time

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from spectradino_msgs.msg import CameraMode, FrameReport

from tests.ros.harness import LATCHED, ir_pixels, rgb_pixels, running, to_ns, wait_until
from tests.ros.management import Manager
from tests.ros.rig import Rig, Streams

RGB, IR = rgb_pixels((160, 120), (20, 20, 60, 50)), ir_pixels((80, 60), (40, 30, 60, 50))


@pytest.mark.slow  # it waits; tests/core/streams covers the rate
def test_inference_is_switched_off_and_on_with_the_model_kept_and_limited_to_a_rate(blob_model, peer):
    with running("-r", "__ns:=/throttle", model=blob_model, device="cpu", threads=1, stale_ms=5000.0) as node:
        rig = Rig(peer, "throttle")
        rig.wait_for_node()
        rig.answer_to(RGB, IR)
        manager = Manager(peer, node, rig.name)
        with Streams(rig, RGB, IR).flowing():
            wait_until(lambda: len(rig.reports) > 10, "results")
            rig.wait_for_mode("fused")
            typed = peer.collect(CameraMode, f"{rig.name}/camera_mode", LATCHED)

            assert manager.set("enabled", False) == (True, "")
            switched = peer.now()
            rig.wait_for_mode("disabled")
            wait_until(lambda: typed and typed[-1].mode == CameraMode.MODE_DISABLED, "the mode as a number")
            assert rig.wait_for_fact("mode", "disabled")
            assert rig.wait_for_fact("state", "active, disabled")
            status = rig.status()
            assert (status.level, status.message) == (DiagnosticStatus.OK, "active, disabled")
            time.sleep(1.0)
            assert all(to_ns(report.header.stamp) < switched for report in list(rig.reports))
            before = len(rig.reports)
            wait_until(lambda: int(rig.facts().get("dropped: disabled", 0)) > 5, "the count")

            assert manager.set("enabled", True) == (True, "")
            rig.wait_for_mode("fused")
            wait_until(lambda: len(rig.reports) > before + 10, "results again")
            assert rig.reports[-1].mode == FrameReport.MODE_FUSED
            assert node.count("opened in") == 1, "the model was kept"
            assert node.count("no result for") == 0

            assert manager.set("max_rate_hz", 4.0) == (True, "")
            time.sleep(0.5)
            first = len(rig.reports)
            wait_until(lambda: len(rig.reports) >= first + 9, "results at 4 Hz")
            stamps = [to_ns(report.header.stamp) for report in list(rig.reports)[first : first + 9]]
            assert (stamps[-1] - stamps[0]) / 8 > 0.9e9 / 4
            assert {d.cause: d.count for d in rig.reports[-1].drops}["max_rate"] > 10
            wait_until(lambda: int(rig.facts().get("dropped: max_rate", 0)) > 10, "the count")
            assert "max_rate" not in rig.status().message
            assert "disabled" not in rig.status().message
            assert node.count(r"\[WARN\].*(max_rate|disabled)") == 0
