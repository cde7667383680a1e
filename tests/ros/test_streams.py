"""Streams over time, over DDS: a camera that falls silent and comes back, and a repeated bag."""

from __future__ import annotations

import contextlib
import time
from itertools import groupby

import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport

from spectradino_core.streams.pairing import Pairer
from tests.ros.harness import image, ir_pixels, rgb_pixels, running, to_ns, wait_until

SIZE = (64, 48)
RED, HOT = (8, 8, 20, 20), (30, 20, 50, 40)
MS = 1_000_000


class Streams:
    """Two cameras in a namespace, and the reports of its node."""

    def __init__(self, peer, namespace: str) -> None:
        qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        self._out = {k: peer.node.create_publisher(Image, f"{namespace}/{k}/image_raw", qos) for k in ("rgb", "ir")}
        self.reports: list[FrameReport] = peer.collect(FrameReport, f"{namespace}/detector_node/frame_report")
        self._pixels = {"rgb": (rgb_pixels(SIZE, RED), "rgb8"), "ir": (ir_pixels(SIZE, HOT), "mono16")}

    def wait_for_node(self) -> None:
        wait_until(lambda: all(out.get_subscription_count() for out in self._out.values()), "subscriptions")

    def send(self, key: str, stamp_ns: int) -> None:
        pixels, encoding = self._pixels[key]
        self._out[key].publish(image(pixels, encoding, stamp_ns, f"{key}_optical"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stays", "stops", "alone"),
    [("rgb", "ir", FrameReport.MODE_RGB_ONLY), ("ir", "rgb", FrameReport.MODE_IR_ONLY)],
)
def test_when_a_camera_stops_the_other_is_used_within_one_timeout_until_it_is_back(
    blob_model, peer, stays, stops, alone
):
    stale_ms, period_s = 1000.0, 0.05
    with running("-r", f"__ns:=/{stops}_stops", model=blob_model, device="cpu", threads=1, stale_ms=stale_ms) as node:
        streams = Streams(peer, f"/{stops}_stops")
        streams.wait_for_node()

        def send_both() -> None:
            stamp = peer.now()
            for key in (stays, stops):
                streams.send(key, stamp)
            time.sleep(period_s)

        def fused() -> bool:
            send_both()
            return bool(streams.reports) and streams.reports[-1].mode == FrameReport.MODE_FUSED

        wait_until(fused, "fused answers")
        for _ in range(20):
            send_both()
        lines, stopped_ns = len(node.lines), peer.now()

        def answered_alone() -> FrameReport | None:
            streams.send(stays, peer.now())
            time.sleep(period_s)
            return next((r for r in list(streams.reports) if r.mode == alone), None)

        first = wait_until(answered_alone, f"an answer from {stays} alone")
        seen_ns = peer.now()
        assert to_ns(getattr(first, f"{stops}_stamp")) == 0
        assert to_ns(first.header.stamp) == to_ns(getattr(first, f"{stays}_stamp"))
        # Its frame was taken not before the other was silent for `stale_ms`, and answered within few frames of that.
        waited_ms = (seen_ns - stopped_ns) / MS
        assert stale_ms - 2 * period_s * 1e3 <= waited_ms <= stale_ms + 10 * period_s * 1e3
        silence = rf"\[WARN\].*mode fused -> {stays}_only: {stops} is silent for 1\d\d\d ms"
        node.wait_for_line(silence, after=lines)
        for _ in range(10):
            answered_alone()
        assert streams.reports[-1].mode == alone

        def back() -> bool:
            send_both()
            return node.count(rf"\[INFO\].*mode {stays}_only -> fused") > 0

        wait_until(back, f"the mode fused once {stops} is back")
        after = len(streams.reports)
        wait_until(lambda: fused() and len(streams.reports) >= after + 10, "more answers")
        modes = [r.mode for r in streams.reports]
        assert [mode for mode, _ in groupby(modes)][:2] == [FrameReport.MODE_FUSED, alone]
        assert set(modes[after + 2 :]) == {FrameReport.MODE_FUSED}
        assert sum("mode " in line and " -> " in line for line in node.lines[lines:]) == 2, "each change is said once"


def ragged_bag(seconds: float = 4.0) -> list[tuple[int, str]]:
    """Return (ns, camera) of a recording: RGB at 20 Hz begins first, infrared at 9 Hz ends last, with jitter."""
    noise = np.random.default_rng(3)
    rgb = np.arange(0, 1000 * seconds - 400, 50) + noise.uniform(-2, 2, int(20 * seconds - 8))
    ir = np.arange(330, 1000 * seconds, 1000 / 9)
    ir = ir + noise.uniform(-2, 2, len(ir))
    return sorted([(round(t * MS), "rgb") for t in rgb] + [(round(t * MS), "ir") for t in ir])


@pytest.mark.slow
def test_a_bag_played_three_times_with_ragged_ends_gives_equal_counts(blob_model, peer):
    bag, start_ns, loops = ragged_bag(), peer.now() - 3600 * 1000 * MS, 3
    pairer: Pairer[None] = Pairer(50.0)  # what the node should make of it
    reliable = {
        f"qos_overrides./loops/{key}/image_raw.subscription.{name}": value
        for key in ("rgb", "ir")
        for name, value in (("depth", 50), ("reliability", "reliable"))
    }
    with running(
        "-r", "__ns:=/loops", model=blob_model, device="cpu", threads=1, fallback_mode="fused_only",
        pairing="one_to_one", **reliable,
    ) as node:  # fmt: skip
        streams = Streams(peer, "/loops")
        streams.wait_for_node()
        counts, expected = [], []
        for _ in range(loops):
            before, made = len(streams.reports), pairer.pairs
            for at_ns, key in bag:
                streams.send(key, start_ns + at_ns)
                pairer.push(key, start_ns + at_ns, None)
                time.sleep(0.004)
                # In step with the node, so that none of its pairs is dropped because it is busy with the one before.
                with contextlib.suppress(AssertionError):
                    wait_until(lambda: len(streams.reports) >= pairer.pairs, "the pair so far", timeout_s=1.0)
            wait_until(lambda: len(streams.reports) >= pairer.pairs, "all pairs of this loop")
            counts.append(len(streams.reports) - before)
            expected.append(pairer.pairs - made)
        assert counts == expected
        assert counts[0] == counts[1] == counts[2]
        assert counts[0] >= 0.9 * sum(key == "ir" for _, key in bag if _ < 3600 * MS)
        stamps = [to_ns(r.header.stamp) for r in streams.reports]
        assert stamps[counts[0] :] == stamps[: -counts[0]], "each loop gives the same pairs"
        assert node.count(r"\[WARN\].*time jumped backwards") >= 1
        assert "overload" not in {drop.cause for drop in streams.reports[-1].drops}
