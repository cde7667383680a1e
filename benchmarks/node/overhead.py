"""What the node costs beside the network: from the callback that completes a pair to the last thing published.

The node tells in its frame report when each step ran; when the report itself, which is published last, left the node,
the middleware tells (the source timestamp of the message). So

    overhead = pairing + queue + preprocess + postprocess + (report left - (stamp + latency)),

where `pairing` begins with the callback of the RGB frame, the later one, and `latency` is the time from its stamp to
the moment before the first publication. Clocks are the same for both: it is one machine. The engine's time is in none
of these. Detections, mask and report have a listener; the overlay has none, so it is not drawn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport
from vision_msgs.msg import Detection2DArray

from benchmarks.node.cameras import Cameras
from tests.ros.harness import RELIABLE, Peer, running, to_ns, wait_until

__all__ = ["OVERHEAD", "PERCENTS", "measure_overhead", "percentiles"]

OVERHEAD = "overhead"
PERCENTS = (50, 95, 99)
_LEAD_S = 0.005
_WARM_UP_S = 3.0


def measure_overhead(
    model: Path,
    size: tuple[int, int],
    rate_hz: float,
    seconds: float,
    threads: int = 1,
    memory_mb: list[float] | None = None,
) -> list[dict[str, float]]:
    """Measure milliseconds by step, overhead and totals of each pair with a result.

    Args:
        model: a model file.
        size: (width, height) of both images.
        rate_hz: pairs per second.
        seconds: duration of the measurement, after a warm-up.
        threads: threads of the engine.
        memory_mb: receives the node's resident memory at each pair sent in the measurement.
    """
    rows: list[dict[str, float]] = []
    newest_ns = [0]
    measuring = threading.Event()

    def on_report(report: FrameReport, info: dict) -> None:
        if measuring.is_set():
            rows.append(_row(report, info["source_timestamp"]))
            newest_ns[0] = to_ns(report.header.stamp)

    peer = Peer("benchmark")
    try:
        with running(model=model, device="cpu", threads=threads, fallback_mode="fused_only", frozen_ms=400.0) as node:
            peer.node.create_subscription(FrameReport, "/detector_node/frame_report", on_report, RELIABLE)
            peer.collect(Detection2DArray, "/detector_node/detections")
            peer.node.create_subscription(Image, "/detector_node/segmentation/mask", lambda _: None, RELIABLE)
            peer.wait_for_node()
            cameras = Cameras(peer, size)
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
    finally:
        peer.close()
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
