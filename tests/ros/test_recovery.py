"""Engines that fail on every frame, in a node that recovers, or reports that it can't and waits for its manager."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport

from tests.ros.harness import image, ir_pixels, rgb_pixels, running, to_ns, wait_until
from tests.ros.management import Manager

# slow: a node for each; tests/core/runtime/test_recovery.py covers the decisions.
pytestmark = pytest.mark.slow

SIZE = (160, 120)
GOOD = rgb_pixels(SIZE, None)
POISONED = GOOD.copy()
POISONED[:8, :8] = (0, 255, 0)  # what makes the graph fail
IR = ir_pixels(SIZE, (40, 40, 80, 80))


class Robot:
    """Cameras and subscribers in a namespace, and the manager of the node there."""

    def __init__(self, peer, node, namespace: str) -> None:
        self.peer, self.node = peer, node
        self.manager = Manager(peer, node, f"{namespace}/detector_node")
        self.cameras = {
            key: peer.node.create_publisher(Image, f"{namespace}/{key}/image_raw", 5) for key in ("rgb", "ir")
        }
        self.reports = peer.collect(FrameReport, f"{namespace}/detector_node/frame_report")
        self._diagnostics = peer.collect(DiagnosticArray, "/diagnostics")
        self.wait_for_subscriptions()

    def wait_for_subscriptions(self) -> None:
        wait_until(lambda: all(c.get_subscription_count() for c in self.cameras.values()), "subscriptions")

    def send(self, rgb: np.ndarray) -> int:
        stamp = self.peer.now()
        self.cameras["rgb"].publish(image(rgb, "rgb8", stamp, "rgb"))
        self.cameras["ir"].publish(image(IR, "mono16", stamp, "ir"))
        time.sleep(0.05)
        return stamp

    def answers(self) -> bool:
        """Send a good pair; returns whether one had a result."""
        stamp = self.send(GOOD)
        return any(to_ns(report.header.stamp) >= stamp for report in list(self.reports))

    def status(self) -> DiagnosticStatus | None:
        """The node's newest diagnostics."""
        found = [s for a in list(self._diagnostics) for s in a.status if s.hardware_id == self.manager.name]
        return found[-1] if found else None

    def poison_until(self, pattern: str) -> None:
        def poisoned() -> bool:
            self.send(POISONED)
            return self.node.count(pattern) > 0

        wait_until(poisoned, pattern)


def test_failures_in_a_row_open_the_engine_anew(blob_model, peer):
    with running("-r", "__ns:=/rebuilt", model=blob_model, device="cpu", fallback_mode="fused_only") as node:
        robot = Robot(peer, node, "/rebuilt")
        wait_until(robot.answers, "a first answer")
        robot.poison_until(r"\[WARN\].*rebuilt the engine: ONNX Runtime")
        assert node.count(r"\[WARN\].*failed on 3 frames in a row: .*Gather.*; rebuild 1 of 3") == 1
        wait_until(robot.answers, "an answer of the new engine")
        drops = {drop.cause: drop.count for drop in robot.reports[-1].drops}
        assert drops["inference_failed"] >= 3
        values = wait_until(
            lambda: (s := robot.status()) and (v := {x.key: x.value for x in s.values})["engine rebuilds"] != "0" and v,
            "the rebuild in the diagnostics",
        )
        assert values["state"] == "active"


@pytest.fixture
def lost(tmp_path, blob_model, peer):
    """A robot whose model file is deleted, so that no rebuild can succeed."""
    model = shutil.copy(blob_model, tmp_path / "model.onnx")
    with running("-r", "__ns:=/lost", model=model, device="cpu", fallback_mode="fused_only") as node:
        robot = Robot(peer, node, "/lost")
        wait_until(robot.answers, "a first answer")
        (tmp_path / "model.onnx").unlink()
        yield robot
        assert node.count("inference failed, dropped one capture") == 1, node.log


def test_an_engine_lost_for_good_ends_in_the_unconfigured_state_and_can_be_configured_again(lost, blob_model, tmp_path):
    manager, node = lost.manager, lost.node
    lost.poison_until("rebuild 1 of 3")
    assert manager.state() == "active"
    assert node.count("gave up") == 0, "the executor answers while the worker waits and rebuilds"

    def reported() -> bool:
        lost.send(GOOD)
        status = lost.status()
        return status is not None and "the engine is being rebuilt" in status.message

    wait_until(reported, "a warning in the diagnostics")
    node.wait_for_line(
        r"\[ERROR\].*gave up ONNX Runtime .* on CPU after 3 rebuilds \(max_engine_rebuilds\).*model.onnx"
    )
    wait_until(lambda: manager.state() == "unconfigured", "the unconfigured state")
    assert node.count("gave up") == 1
    assert node.running
    wait_until(lambda: "gave up" in lost.status().message, "the reason in the diagnostics")
    assert lost.status().level == DiagnosticStatus.ERROR
    wait_until(lambda: not any(c.get_subscription_count() for c in lost.cameras.values()), "the subscriptions' end")
    shutil.copy(blob_model, tmp_path / "model.onnx")
    assert manager.change(Transition.TRANSITION_CONFIGURE)
    assert manager.change(Transition.TRANSITION_ACTIVATE)
    lost.wait_for_subscriptions()
    wait_until(lost.answers, "an answer after another configuration")
    wait_until(lambda: lost.answers() and lost.status().level == DiagnosticStatus.OK, "good diagnostics")


def test_deactivation_does_not_wait_for_the_next_rebuild(lost, blob_model, tmp_path):
    lost.poison_until("rebuild 3 of 3|rebuild 2 of 3")
    asked = time.monotonic()
    assert lost.manager.change(Transition.TRANSITION_DEACTIVATE)
    assert time.monotonic() - asked < 5
    assert lost.manager.state() == "inactive"
    shutil.copy(blob_model, tmp_path / "model.onnx")
    assert lost.manager.change(Transition.TRANSITION_ACTIVATE)
    lost.wait_for_subscriptions()
    wait_until(lost.answers, "an answer after the rebuild was taken up again")
    assert lost.node.count("gave up") == 0
