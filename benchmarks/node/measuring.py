"""Overhead and endurance of the node, measured with two simulated cameras over DDS.

Overhead is the node's time without the network: from the callback that completes a pair to the last message published.
The node's frame report has the time of each step; the middleware's source timestamp of that report, the last message,
is the time when it left the node. So

    overhead = pairing + queue + preprocess + postprocess + (report left - (stamp + latency)),

where `pairing` begins with the callback of the RGB frame, the later one, and `latency` is the time from its stamp to
the moment before the first publication. Clocks are the same for both: it is one machine. The engine's time is in none
of these. Detections, mask and report have a subscriber; the overlay has none, so it is not drawn.

Endurance is more pairs than the model can process, for a long time: latency and memory must not grow.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport
from vision_msgs.msg import Detection2DArray

from tests.ros.harness import RELIABLE, Peer, image, running, to_ns, to_stamp, wait_until

OVERHEAD = "overhead"
PERCENTS = (50, 95, 99)
_LEAD_S = 0.005
_WARM_UP_S = 3.0
_BLOCKS = 20
_NORMAL = 1.96  # two-sided 95 %
_FRAMES = 12
"""Different frames, sent in turn: one that repeats would count as a frozen camera."""


class Cameras:
    """Two simulated cameras: noise that never repeats with a red and a hot object, sent at a steady rate.

    Pairs are RGB and mono16, both of `size` (width, height). The infrared frame is sent first, so the RGB frame
    completes the pair."""

    def __init__(self, peer: Peer, size: tuple[int, int]) -> None:
        self._peer = peer
        noise, (width, height) = np.random.default_rng(0), size
        self._pairs: list[tuple[Image, Image]] = []
        for index in range(_FRAMES):
            rgb = noise.integers(60, 120, (height, width, 3)).astype(np.uint8)
            counts = noise.integers(20_000, 23_000, (height, width)).astype(np.uint16)
            left, top = width // 8 + 4 * index, height // 8
            rgb[top : top + height // 6, left : left + width // 10] = (250, 10, 10)
            # Hot, and as noisy as all of a sensor's pixels: a constant would be examined as invalid.
            counts[2 * top : 4 * top, left : left + width // 10] += 18_000
            self._pairs.append((image(rgb, "rgb8", 0, "rgb_optical"), image(counts, "mono16", 0, "ir_optical")))
        self.sent = 0

    def send(self, lead_s: float = 0.0) -> int:
        """Send the next pair, the infrared frame `lead_s` seconds before the other; returns the RGB stamp in ns."""
        rgb, ir = self._pairs[self.sent % _FRAMES]
        self.sent += 1
        ir.header.stamp = to_stamp(self._peer.now())
        self._peer.send(None, ir)
        if lead_s:
            time.sleep(lead_s)
        stamp_ns = self._peer.now()
        rgb.header.stamp = to_stamp(stamp_ns)
        self._peer.send(rgb, None)
        return stamp_ns

    def stream(
        self, rate_hz: float, seconds: float, lead_s: float = 0.0, each: Callable[[float], None] | None = None
    ) -> int:
        """Send pairs at `rate_hz` and return the last RGB stamp in ns; if this process falls behind, pairs are skipped.

        `each` is called before each pair with the seconds since the start; `lead_s` as in `send`.
        """
        start, number, stamp_ns = time.monotonic(), 0, 0
        while (since := time.monotonic() - start) < seconds:
            if each is not None:
                each(since)
            stamp_ns = self.send(lead_s)
            number = max(number + 1, int((time.monotonic() - start) * rate_hz))
            time.sleep(max(0.0, start + number / rate_hz - time.monotonic()))
        return stamp_ns


@contextmanager
def _measured(
    model: Path, size: tuple[int, int], on_report: Callable[..., None], **parameters: Any
) -> Iterator[tuple[Any, Peer, Cameras]]:
    """Run the node with one engine thread: the node, a peer that gets its frame reports, and the cameras."""
    peer = Peer("benchmark")
    try:
        with running(
            model=model, device="cpu", threads=1, fallback_mode="fused_only", frozen_ms=400.0, **parameters
        ) as node:
            peer.node.create_subscription(FrameReport, "/detector_node/frame_report", on_report, RELIABLE)
            peer.wait_for_node()
            yield node, peer, Cameras(peer, size)
    finally:
        peer.close()


def measure_overhead(
    model: Path,
    size: tuple[int, int],
    rate_hz: float,
    seconds: float,
    memory_mb: list[float] | None = None,
) -> list[dict[str, float]]:
    """Measure milliseconds by step, overhead and totals of each pair with a result.

    Args:
        model: a model file.
        size: (width, height) of both images.
        rate_hz: pairs per second.
        seconds: duration of the measurement, after a warm-up.
        memory_mb: receives the node's resident memory at each pair sent in the measurement.
    """
    rows: list[dict[str, float]] = []
    newest_ns = [0]
    measuring = threading.Event()

    def on_report(report: FrameReport, info: dict) -> None:
        if measuring.is_set():
            rows.append(_row(report, info["source_timestamp"]))
            newest_ns[0] = to_ns(report.header.stamp)

    with _measured(model, size, on_report) as (node, peer, cameras):
        peer.collect(Detection2DArray, "/detector_node/detections")
        peer.node.create_subscription(Image, "/detector_node/segmentation/mask", lambda _: None, RELIABLE)
        cameras.stream(rate_hz, _WARM_UP_S, _LEAD_S)
        measuring.set()
        resident = [] if memory_mb is None else memory_mb
        last_ns = cameras.stream(rate_hz, seconds, _LEAD_S, lambda _: resident.append(node.rss_mb()))

        def answered() -> bool:
            if newest_ns[0] >= last_ns:
                return True
            cameras.send(_LEAD_S)  # best effort: even the last pair may be lost
            time.sleep(0.2)
            return False

        wait_until(answered, "the answer to the last pair or to one after it")
    return rows


def _row(report: FrameReport, published_ns: int) -> dict[str, float]:
    steps = {step.name: step.milliseconds for step in report.steps}
    since_stamp_ms = (published_ns - to_ns(report.header.stamp)) / 1e6
    publishing = since_stamp_ms - report.latency_ms
    inside = ("pairing", "queue", "preprocess", "postprocess")
    return {
        **{name: steps[name] for name in ("decode", *inside, "engine")},
        "publishing": publishing,
        OVERHEAD: sum(steps[name] for name in inside) + publishing,
        "stamp to last publish": since_stamp_ms,
    }


def percentiles(rows: Sequence[dict[str, float]]) -> dict[str, tuple[float, ...]]:
    """Return `PERCENTS` of each column."""
    return {name: tuple(np.percentile([row[name] for row in rows], PERCENTS)) for name in rows[0]}


@dataclass(frozen=True)
class Slope:
    """A straight line through a series.

    Attributes:
        per_minute: its slope.
        low, high: the slope's 95 % confidence interval.
    """

    per_minute: float
    low: float
    high: float

    def grows(self, noise: float = 0.0) -> bool:
        """Return whether the whole interval lies above `noise` per minute."""
        return self.low > noise

    def __str__(self) -> str:
        return f"{self.per_minute:+.3f} ({self.low:+.3f} to {self.high:+.3f}) a minute"


def slope(minutes: Sequence[float], values: Sequence[float]) -> Slope:
    """Return the median of the slopes between all pairs of points (Theil and Sen), with Sen's interval by rank.

    A single step, for example if the machine pauses and the allocator reaches a new peak, is no slope, but least
    squares would find one; a slow leak is one. Points are means of blocks: neighbouring samples depend on each other,
    blocks hardly do.

    Raises:
        ValueError: fewer than three samples.
    """
    if len(values) < 3:
        raise ValueError(f"a slope needs three samples or more, got {len(values)}")
    blocks = min(_BLOCKS, len(values))
    x = np.array([block.mean() for block in np.array_split(np.asarray(minutes, float), blocks)])
    y = np.array([block.mean() for block in np.array_split(np.asarray(values, float), blocks)])
    first, second = np.triu_indices(blocks, 1)
    slopes = np.sort((y[second] - y[first]) / (x[second] - x[first]))
    # Under "no slope" Kendall's statistic is about normal with this deviation; its quantiles are ranks of slopes.
    margin = _NORMAL * math.sqrt(blocks * (blocks - 1) * (2 * blocks + 5) / 18)
    low = max(0, math.floor((len(slopes) - margin) / 2) - 1)
    high = min(len(slopes) - 1, math.ceil((len(slopes) + margin) / 2))
    return Slope(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def soak(
    model: Path, size: tuple[int, int], rate_hz: float, minutes: float, progress: Callable[[str], None]
) -> tuple[list[dict[str, float]], dict[str, int]]:
    """Return a row per second (results, their latency, the node's memory, drops so far), and all drops by cause.

    Args:
        model: file of a slow model.
        size: (width, height) of both images.
        rate_hz: pairs sent per second.
        minutes: duration.
        progress: called each second with a short description.
    """
    rows: list[dict[str, float]] = []
    latencies: list[float] = []
    drops: dict[str, int] = {}
    lock = threading.Lock()

    def on_report(report: FrameReport) -> None:
        with lock:
            latencies.append(report.latency_ms)
            drops.update({drop.cause: drop.count for drop in report.drops})

    with _measured(model, size, on_report, warning_period_s=3600.0) as (node, _, cameras):

        def each(since: float) -> None:
            if since < len(rows) + 1:
                return
            with lock:
                answered, latencies[:] = list(latencies), []
                dropped = dict(drops)
            rows.append(
                {
                    "second": round(since, 2),
                    "sent": cameras.sent,
                    "answers": len(answered),
                    "latency_ms": float(np.median(answered)) if answered else math.nan,
                    "latency_max_ms": max(answered, default=math.nan),
                    "rss_mb": node.rss_mb(),
                    "overload": dropped.get("overload", 0),
                    "other_drops": sum(n for cause, n in dropped.items() if cause != "overload"),
                }
            )
            progress(f"{since / 60:.1f} of {minutes:g} min, {len(answered)} answers/s")

        cameras.stream(rate_hz, 60 * minutes + 1, each=each)
    return rows, drops
