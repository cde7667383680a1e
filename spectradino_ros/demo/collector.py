"""Listens to all that the detector publishes and puts together what belongs to one pair."""

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

__all__ = ["Answer", "Collector", "Sent"]

_MODES = {
    FrameReport.MODE_FUSED: Mode.FUSED,
    FrameReport.MODE_RGB_ONLY: Mode.RGB_ONLY,
    FrameReport.MODE_IR_ONLY: Mode.IR_ONLY,
    FrameReport.MODE_STALE: Mode.STALE,
}


@dataclass(frozen=True)
class Sent:
    """A pair that was published: its place in the folder and the stamps of its two frames in nanoseconds."""

    place: int
    rgb_ns: int
    ir_ns: int


@dataclass
class Answer:
    """The messages that carry one stamp, as far as they have come.

    Attributes:
        report: how the answer came about.
        boxes, scores, labels: float64 [K, 4] x1 y1 x2 y2, [K], int64 [K]; None until the detections have come.
        mask: uint8 [h, w], 255 unlabelled.
        received_ns: wall-clock time at which the detections came.
        frame_id: of the detections' header.
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

    def percepts(self, size: tuple[int, int]) -> PerceptionResult:
        """What was found, over an image of `size` (width, height); only of a complete answer."""
        assert self.report is not None, "no report has come"
        assert self.boxes is not None, "no detections have come"
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
    """Subscriptions to one detector's topics.

    Attributes:
        answers: by stamp in nanoseconds.
        received: how many messages of any kind have come.
    """

    def __init__(self, namespace: str, detector: str, with_mask: bool) -> None:
        super().__init__("collector", namespace=namespace)
        self.with_mask = with_mask
        self.answers: dict[int, Answer] = {}
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
        """Whether the node is active and none of its answers would be missed."""
        return self._label_info is not None and all(s.get_publisher_count() > 0 for s in self._streams)

    @property
    def class_names(self) -> dict[str, str]:
        """Names by class id, from the latched label info."""
        info = self._label_info
        return {} if info is None else {str(c.class_id): c.class_name for c in info.class_map}

    @property
    def diagnostics(self) -> dict[str, str]:
        """The detector's latest diagnostics, all values by key."""
        return dict(self._diagnostics)

    def answer_to(self, sent: Sent) -> Answer | None:
        """The complete answer to a pair, under either frame's stamp; None while there is none."""
        for stamp in (sent.rgb_ns, sent.ir_ns):
            answer = self.answers.get(stamp)
            if answer is not None and answer.complete(self.with_mask):
                return answer
        return None

    def drops(self) -> dict[str, int]:
        """Frames that the node dropped since its activation, by cause, as last told by a report or by diagnostics."""
        key = "dropped: "
        counts = {k.removeprefix(key): int(v) for k, v in self._diagnostics.items() if k.startswith(key)}
        for answer in self.answers.values():
            for drop in answer.report.drops if answer.report is not None else ():
                counts[drop.cause] = max(counts.get(drop.cause, 0), int(drop.count))
        return {cause: count for cause, count in sorted(counts.items()) if count}

    def _answer(self, message: Detection2DArray | FrameReport | Image) -> Answer:
        self.received += 1
        stamp = message.header.stamp
        return self.answers.setdefault(stamp.sec * 1_000_000_000 + stamp.nanosec, Answer())

    def _on_labels(self, message: LabelInfo) -> None:
        self._label_info = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if self._detector in status.name:
                self._diagnostics.update({pair.key: pair.value for pair in status.values})

    def _on_report(self, message: FrameReport) -> None:
        self._answer(message).report = message

    def _on_detections(self, message: Detection2DArray) -> None:
        answer = self._answer(message)
        answer.received_ns = time_ns()
        answer.frame_id = message.header.frame_id
        found = [(d.bbox, d.results[0].hypothesis) for d in message.detections if d.results]
        half = np.array([(b.size_x / 2, b.size_y / 2) for b, _ in found], float).reshape(-1, 2)
        centre = np.array([(b.center.position.x, b.center.position.y) for b, _ in found], float).reshape(-1, 2)
        answer.boxes = np.concatenate([centre - half, centre + half], axis=1)
        answer.scores = np.array([h.score for _, h in found], float)
        answer.labels = np.array([int(h.class_id) for _, h in found], np.int64)

    def _on_mask(self, message: Image) -> None:
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        self._answer(message).mask = rows[:, : message.width].copy()
