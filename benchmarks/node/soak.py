"""Endurance: more pairs than the model can process, for a long time. Latency and memory must not grow; drops are
counted.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from spectradino_msgs.msg import FrameReport

from benchmarks.node.cameras import Cameras
from tests.ros.harness import RELIABLE, Peer, running

__all__ = ["Slope", "slope", "soak"]

_BLOCKS = 20
_NORMAL = 1.96  # two-sided 95 %


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

    peer = Peer("benchmark")
    try:
        with running(
            model=model, device="cpu", threads=1, fallback_mode="fused_only", frozen_ms=400.0, warning_period_s=3600.0
        ) as node:
            peer.node.create_subscription(FrameReport, "/detector_node/frame_report", on_report, RELIABLE)
            peer.wait_for_node()
            cameras = Cameras(peer, size)

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
    finally:
        peer.close()
    return rows, drops
