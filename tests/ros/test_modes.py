"""A camera falls silent or freezes while the node runs: the other is used, the mode changes, and both come back."""

from __future__ import annotations

import time

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from spectradino_msgs.msg import CameraMode, FrameReport
from std_msgs.msg import String

from tests.ros.harness import LATCHED, ir_pixels, rgb_pixels, running, to_ns, wait_until
from tests.ros.management import Manager
from tests.ros.rig import Rig, Streams

# slow: it waits for cameras to fall silent; tests/core/streams/test_modes.py covers the decisions.
pytestmark = pytest.mark.slow

SIZE = (160, 120)
RED, HOT = (20, 20, 60, 50), (80, 60, 120, 100)
STALE_MS, FROZEN_MS = 500.0, 300.0
MARGIN_S = 1.0
"""What a busy machine may add to a time."""


@pytest.fixture(scope="module")
def node(blob_model):
    with running(
        "-r", "__ns:=/modes", model=blob_model, device="cpu", threads=1, stale_ms=STALE_MS, frozen_ms=FROZEN_MS,
        warning_period_s=0.1,
    ) as node:  # fmt: skip
        yield node


@pytest.fixture(scope="module")
def streams(node, peer):
    rig = Rig(peer, "modes")
    rig.wait_for_node()
    with Streams(rig, rgb_pixels(SIZE, RED), ir_pixels(SIZE, HOT)).flowing() as streams:
        yield streams


@pytest.fixture
def rig(streams):
    """The rig while both cameras stream and are fused."""
    rig = streams.rig
    streams.stopped, streams.frozen = set(), False
    rig.wait_for_mode("fused")
    before = len(rig.reports)
    wait_until(lambda: any(r.mode == FrameReport.MODE_FUSED for r in rig.reports[before:]), "fused answers")
    return rig


@pytest.mark.parametrize(
    ("gone", "mode", "value", "label"),
    [("ir", "rgb_only", FrameReport.MODE_RGB_ONLY, "0"), ("rgb", "ir_only", FrameReport.MODE_IR_ONLY, "1")],
)
def test_one_camera_stops_and_comes_back(node, streams, rig, gone, mode, value, label):
    lines = len(node.lines)
    streams.stopped = {gone}
    stopped = time.monotonic()
    assert rig.wait_for_mode(mode) - stopped < STALE_MS / 1e3 + MARGIN_S
    first = wait_until(lambda: next((r for r in list(rig.reports) if r.mode == value), None), f"{mode} reports")
    waited_ns = to_ns(first.header.stamp) - streams.stamps[gone][-1]
    assert waited_ns < (STALE_MS / 1e3 + Streams.PERIOD_S + MARGIN_S) * 1e9, "answers within one timeout"
    answer = wait_until(lambda: rig.find(to_ns(first.header.stamp)), "its detections")[0]
    assert [d.results[0].hypothesis.class_id for d in answer.detections] == [label]
    node.wait_for_line(rf"\[WARN\].*mode fused -> {mode}: {gone} is silent for \d+ ms.*{gone} is /modes/", after=lines)
    rig.wait_for_fact("mode", mode)
    status = rig.status()
    assert status.level == DiagnosticStatus.WARN
    assert f"mode {mode}: {gone} is silent" in status.message

    sent = len(streams.stamps[gone])
    streams.stopped = set()
    rig.wait_for_mode("fused")
    assert len(streams.stamps[gone]) - sent >= 3, "not with the first frame: a camera that stutters must not flip it"
    before = len(rig.reports)
    wait_until(lambda: [r.mode for r in rig.reports[before:]][-1:] == [FrameReport.MODE_FUSED], "fused answers again")
    node.wait_for_line(rf"\[INFO\].*mode {mode} -> fused", after=lines)
    assert node.count(rf"mode \w+ -> {mode}: ") == [m.data for m in rig.modes].count(mode), "told once a change"


def test_a_frozen_infrared_camera_counts_as_silent(node, streams, rig):
    lines, modes = len(node.lines), len(rig.modes)
    streams.frozen = True
    node.wait_for_line(r"\[WARN\].*ir repeats one image for 300 ms.*frozen_ms", after=lines)
    rig.wait_for_mode("rgb_only")
    rig.wait_for_fact("ir frozen", "true")
    report = wait_until(
        lambda: next((r for r in rig.reports[::-1] if r.mode == FrameReport.MODE_RGB_ONLY), None), "RGB-only answers"
    )
    wait_until(lambda: {d.cause: d.count for d in rig.reports[-1].drops}.get("frozen_ir"), "frozen frames counted")
    assert to_ns(report.ir_stamp) == 0
    assert "repeats one image" in rig.facts()["mode reason"]
    streams.frozen = False
    rig.wait_for_mode("fused")
    rig.wait_for_fact("ir frozen", "false")
    assert (rig.modes[modes].data, rig.modes[-1].data) == ("rgb_only", "fused")


def test_when_both_stop_the_mode_is_stale_and_late_subscribers_get_it(node, streams, rig, peer):
    streams.stopped = {"rgb", "ir"}
    rig.wait_for_mode("stale")
    rig.wait_for_fact("mode", "stale")
    assert rig.status().level == DiagnosticStatus.ERROR
    late = peer.collect(String, "/modes/detector_node/mode", LATCHED)
    wait_until(lambda: late, "the latched mode")
    assert late[0].data == "stale"
    typed = peer.collect(CameraMode, "/modes/detector_node/camera_mode", LATCHED)
    wait_until(lambda: typed, "the latched mode as a number")
    assert typed[0].mode == CameraMode.MODE_STALE == FrameReport.MODE_STALE
    assert abs(to_ns(typed[0].header.stamp) - peer.now()) < 60e9
    streams.stopped = set()
    rig.wait_for_mode("fused")
    wait_until(lambda: rig.status().level == DiagnosticStatus.OK, "diagnostics that are well again")


def test_the_fallback_is_changed_while_it_runs(node, streams, rig, peer):
    manager = Manager(peer, node, rig.name)
    streams.stopped = {"ir"}
    rig.wait_for_mode("rgb_only")
    assert manager.set("fallback_mode", "ir_only") == (True, "")
    rig.wait_for_mode("stale")
    node.wait_for_line(r"mode rgb_only -> stale: .*fallback_mode ir_only does not allow rgb alone")
    assert manager.set("fallback_mode", "auto") == (True, "")
    rig.wait_for_mode("rgb_only")


def test_a_missed_deadline_is_reported(node, streams, rig, peer):
    manager = Manager(peer, node, rig.name)
    before = len(rig.reports)
    assert manager.set("deadline_ms", 0.01) == (True, "")
    wait_until(lambda: any(not r.deadline_met for r in rig.reports[before:]), "a verdict")
    late = next(r for r in rig.reports[before:] if not r.deadline_met)
    assert late.latency_ms > late.deadline_ms == 0.01
    wait_until(lambda: "of the last answers missed the deadline" in rig.status().message, "a warning in diagnostics")
    assert int(rig.facts()["deadline missed"]) > 0
    assert manager.set("deadline_ms", 0.0) == (True, "")


def test_an_inactive_node_publishes_that_no_camera_is_used(node, streams, rig, peer):
    manager = Manager(peer, node, rig.name)
    assert manager.change(Transition.TRANSITION_DEACTIVATE)
    rig.wait_for_mode("stale")
    assert manager.change(Transition.TRANSITION_ACTIVATE)
    rig.wait_for_mode("fused")
