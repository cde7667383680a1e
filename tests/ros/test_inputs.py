"""Kinds of cameras: compressed, reliable or not, on simulated time, in namespaces, not subscribed to for a while."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from spectradino_msgs.msg import FrameReport
from vision_msgs.msg import Detection2DArray

from tests.ros.harness import (
    BEST_EFFORT,
    RELIABLE,
    ROOT,
    corners,
    image,
    ir_pixels,
    rgb_pixels,
    running,
    to_ns,
    to_stamp,
)
from tests.ros.harness import wait_until as wait

# slow: a node for each; tests/core/streams covers decoding and pairing, test_answers the encodings.
pytestmark = pytest.mark.slow

SIZE = (160, 120)
RED, HOT = (20, 20, 60, 50), (80, 60, 120, 100)
RGB, IR = rgb_pixels(SIZE, RED), ir_pixels(SIZE, HOT)

Make = Callable[[int], object]
"""A stamp to a message."""


def raw_rgb(stamp: int) -> Image:
    return image(RGB, "rgb8", stamp, "rgb_optical")


def raw_ir(stamp: int) -> Image:
    return image(IR, "mono16", stamp, "ir_optical")


def compressed(pixels: np.ndarray, kind: str, text: str) -> Callable[[int], CompressedImage]:
    """Make messages like image_transport's plugin from an RGB or grey image; `kind` is a file's ending."""
    good, data = cv2.imencode(f".{kind}", pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    assert good

    def make(stamp: int) -> CompressedImage:
        message = CompressedImage(format=text)
        message.header.stamp, message.header.frame_id = (
            to_stamp(stamp),
            f"{'rgb' if pixels.ndim == 3 else 'ir'}_optical",
        )
        message.data.frombytes(data.tobytes())
        return message

    return make


JPEG_RGB = compressed(RGB, "jpg", "rgb8; jpeg compressed bgr8")
PNG_IR = compressed(IR, "png", "mono16; png compressed")


class Rig:
    """Two cameras, and a subscriber to the reports and detections of the node in a namespace."""

    def __init__(self, peer, namespace: str, listens: bool = True) -> None:
        self.peer, self.name = peer, f"{namespace}/detector_node"
        self._namespace = namespace
        self.reports = peer.collect(FrameReport, f"{self.name}/frame_report") if listens else []
        self.detections = peer.collect(Detection2DArray, f"{self.name}/detections") if listens else []
        self.cameras: dict[str, tuple] = {}

    def camera(self, key: str, make: Make, topic: str = "", qos: QoSProfile = BEST_EFFORT) -> None:
        suffix = "/compressed" if isinstance(make(0), CompressedImage) else ""
        topic = (topic or f"{self._namespace}/{key}/image_raw") + suffix
        self.cameras[key] = (self.peer.node.create_publisher(type(make(0)), topic, qos), make)

    def wait_for_subscriptions(self) -> None:
        wait(lambda: all(p.get_subscription_count() for p, _ in self.cameras.values()), f"subscriptions of {self.name}")

    def send(self, stamp: int | None = None, **others: Make) -> int:
        stamp = self.peer.now() if stamp is None else stamp
        for key, (publisher, make) in self.cameras.items():
            publisher.publish(others.get(key, make)(stamp))
        time.sleep(0.05)
        return stamp

    def answered(self, stamp: int) -> FrameReport | None:
        return next((r for r in list(self.reports) if to_ns(r.header.stamp) == stamp), None)

    def answers(self) -> bool:
        """Send a pair; returns whether one had a result."""
        self.send()
        return bool(self.reports and self.detections)

    def drops(self) -> dict[str, int]:
        """Return the drops reported with the result of a pair sent now."""
        stamp = self.send()
        return {d.cause: d.count for d in wait(lambda: self.answered(stamp), "an answer").drops}

    def check_boxes(self, tolerance: float = 1.05) -> None:
        found = {d.results[0].hypothesis.class_id: corners(d) for d in self.detections[-1].detections}
        np.testing.assert_allclose(found["0"], RED, atol=tolerance)
        np.testing.assert_allclose(found["1"], HOT, atol=tolerance)


@pytest.mark.parametrize(
    ("rgb", "ir"),
    [
        (JPEG_RGB, PNG_IR),
        (compressed(RGB, "png", "rgb8; png compressed bgr8"), compressed(IR, "tiff", "mono16; tiff compressed")),
        (JPEG_RGB, raw_ir),
        (raw_rgb, PNG_IR),
    ],
    ids=["jpeg+png", "png+tiff", "jpeg+raw", "raw+png"],
)
def test_compressed_images_of_either_camera(blob_model, peer, rgb, ir):
    transports = {
        f"{key}_transport": "compressed" if isinstance(make(0), CompressedImage) else "raw"
        for key, make in (("rgb", rgb), ("ir", ir))
    }
    # The image is what is remapped, as with image_transport: `compressed` lies below the camera's own topic.
    remaps = ("-r", "__ns:=/packed", "-r", "rgb/image_raw:=/cam/color", "-r", "ir/image_raw:=/cam/thermal")
    with running(
        *remaps, model=blob_model, device="cpu", fallback_mode="fused_only", pairing="one_to_one", **transports
    ) as node:
        rig = Rig(peer, "/packed")
        rig.camera("rgb", rgb, "/cam/color")
        rig.camera("ir", ir, "/cam/thermal")
        rig.wait_for_subscriptions()
        wait(rig.answers, "an answer")
        rig.check_boxes(4.05)  # JPEG blurs the edges of colours by up to 4 pixels
        assert node.count(r"\[(WARN|ERROR)\]") == 0, node.log


def test_compressed_images_that_can_not_be_used_are_named_with_the_remedy(blob_model, peer):
    both = {"rgb_transport": "compressed", "ir_transport": "compressed"}
    with running("-r", "__ns:=/spoilt", model=blob_model, device="cpu", fallback_mode="fused_only", **both) as node:
        rig = Rig(peer, "/spoilt")
        rig.camera("rgb", JPEG_RGB)
        rig.camera("ir", PNG_IR)
        rig.wait_for_subscriptions()
        wait(rig.answers, "an answer")
        rig.send(ir=compressed(IR.astype(np.uint8), "jpg", "mono16; jpeg compressed mono8"))
        line = node.wait_for_line(r"\[WARN\].*dropped a frame of /spoilt/ir/image_raw/compressed")
        assert "sent as JPEG, which keeps 8 bits: set the publisher's compressed format to png" in line
        assert rig.drops()["ir_lossy_16bit"] == 1

        def cut(stamp: int) -> CompressedImage:
            message = JPEG_RGB(stamp)
            del message.data[-100:]
            return message

        def hollow(stamp: int) -> CompressedImage:
            message = JPEG_RGB(stamp)
            del message.data[400:-2]  # its head and its end are good: this shows only on unpacking
            return message

        for spoilt in (cut, hollow):
            before = rig.drops().get("rgb_corrupt_data", 0)
            stamp = rig.send(rgb=spoilt)
            wait(lambda before=before: rig.drops().get("rgb_corrupt_data", 0) == before + 1, "a drop that is counted")
            assert rig.answered(stamp) is None
        assert (
            node.count(r"\[WARN\].*dropped a frame of /spoilt/rgb/image_raw/compressed: the jpeg image.*damaged") == 1
        )
        assert node.count("Traceback") == 0


def test_the_other_transport_is_pointed_to(blob_model, peer):
    with running(
        "-r", "__ns:=/other", model=blob_model, device="cpu", no_message_timeout_s=0.5, warning_period_s=0.5
    ) as node:
        rig = Rig(peer, "/other")
        rig.camera("rgb", JPEG_RGB)
        node.wait_for_line(
            r"\[WARN\].*no message on /other/rgb/image_raw for \d+ s, but /other/rgb/image_raw/compressed "
            "has a publisher: set the parameter rgb_transport to compressed"
        )
        node.wait_for_line(r"\[WARN\].*no message on /other/ir/image_raw for \d+ s.*no publisher: .*ir_topic")


def test_a_publisher_of_another_type_is_named(blob_model, peer):
    with running(
        "-r", "__ns:=/typed", model=blob_model, device="cpu", no_message_timeout_s=0.5, warning_period_s=0.5
    ) as node:
        publisher = peer.node.create_publisher(CompressedImage, "/typed/ir/image_raw", 5)
        node.wait_for_line(
            r"\[WARN\].*no message on /typed/ir/image_raw for \d+ s.*publisher sends "
            "sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image: set the parameter ir_transport"
        )
        peer.node.destroy_publisher(publisher)


def test_frames_that_go_missing_under_the_defaults_of_dds_are_counted_with_the_remedy(blob_model, peer, monkeypatch):
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE")
    name = "rgb/image_raw:=/large_images"
    with running("-r", "__ns:=/lossy", "-r", name, model=blob_model, device="cpu") as node:
        arrays = peer.collect(DiagnosticArray, "/diagnostics")
        sender = [sys.executable, "tests/packaging/image_stream.py", "send", "90"]
        subprocess.run(sender, cwd=ROOT, check=True, timeout=60)
        line = node.wait_for_line(r"\[WARN\].*message\(s\) on /large_images were lost in transport")
        profile = ROOT / "config/fastdds_large_images.xml"
        assert f"start the camera driver with 'export FASTRTPS_DEFAULT_PROFILES_FILE={profile}'" in line

        def lost() -> int:
            statuses = [s for a in list(arrays) for s in a.status if s.hardware_id == "/lossy/detector_node"]
            values = {v.key: v.value for s in statuses[-1:] for v in s.values}
            return int(values.get("dropped: rgb_lost_in_transport", 0))

        wait(lambda: 0 < lost() < 90, "lost messages in diagnostics")


def test_reliable_and_best_effort_cameras_are_both_served_and_a_user_may_ask_for_more(blob_model, peer):
    override = {"qos_overrides./served/rgb/image_raw.subscription.reliability": "reliable"}
    with running("-r", "__ns:=/served", model=blob_model, device="cpu", fallback_mode="fused_only", **override):
        rig = Rig(peer, "/served")
        rig.camera("rgb", raw_rgb, qos=RELIABLE)
        rig.camera("ir", raw_ir, qos=BEST_EFFORT)
        rig.wait_for_subscriptions()
        wait(rig.answers, "an answer")
        rig.check_boxes()
        reliability = {
            key: peer.node.get_subscriptions_info_by_topic(f"/served/{key}/image_raw")[0].qos_profile.reliability
            for key in ("rgb", "ir")
        }
        assert reliability == {"rgb": ReliabilityPolicy.RELIABLE, "ir": ReliabilityPolicy.BEST_EFFORT}
    with running("-r", "__ns:=/served", model=blob_model, device="cpu", fallback_mode="fused_only"):
        rig.wait_for_subscriptions()
        rig.reports.clear()
        rig.detections.clear()
        wait(rig.answers, "an answer of a node that asks for nothing")


def test_cameras_are_subscribed_to_only_while_somebody_listens(blob_model, peer):
    with running(
        "-r", "__ns:=/lazy", model=blob_model, device="cpu", lazy_subscription=True, no_message_timeout_s=0.5
    ) as node:
        assert node.count(r"active: pairs from .*, once an output topic has a subscriber \(lazy_subscription\)")
        rig = Rig(peer, "/lazy", listens=False)
        rig.camera("rgb", raw_rgb)
        rig.camera("ir", raw_ir)
        diagnostics = peer.collect(DiagnosticArray, "/diagnostics")

        def idle() -> bool:
            statuses = [s for a in list(diagnostics) for s in a.status if s.hardware_id == rig.name]
            return bool(statuses) and statuses[-1].message == "active, nobody listens"

        def subscribed() -> int:
            return peer.node.count_subscribers("/lazy/rgb/image_raw")

        wait(idle, "diagnostics that say why nothing is done")
        assert not subscribed()
        answered = 0
        for _ in range(2):
            reports: list[FrameReport] = []
            listener = peer.node.create_subscription(FrameReport, f"{rig.name}/frame_report", reports.append, RELIABLE)
            rig.wait_for_subscriptions()
            wait(lambda rig=rig, reports=reports: rig.send() and reports, "an answer for the listener")
            peer.node.destroy_subscription(listener)
            wait(lambda: not subscribed(), "the end of the subscriptions")
            wait(idle, "idle diagnostics")
            answered += len(reports)
        time.sleep(0.7)  # longer than no_message_timeout_s
        assert node.count("no message on") == 0
        assert node.count("silent for") == 0
        assert answered >= 2


def test_latency_is_measured_in_simulated_time(blob_model, peer):
    clock = peer.node.create_publisher(Clock, "/clock", 10)
    with running(
        "-r", "__ns:=/sim", "-p", "use_sim_time:=true", model=blob_model, device="cpu", no_message_timeout_s=1.0
    ) as node:
        node.wait_for_line(r"\[WARN\].*no message on /sim/rgb/image_raw")  # though simulated time stands still
        rig = Rig(peer, "/sim")
        rig.camera("rgb", raw_rgb)
        rig.camera("ir", raw_ir)
        rig.wait_for_subscriptions()
        wait(clock.get_subscription_count, "a subscription to /clock")
        ticks = itertools.count(1_000_000_000_000, 50_000_000)

        def answered() -> bool:
            now = next(ticks)
            clock.publish(Clock(clock=to_stamp(now)))
            time.sleep(0.02)
            rig.send(now - 30_000_000)
            return bool(rig.reports)

        wait(answered, "an answer")
        for _ in range(5):
            answered()
        latencies = [r.latency_ms for r in rig.reports[1:]]
        # The clock stands at 30 ms after the stamp, or is a tick or two further by the time of the answer.
        assert all(latency == pytest.approx(30 + 50 * round((latency - 30) / 50), abs=0.1) for latency in latencies)
        assert min(latencies) == pytest.approx(30.0, abs=0.1)
        assert node.count("this node's clock") == 0


def test_two_nodes_in_two_namespaces_keep_to_their_own(blob_model, peer):
    options = {"model": blob_model, "device": "cpu"}
    with running("-r", "__ns:=/front", **options) as front, running("-r", "__ns:=/rear", **options) as rear:
        rigs = [Rig(peer, namespace) for namespace in ("/front", "/rear")]
        for rig in rigs:
            rig.camera("rgb", raw_rgb)
            rig.camera("ir", raw_ir)
            rig.wait_for_subscriptions()
        start = peer.now()
        for index in range(8):
            for which, rig in enumerate(rigs):
                rig.send(start + index * 100_000_000 + which * 1_000_000)
        wait(lambda: all(rig.reports for rig in rigs), "answers of both")
        for which, rig in enumerate(rigs):
            assert {(to_ns(r.header.stamp) - start) % 100_000_000 for r in rig.reports} == {which * 1_000_000}
        for node, namespace in ((front, "front"), (rear, "rear")):
            assert all(f"[{namespace}.detector_node]" in line for line in node.lines if "[INFO]" in line)
        names = {rig.name for rig in rigs}
        arrays = peer.collect(DiagnosticArray, "/diagnostics")
        wait(lambda: names <= {s.hardware_id for a in list(arrays) for s in a.status}, "diagnostics of both")
