"""Subscribe to the detector's topics and group its messages by pair."""

from __future__ import annotations

from dataclasses import dataclass
from time import time_ns

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport
from vision_msgs.msg import Detection2DArray, LabelInfo

from spectradino_core.runtime.perception_result import Mode, PerceptionResult

__all__ = ["Result", "Collector", "Sent"]

_MODES = {
    FrameReport.MODE_FUSED: Mode.FUSED,
    FrameReport.MODE_RGB_ONLY: Mode.RGB_ONLY,
    FrameReport.MODE_IR_ONLY: Mode.IR_ONLY,
    FrameReport.MODE_STALE: Mode.STALE,
}


@dataclass(frozen=True)
class Sent:
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
        frame_id: frame_id of the detections.
    """

    report: FrameReport | None = None
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    labels: np.ndarray | None = None
    mask: np.ndarray | None = None
    received_ns: int = 0
    frame_id: str = ""

    def complete(self, with_mask: bool) -> bool:
        return self.report is not None and self.boxes is not None and (self.mask is not None or not with_mask)

    def perception_result(self, size: tuple[int, int]) -> PerceptionResult:
        """Return the result on an image of `size` (width, height); it must be complete."""
        assert self.report is not None, "no frame report has arrived"
        assert self.boxes is not None, "no detections have arrived"
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
    """

    def __init__(self, namespace: str, detector: str, with_mask: bool) -> None:
        super().__init__("collector", namespace=namespace)
        self.with_mask = with_mask
        self.results: dict[int, Result] = {}
        self.received = 0
        self._detector = detector
        self._label_info: LabelInfo | None = None
        self._diagnostics: dict[str, str] = {}
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

    @property
    def diagnostics(self) -> dict[str, str]:
        """Latest diagnostics of the detector, by key."""
        return dict(self._diagnostics)

    def result_of(self, sent: Sent) -> Result | None:
        """Return the complete result of a pair, by either stamp; None while there is none."""
        for stamp in (sent.rgb_ns, sent.ir_ns):
            result = self.results.get(stamp)
            if result is not None and result.complete(self.with_mask):
                return result
        return None

    def drops(self) -> dict[str, int]:
        """Return the frames dropped since activation, by cause, from frame reports and diagnostics."""
        key = "dropped: "
        counts = {k.removeprefix(key): int(v) for k, v in self._diagnostics.items() if k.startswith(key)}
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
                self._diagnostics.update({pair.key: pair.value for pair in status.values})

    def _on_report(self, message: FrameReport) -> None:
        self._result(message).report = message

    def _on_detections(self, message: Detection2DArray) -> None:
        result = self._result(message)
        result.received_ns = time_ns()
        result.frame_id = message.header.frame_id
        found = [(d.bbox, d.results[0].hypothesis) for d in message.detections if d.results]
        half = np.array([(b.size_x / 2, b.size_y / 2) for b, _ in found], float).reshape(-1, 2)
        centre = np.array([(b.center.position.x, b.center.position.y) for b, _ in found], float).reshape(-1, 2)
        result.boxes = np.concatenate([centre - half, centre + half], axis=1)
        result.scores = np.array([h.score for _, h in found], float)
        result.labels = np.array([int(h.class_id) for _, h in found], np.int64)

    def _on_mask(self, message: Image) -> None:
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        self._result(message).mask = rows[:, : message.width].copy()
