"""What a replay comes to in figures: the report file and the summary on the screen."""

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
from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.detection import average_precision, mean_average_precision
from spectradino_core.evaluation.segmentation import ConfusionMatrix
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.percepts import Mode, Percepts
from spectradino_ros.demo.collector import Answer, Sent

__all__ = ["Outcome", "Scores", "replay_figures", "summary", "versions"]


@dataclass(frozen=True)
class Outcome:
    """One pair that was sent, and what became of it."""

    sent: Sent
    id: str
    answer: Answer | None


class Scores:
    """Boxes and masks against what is known, pair by pair."""

    def __init__(self, info: ModelInfo, mask_classes: Sequence[str]) -> None:
        """
        Args:
            info: the model's classes.
            mask_classes: what the truth's mask values mean; masks are scored only where this is the model's own list.
        """
        self._info = info
        self._predictions: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._truths: list[tuple[np.ndarray, np.ndarray]] = []
        self._masks = 0
        scored = bool(info.mask_classes) and tuple(mask_classes) == info.mask_classes
        self._confusion = ConfusionMatrix(info.mask_classes) if scored else None

    def add(self, sample: PairedSample, percepts: Percepts | None) -> None:
        """Counts one pair. Without an answer nothing was found in it; its mask is then not scored."""
        if sample.boxes is not None and sample.labels is not None:
            nothing = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
            found = nothing if percepts is None else (percepts.boxes, percepts.scores, percepts.labels)
            self._predictions.append(found)
            self._truths.append((sample.boxes, sample.labels))
        mask = None if percepts is None else percepts.mask
        if self._confusion is not None and sample.mask is not None and mask is not None:
            self._confusion.add(mask, sample.mask)
            self._masks += 1

    def figures(self) -> dict[str, Any]:
        """AP50 by class and mIoU, each with the number of pairs it rests on.

        None in place of either where nothing of what the model can find is known in any pair.
        """
        result: dict[str, Any] = {"detection": None, "segmentation": None}
        if any(len(labels) for _, labels in self._truths):
            per_class = average_precision(self._predictions, self._truths, self._info.box_classes, iou=0.5)
            result["detection"] = {
                "pairs": len(self._truths),
                "true_boxes": int(sum(len(boxes) for boxes, _ in self._truths)),
                "AP50": per_class,
                "mean_AP50": mean_average_precision(per_class),
            }
        if self._confusion is not None and self._confusion.counts.any():
            result["segmentation"] = {
                "pairs": self._masks,
                "IoU": self._confusion.iou(),
                "mIoU": self._confusion.mean_iou(),
                "pixel_accuracy": self._confusion.accuracy(),
            }
        return _finite(result)


def replay_figures(outcomes: Sequence[Outcome], drops: Mapping[str, int], warm_ups: int) -> dict[str, Any]:
    """Counts, modes, latencies, steps and drops of a replay.

    Args:
        outcomes: every pair that was sent, without the warm-up.
        drops: frames that the node dropped, by cause, the warm-up's included.
        warm_ups: how many pairs were sent before.
    """
    answers = [o.answer for o in outcomes if o.answer is not None]
    reports = [a.report for a in answers if a.report is not None]
    modes = Counter(answer.percepts((1, 1)).mode for answer in answers)
    steps: dict[str, list[float]] = {}
    for report in reports:
        for step in report.steps:
            steps.setdefault(step.name, []).append(step.milliseconds)
    received = [
        (o.answer.received_ns - min(o.sent.rgb_ns, o.sent.ir_ns)) / 1e6 for o in outcomes if o.answer is not None
    ]
    offsets = [r.ir_offset_ms for r in reports if not math.isnan(r.ir_offset_ms)]
    return _finite(
        {
            "pairs": {
                "warm_up": warm_ups,
                "sent": len(outcomes),
                "answered": len(answers),
                "unanswered": [o.id for o in outcomes if o.answer is None],
            },
            "modes": {mode.value: modes.get(mode, 0) for mode in Mode},
            # from the header's stamp to the moment before publishing, as the node reports it
            "latency_ms": _percentiles([r.latency_ms for r in reports]),
            # from the same stamp until the detections were in the hands of a subscriber in another process
            "received_after_ms": _percentiles(received),
            "steps_ms_p50": {name: round(float(np.median(values)), 3) for name, values in steps.items()},
            "ir_offset_ms_p50": float(np.median(offsets)) if offsets else None,
            "drops": dict(drops),
        }
    )


def versions() -> dict[str, str]:
    """Of what took part, by name; what is not installed by pip is left out where its version can't be asked."""
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
    """The report in a few lines for a person."""
    pairs, model, latency = report["pairs"], report["model"], report["latency_ms"]
    modes = ", ".join(f"{count} {name}" for name, count in report["modes"].items() if count)
    rate = _or_dash(report["rate_hz"], ".1f")
    lines = [
        f"{pairs['answered']} of {pairs['sent']} pairs answered ({modes or 'none'}) at {rate} pairs/s",
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
            f"({detection['true_boxes']} known boxes in {detection['pairs']} pairs)"
        )
    if segmentation:
        lines.append(
            f"  mIoU       {_or_dash(segmentation['mIoU'], '.3f')} ({segmentation['pairs']} pairs with a known mask)"
        )
    drops = ", ".join(f"{count} {cause}" for cause, count in report["drops"].items())
    lines.append(f"  dropped    {drops or 'nothing'}")
    return "\n".join(lines)


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        f"p{share}": round(float(value), 3)
        for share, value in zip((50, 95, 99), np.percentile(values, (50, 95, 99)), strict=True)
    }


def _finite(value: Any) -> Any:
    """The same with None for nan, which JSON does not know, and floats rounded to what is meant."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
