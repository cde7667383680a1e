"""Unusable messages: each costs itself and one log line that names the culprit, but no good frame."""

from __future__ import annotations

import time

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport
from vision_msgs.msg import Detection2DArray

from tests.blob_model import make_blob_model
from tests.ros.harness import Peer, corners, image, ir_pixels, rgb_pixels, running, to_ns, wait_until

SIZE = (160, 120)
RED, HOT = (20, 20, 60, 50), (80, 60, 120, 100)


@pytest.fixture(scope="module")
def node(blob_model):
    # A period longer than the module takes: whatever is said twice was not throttled.
    with running(
        model=blob_model, device="cpu", threads=1, sync_slop_ms=20, warning_period_s=300.0, fallback_mode="fused_only"
    ) as node:
        yield node


@pytest.fixture(scope="module")
def cameras(node, peer):
    cameras = Cameras(peer)
    peer.wait_for_node()
    wait_until(cameras.sends_until_answered, "a first answer")
    return cameras


class Cameras:
    """Sends pairs of which one message may be damaged, and records which had results."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._stamp = peer.now()
        self.reports = peer.collect(FrameReport, "/detector_node/frame_report")

    def tick(self) -> int:
        """Return the next stamp: 40 ms after the last, as of 25 Hz cameras, however fast this test is."""
        self._stamp += 40_000_000
        return self._stamp

    def pair(self, stamp: int) -> tuple[Image, Image]:
        return (
            image(rgb_pixels(SIZE, RED), "rgb8", stamp, "rgb_optical"),
            image(ir_pixels(SIZE, HOT), "mono16", stamp, "ir_optical"),
        )

    def answered(self, stamp: int) -> FrameReport | None:
        return next((r for r in list(self.reports) if to_ns(r.header.stamp) == stamp), None)

    def sends_until_answered(self) -> bool:
        stamp = self.tick()
        self.peer.send(*self.pair(stamp))
        time.sleep(0.1)
        return self.answered(stamp) is not None

    def good_pair(self) -> FrameReport:
        """Send a good pair and wait for its result."""
        stamp = self.tick()
        self.peer.send(*self.pair(stamp))
        return wait_until(lambda: self.answered(stamp), "the answer to the next good pair")

    def drops(self) -> dict[str, int]:
        return {drop.cause: drop.count for drop in self.good_pair().drops}


def spoil(message: Image, **fields) -> Image:
    for name, value in fields.items():
        if name == "data":
            message.data = type(message.data)("B", value)
        else:
            setattr(message, name, value)
    return message


BAD = {
    "wrong_step": {"step": 7},
    "empty_image": {"data": b""},
    "short_data": {"data": b"\x01" * 1000},
    "unknown_encoding": {"encoding": "sepia13"},
}


@pytest.mark.parametrize("camera", ["rgb", "ir"])
@pytest.mark.parametrize("cause", BAD)
def test_a_damaged_message_is_named_once_and_the_next_pair_gets_a_result(node, cameras, cause, camera):
    lines, before = len(node.lines), cameras.drops().get(f"{camera}_{cause}", 0)
    for _ in range(3):
        stamp = cameras.tick()
        rgb, ir = cameras.pair(stamp)
        spoil(rgb if camera == "rgb" else ir, **BAD[cause])
        cameras.peer.send(rgb, ir)
        assert cameras.good_pair().mode == FrameReport.MODE_FUSED
        assert cameras.answered(stamp) is None
    assert cameras.drops()[f"{camera}_{cause}"] == before + 3
    line = node.wait_for_line(rf"\[WARN\].*dropped a frame of /{camera}/image_raw: ", after=lines)
    assert {
        "wrong_step": "step is 7 bytes, but a row of 160",
        "empty_image": "data is empty",
        "short_data": "data has 1000 bytes, fewer than",
        "unknown_encoding": "sepia13",
    }[cause] in line
    assert sum(f"/{camera}/image_raw" in text for text in node.lines[lines:]) == 1


def test_a_zero_stamp_is_named(node, cameras):
    rgb, _ir = cameras.pair(0)
    cameras.peer.send(rgb, None)
    node.wait_for_line(r"\[WARN\].*rgb frame dropped \(zero_stamp\).*rgb is /rgb/image_raw")
    assert cameras.drops()["zero_stamp"] == 1


def test_a_stamp_that_goes_backwards_is_named(node, cameras):
    newest = cameras.good_pair()
    _rgb, ir = cameras.pair(to_ns(newest.header.stamp) - 20_000_000)
    cameras.peer.send(None, ir)
    node.wait_for_line(r"\[WARN\].*ir frame dropped \(backward_stamp\).*ir is /ir/image_raw")
    assert cameras.drops()["backward_stamp"] == 1


def test_a_clock_that_jumps_back_restarts_the_pairing(node, cameras):
    """As with a repeated bag; from here on stamps stay in the past, until the clock jumps ahead."""
    stamp = cameras.good_pair().header.stamp
    past = to_ns(stamp) - 3_600_000_000_000
    cameras.peer.send(*cameras.pair(past))
    wait_until(lambda: cameras.answered(past), "the answer to the first pair after the jump")
    node.wait_for_line(r"\[WARN\].*time jumped backwards 3600")
    node.wait_for_line(r"\[WARN\].*stamps of /rgb/image_raw are 3[56]\d\d\.\d s behind this node's clock.*use_sim_time")
    cameras.good_pair()


def test_an_exception_in_inference_costs_one_frame(node, cameras):
    stamp = cameras.tick()
    rgb, ir = cameras.pair(stamp)
    pixels = np.frombuffer(rgb.data, np.uint8).reshape(*SIZE[::-1], 3).copy()
    pixels[:8, :8] = (0, 255, 0)  # what makes the graph fail
    cameras.peer.send(image(pixels, "rgb8", stamp, "rgb_optical"), ir)
    line = node.wait_for_line(r"\[ERROR\].*inference failed, dropped one capture")
    assert "Gather" in line
    node.wait_for_line(r"^Traceback")
    assert cameras.drops()["inference_failed"] == 1
    assert cameras.answered(stamp) is None


def test_cameras_of_different_shape_are_named(node, cameras):
    stamp = cameras.tick()
    rgb, _ir = cameras.pair(stamp)
    cameras.peer.send(rgb, image(ir_pixels((160, 60), None), "mono16", stamp, "ir_optical"))
    node.wait_for_line(r"\[WARN\].*/ir/image_raw has 160x60 pixels and /rgb/image_raw 160x120: their shapes differ")
    wait_until(lambda: cameras.answered(stamp), "the answer, given all the same")


@pytest.mark.slow  # a node; the damaged message above covers reports
def test_a_publisher_that_can_not_match_is_named(node, cameras):
    """The node requests a depth and best effort only, so this needs an override."""
    topic = "/rgb/image_raw"
    with running(
        "-r", "__ns:=/strict", "-r", "rgb/image_raw:=/strict_rgb", model=cameras_model(node), device="cpu",
        **{"qos_overrides./strict_rgb.subscription.reliability": "reliable"},
    ) as strict:  # fmt: skip
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
        publisher = cameras.peer.node.create_publisher(Image, "/strict_rgb", qos)
        strict.wait_for_line(r"\[WARN\].*a publisher of /strict_rgb offers incompatible QoS \(RELIABILITY\)")
        cameras.peer.node.destroy_publisher(publisher)
    assert topic  # the first node goes on
    cameras.good_pair()


def cameras_model(node) -> str:
    return next(word.split(":=", 1)[1] for word in node.words if word.startswith("model:="))


@pytest.mark.slow  # a node; tests/core/streams covers the decision
def test_a_thermal_depth_that_the_model_was_not_trained_on_is_refused(tmp_path, peer):
    model = make_blob_model(tmp_path / "eight_bit.onnx", thermal=thermal_of_depth(8))
    with running("-r", "__ns:=/eight", model=model, device="cpu", fallback_mode="fused_only") as node:
        rgb_out, ir_out = (peer.node.create_publisher(Image, f"/eight/{key}/image_raw", 5) for key in ("rgb", "ir"))
        reports = peer.collect(FrameReport, "/eight/detector_node/frame_report")
        wait_until(lambda: rgb_out.get_subscription_count() and ir_out.get_subscription_count(), "subscriptions")

        def sent(dtype) -> bool:
            stamp = peer.now()
            rgb_out.publish(image(rgb_pixels(SIZE, RED), "rgb8", stamp, "rgb"))
            encoding = "mono8" if dtype is np.uint8 else "mono16"
            ir_out.publish(image(ir_pixels(SIZE, HOT, dtype), encoding, stamp, "ir"))
            time.sleep(0.05)
            return True

        wait_until(lambda: sent(np.uint16) and node.count("8-bit infrared frames"), "a refusal of 16-bit frames")
        assert node.count(r"\[ERROR\].*dropped a frame of /eight/ir/image_raw.*8-bit infrared frames.*16-bit") == 1
        assert reports == []
        wait_until(lambda: sent(np.uint8) and reports, "an answer to 8-bit frames")


def thermal_of_depth(bits: int):
    from spectradino_core.thermal import ThermalContract

    return ThermalContract(depths=(bits,))


@pytest.mark.slow
def test_frames_that_never_meet_are_explained(tmp_path, blob_model, peer):
    with running(
        "-r", "__ns:=/apart", model=blob_model, device="cpu", fallback_mode="fused_only", sync_slop_ms=50.0
    ) as node:
        rgb_out, ir_out = (peer.node.create_publisher(Image, f"/apart/{key}/image_raw", 5) for key in ("rgb", "ir"))
        wait_until(lambda: rgb_out.get_subscription_count() and ir_out.get_subscription_count(), "subscriptions")
        start = peer.now()
        for index in range(400):
            stamp = start + index * 400_000_000
            rgb_out.publish(image(rgb_pixels(SIZE, None), "rgb8", stamp, "rgb"))
            ir_out.publish(image(ir_pixels(SIZE, None), "mono16", stamp + 180_000_000, "ir"))
            time.sleep(0.02)
            if node.count("no pair"):
                break
        node.wait_for_line(r"\[WARN\].*no pair.*\+180.0 ms.*sync_slop_ms is 50.*ir_time_offset_ms.*/apart/ir/image_raw")


@pytest.mark.slow
@pytest.mark.parametrize(("here", "gone"), [("rgb", "ir"), ("ir", "rgb")])
def test_a_missing_camera_is_named_and_the_other_is_used_alone(blob_model, peer, here, gone):
    with running(
        "-r", f"__ns:=/lone_{here}", model=blob_model, device="cpu", no_message_timeout_s=1.0, stale_ms=500.0
    ) as node:
        publishers = {here: peer.node.create_publisher(Image, f"/lone_{here}/{here}/image_raw", 5)}
        reports = peer.collect(FrameReport, f"/lone_{here}/detector_node/frame_report")
        detections = peer.collect(Detection2DArray, f"/lone_{here}/detector_node/detections")
        overlays = peer.collect(Image, f"/lone_{here}/detector_node/segmentation/overlay")

        def send() -> None:
            stamp = peer.now()
            for key, publisher in publishers.items():
                if key == "rgb":
                    publisher.publish(image(rgb_pixels(SIZE, RED), "rgb8", stamp, "rgb_optical"))
                else:
                    publisher.publish(image(ir_pixels(SIZE, HOT), "mono16", stamp, "ir_optical"))
            time.sleep(0.05)

        def alone() -> bool:
            send()
            return bool(reports and detections and overlays)

        wait_until(alone, f"an answer from {here} alone")
        assert reports[0].mode == {"rgb": FrameReport.MODE_RGB_ONLY, "ir": FrameReport.MODE_IR_ONLY}[here]
        assert reports[0].header.frame_id == detections[0].header.frame_id == f"{here}_optical"
        assert to_ns(getattr(reports[0], f"{here}_stamp")) == to_ns(reports[0].header.stamp)
        assert to_ns(getattr(reports[0], f"{gone}_stamp")) == 0
        assert np.isnan(reports[0].ir_offset_ms)
        (detection,) = detections[0].detections
        assert detection.results[0].hypothesis.class_id == {"rgb": "0", "ir": "1"}[here]
        np.testing.assert_allclose(corners(detection), {"rgb": RED, "ir": HOT}[here], atol=1.05)
        assert (overlays[0].width, overlays[0].height) == SIZE

        def named() -> bool:
            send()
            silent = rf"\[WARN\].*no message on /lone_{here}/{gone}/image_raw for \d+ s.*no publisher.*{gone}_topic"
            return bool(node.count(silent) and node.count(rf"mode .* -> {here}_only: {gone} has sent nothing"))

        wait_until(named, "the silent camera's name in the log")
        publishers[gone] = peer.node.create_publisher(Image, f"/lone_{here}/{gone}/image_raw", 5)

        def fused() -> bool:
            send()
            return reports[-1].mode == FrameReport.MODE_FUSED and node.count(r"\[INFO\].*mode \w+ -> fused") > 0

        wait_until(fused, "fused answers once the camera is there")


@pytest.mark.slow
def test_cameras_that_come_late_are_fused_from_the_first_pair_on(blob_model, peer):
    """Until both count as alive again, no frame that has a partner is used alone."""
    with running("-r", "__ns:=/late", model=blob_model, device="cpu", stale_ms=500.0) as node:
        rgb_out, ir_out = (peer.node.create_publisher(Image, f"/late/{key}/image_raw", 5) for key in ("rgb", "ir"))
        reports = peer.collect(FrameReport, "/late/detector_node/frame_report")
        wait_until(lambda: rgb_out.get_subscription_count() and ir_out.get_subscription_count(), "subscriptions")
        node.wait_for_line(r"\[INFO\].*mode fused -> stale: rgb has sent nothing")
        for _ in range(10):
            stamp = peer.now()
            rgb_out.publish(image(rgb_pixels(SIZE, RED), "rgb8", stamp, "rgb"))
            ir_out.publish(image(ir_pixels(SIZE, HOT), "mono16", stamp, "ir"))
            time.sleep(0.1)
        wait_until(lambda: reports and to_ns(reports[-1].header.stamp) == stamp, "the answer to the last pair")
        assert {r.mode for r in reports} == {FrameReport.MODE_FUSED}
        # Counted since activation, so for the first pairs too; a machine that halts for a while may overload the node.
        assert {drop.cause for drop in reports[-1].drops} <= {"overload"}


@pytest.mark.slow
def test_a_slow_model_processes_the_newest_pair_and_counts_the_rest(tmp_path, peer):
    model = make_blob_model(tmp_path / "slow.onnx", work=12)
    with running("-r", "__ns:=/slow", model=model, device="cpu", threads=1) as node:
        rgb_out, ir_out = (peer.node.create_publisher(Image, f"/slow/{key}/image_raw", 5) for key in ("rgb", "ir"))
        reports = peer.collect(FrameReport, "/slow/detector_node/frame_report")
        wait_until(lambda: rgb_out.get_subscription_count() and ir_out.get_subscription_count(), "subscriptions")
        rgb, ir = rgb_pixels(SIZE, RED), ir_pixels(SIZE, HOT)
        last = 0
        for _ in range(100):
            last = peer.now()
            rgb_out.publish(image(rgb, "rgb8", last, "rgb"))
            ir_out.publish(image(ir, "mono16", last, "ir"))
            time.sleep(0.02)
        report = wait_until(
            lambda: next((r for r in list(reports) if to_ns(r.header.stamp) == last), None), "the newest pair's answer"
        )
        drops = {drop.cause: drop.count for drop in report.drops}
        assert drops["overload"] > 0
        # A starved machine may also lose frames in the subscription's queue of two, which nobody can count.
        assert 50 < drops["overload"] + len(reports) <= 100
        assert [to_ns(r.header.stamp) for r in reports] == sorted(to_ns(r.header.stamp) for r in reports)
        node.wait_for_line(r"\[WARN\].*dropped a frame because a newer one arrived while the model was busy: lower")
