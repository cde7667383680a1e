"""Results of a replay: the detector's messages by pair, the contents of report.json and the summary on the terminal."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import time_ns
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport
from vision_msgs.msg import Detection2DArray, LabelInfo

from spectradino_core import __version__
from spectradino_core.evaluation.scorer import Scores
from spectradino_core.evaluation.spread import rounded
from spectradino_core.runtime.perception_result import Mode, PerceptionResult

_MODES = {
    FrameReport.MODE_FUSED: Mode.FUSED,
    FrameReport.MODE_RGB_ONLY: Mode.RGB_ONLY,
    FrameReport.MODE_IR_ONLY: Mode.IR_ONLY,
    FrameReport.MODE_STALE: Mode.STALE,
}


@dataclass(frozen=True)
class SentPair:
    """A published pair: its index in the folder and both stamps in nanoseconds."""

    index: int
    rgb_ns: int
    ir_ns: int


@dataclass
class Result:
    """Contents of the messages with one stamp, as far as they have arrived.

    Attributes:
        report: the frame report.
        boxes, scores, labels: float64 [K, 4] x1 y1 x2 y2, [K], int64 [K]; None until the detections have arrived.
        mask: uint8 [h, w], 255 unlabelled.
        received_ns: wall-clock time at which the detections arrived.
    """

    report: FrameReport | None = None
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    labels: np.ndarray | None = None
    mask: np.ndarray | None = None
    received_ns: int = 0

    def complete(self, with_mask: bool) -> bool:
        return self.report is not None and self.boxes is not None and (self.mask is not None or not with_mask)

    def perception_result(self, size: tuple[int, int]) -> PerceptionResult:
        """Return the result on an image of `size` (width, height); it must be complete."""
        assert self.report is not None
        assert self.boxes is not None
        assert self.scores is not None
        assert self.labels is not None
        return PerceptionResult(
            boxes=self.boxes.astype(np.float32),
            scores=self.scores.astype(np.float32),
            labels=self.labels,
            mask=self.mask,
            mode=_MODES[self.report.mode],
            size=size,
            steps_ms={step.name: step.milliseconds for step in self.report.steps},
        )


class Collector(Node):
    """Node that subscribes to the topics of one detector.

    Attributes:
        results: results by stamp in nanoseconds.
        received: number of messages received.
        diagnostics: latest diagnostics of the detector, by key.
    """

    def __init__(self, namespace: str, detector: str, with_mask: bool) -> None:
        super().__init__("collector", namespace=namespace)
        self.with_mask = with_mask
        self.results: dict[int, Result] = {}
        self.received = 0
        self._detector = detector
        self._label_info: LabelInfo | None = None
        self.diagnostics: dict[str, str] = {}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(LabelInfo, f"{detector}/label_info", self._on_labels, latched)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._streams = [
            self.create_subscription(Detection2DArray, f"{detector}/detections", self._on_detections, 20),
            self.create_subscription(FrameReport, f"{detector}/frame_report", self._on_report, 20),
        ]
        if with_mask:
            self._streams.append(self.create_subscription(Image, f"{detector}/segmentation/mask", self._on_mask, 20))

    @property
    def ready(self) -> bool:
        """Whether the detector is active and all its publishers are discovered."""
        return self._label_info is not None and all(s.get_publisher_count() > 0 for s in self._streams)

    @property
    def class_names(self) -> dict[str, str]:
        """Class names by id, from the latched label info."""
        info = self._label_info
        return {} if info is None else {str(c.class_id): c.class_name for c in info.class_map}

    def result_of(self, sent: SentPair) -> Result | None:
        """Return the complete result of a pair, by either stamp; None while there is none."""
        for stamp in (sent.rgb_ns, sent.ir_ns):
            result = self.results.get(stamp)
            if result is not None and result.complete(self.with_mask):
                return result
        return None

    def drops(self) -> dict[str, int]:
        """Return the frames dropped since activation, by cause, from frame reports and diagnostics."""
        key = "dropped: "
        counts = {k.removeprefix(key): int(v) for k, v in self.diagnostics.items() if k.startswith(key)}
        for result in self.results.values():
            for drop in result.report.drops if result.report is not None else ():
                counts[drop.cause] = max(counts.get(drop.cause, 0), int(drop.count))
        return {cause: count for cause, count in sorted(counts.items()) if count}

    def _result(self, message: Detection2DArray | FrameReport | Image) -> Result:
        self.received += 1
        stamp = message.header.stamp
        return self.results.setdefault(stamp.sec * 1_000_000_000 + stamp.nanosec, Result())

    def _on_labels(self, message: LabelInfo) -> None:
        self._label_info = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if self._detector in status.name:
                self.diagnostics.update({pair.key: pair.value for pair in status.values})

    def _on_report(self, message: FrameReport) -> None:
        self._result(message).report = message

    def _on_detections(self, message: Detection2DArray) -> None:
        result = self._result(message)
        result.received_ns = time_ns()
        found = [(d.bbox, d.results[0].hypothesis) for d in message.detections if d.results]
        half = np.array([(b.size_x / 2, b.size_y / 2) for b, _ in found], float).reshape(-1, 2)
        centre = np.array([(b.center.position.x, b.center.position.y) for b, _ in found], float).reshape(-1, 2)
        result.boxes = np.concatenate([centre - half, centre + half], axis=1)
        result.scores = np.array([h.score for _, h in found], float)
        result.labels = np.array([int(h.class_id) for _, h in found], np.int64)

    def _on_mask(self, message: Image) -> None:
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        self._result(message).mask = rows[:, : message.width].copy()


@dataclass(frozen=True)
class Outcome:
    """A sent pair and its result, None if there was none."""

    sent: SentPair
    id: str
    result: Result | None


def score_figures(scores: Scores) -> dict[str, Any]:
    """Return AP50 by class and mIoU, each with its number of pairs; None without labels of the model's classes."""
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
    """Return counts, modes, latencies [ms], step times and drops of the pairs sent after the warm-up.

    `drops` are the frames dropped by the node, by cause, including the warm-up.
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
    return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 95, 99)} if values else None


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
