"""Figures of a replay: the contents of report.json and the summary on the terminal."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from spectradino_core import __version__
from spectradino_core.evaluation.scorer import Scores
from spectradino_core.evaluation.spread import rounded
from spectradino_core.runtime.perception_result import Mode
from spectradino_ros.demo.collector import Result, Sent

__all__ = ["Outcome", "replay_figures", "score_figures", "summary", "versions"]


@dataclass(frozen=True)
class Outcome:
    """A sent pair and its result, None if there was none."""

    sent: Sent
    id: str
    result: Result | None


def score_figures(scores: Scores) -> dict[str, Any]:
    """Return AP50 by class and mIoU, each with its number of pairs.

    Either is None if no pair has labels of the model's classes.
    """
    detection, segmentation = scores.detection, scores.segmentation
    result: dict[str, Any] = {"detection": None, "segmentation": None}
    if detection is not None and any(detection.instances.values()):
        result["detection"] = {
            "pairs": scores.images_with_boxes,
            "true_boxes": sum(detection.instances.values()),
            "AP50": detection.ap50,
            "mean_AP50": detection.map50,
        }
    if segmentation is not None and not math.isnan(segmentation.pixel_accuracy):
        result["segmentation"] = {
            "pairs": scores.images_with_masks,
            "IoU": segmentation.iou,
            "mIoU": segmentation.miou,
            "pixel_accuracy": segmentation.pixel_accuracy,
        }
    return rounded(result)


def replay_figures(outcomes: Sequence[Outcome], drops: Mapping[str, int], warm_ups: int) -> dict[str, Any]:
    """Return counts, modes, latencies [ms], step times and drops of a replay.

    Args:
        outcomes: all pairs sent after the warm-up.
        drops: number of frames dropped by the node, by cause, including the warm-up.
        warm_ups: number of pairs sent in the warm-up.
    """
    results = [o.result for o in outcomes if o.result is not None]
    reports = [r.report for r in results if r.report is not None]
    modes = Counter(result.perception_result((1, 1)).mode for result in results)
    steps: dict[str, list[float]] = {}
    for report in reports:
        for step in report.steps:
            steps.setdefault(step.name, []).append(step.milliseconds)
    received = [
        (o.result.received_ns - min(o.sent.rgb_ns, o.sent.ir_ns)) / 1e6 for o in outcomes if o.result is not None
    ]
    offsets = [r.ir_offset_ms for r in reports if not math.isnan(r.ir_offset_ms)]
    return rounded(
        {
            "pairs": {
                "warm_up": warm_ups,
                "sent": len(outcomes),
                "answered": len(results),
                "unanswered": [o.id for o in outcomes if o.result is None],
            },
            "modes": {mode.value: modes.get(mode, 0) for mode in Mode},
            # From the header stamp to publishing, as reported by the node.
            "latency_ms": _percentiles([r.latency_ms for r in reports]),
            # From the same stamp to the arrival of the detections in another process.
            "received_after_ms": _percentiles(received),
            "steps_ms_p50": {name: round(float(np.median(values)), 3) for name, values in steps.items()},
            "ir_offset_ms_p50": float(np.median(offsets)) if offsets else None,
            "drops": dict(drops),
        }
    )


def versions() -> dict[str, str]:
    """Return the versions of the software involved; packages without pip metadata are skipped."""
    found = {
        "spectradino": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    for distribution in ("onnxruntime", "onnxruntime-gpu", "rclpy", "ros-jazzy-rclpy", "ros-jazzy-rmw-fastrtps-cpp"):
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summary(report: Mapping[str, Any]) -> str:
    """Format the report as a few lines of text."""
    pairs, model, latency = report["pairs"], report["model"], report["latency_ms"]
    modes = ", ".join(f"{count} {name}" for name, count in report["modes"].items() if count)
    rate = _or_dash(report["rate_hz"], ".1f")
    lines = [
        f"{pairs['answered']} of {pairs['sent']} pairs with results ({modes or 'none'}) at {rate} pairs/s",
        f"  model      {model['name']} in {model['engine']}",
    ]
    if latency:
        lines.append(
            f"  latency    p50 {latency['p50']:.0f} ms, p95 {latency['p95']:.0f} ms, p99 {latency['p99']:.0f} ms, "
            "from the frame's stamp to publishing"
        )
        lines.append("  steps      " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in report["steps_ms_p50"].items()))
    detection, segmentation = report["detection"], report["segmentation"]
    if detection:
        by_class = ", ".join(f"{name} {_or_dash(value, '.3f')}" for name, value in detection["AP50"].items())
        lines.append(
            f"  AP50       {by_class}; mean {_or_dash(detection['mean_AP50'], '.3f')} "
            f"({detection['true_boxes']} labelled boxes in {detection['pairs']} pairs)"
        )
    if segmentation:
        lines.append(
            f"  mIoU       {_or_dash(segmentation['mIoU'], '.3f')} ({segmentation['pairs']} pairs with a labelled mask)"
        )
    drops = ", ".join(f"{count} {cause}" for cause, count in report["drops"].items())
    lines.append(f"  dropped    {drops or 'nothing'}")
    return "\n".join(lines)


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        f"p{percentile}": round(float(value), 3)
        for percentile, value in zip((50, 95, 99), np.percentile(values, (50, 95, 99)), strict=True)
    }


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
