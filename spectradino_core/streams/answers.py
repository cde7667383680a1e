"""What is published of an answer, in plain numbers: the node and a replayed bag make their messages from these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spectradino_core.runtime.percepts import Mode, Percepts

__all__ = ["MODE_CODES", "DetectionFields", "Facts", "detection_fields"]

MODE_CODES = {Mode.FUSED: 0, Mode.RGB_ONLY: 1, Mode.IR_ONLY: 2, Mode.STALE: 3}
"""The constants MODE_* of spectradino_msgs/FrameReport."""


@dataclass(frozen=True)
class DetectionFields:
    """One detection as in vision_msgs/Detection2D: class id and score, centre and sides in source pixels."""

    class_id: str
    score: float
    x: float
    y: float
    width: float
    height: float


def detection_fields(percepts: Percepts) -> Iterator[DetectionFields]:
    """The detections, best first; the class id is the index of the class in LabelInfo, as a string."""
    for box, score, label in zip(percepts.boxes, percepts.scores, percepts.labels, strict=True):
        x1, y1, x2, y2 = (float(v) for v in box)
        yield DetectionFields(str(int(label)), float(score), (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)


@dataclass(frozen=True)
class Facts:
    """What a frame report says beside what the percepts say.

    Attributes:
        rgb_stamp, ir_stamp: header stamps of the frames used (builtin_interfaces/Time), None where there was none.
        ir_offset_ms: signed offset of the infrared frame in the pair, NaN where a frame is missing.
        latency_ms: from the header's stamp to the moment before publishing, on the node's clock.
        steps_ms: milliseconds by step, in the order in which the steps ran.
        drops: frames dropped since activation, by cause.
        deadline_ms: the budget, 0: none.
    """

    rgb_stamp: Any
    ir_stamp: Any
    ir_offset_ms: float
    latency_ms: float
    steps_ms: Mapping[str, float]
    drops: Mapping[str, int]
    deadline_ms: float

    @property
    def deadline_met(self) -> bool:
        return self.deadline_ms <= 0 or self.latency_ms <= self.deadline_ms
