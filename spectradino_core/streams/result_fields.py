"""Fields of result messages, for the node (ROS types) and for bags (types of their own)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import Mode, PerceptionResult

__all__ = [
    "MODE_CODES",
    "DetectionFields",
    "Facts",
    "detection_fields",
    "label_message",
    "report_message",
    "temperatures_message",
]

MODE_CODES = {Mode.FUSED: 0, Mode.RGB_ONLY: 1, Mode.IR_ONLY: 2, Mode.STALE: 3}
"""The constants MODE_* of spectradino_msgs/FrameReport."""


Make = Callable[..., Any]
"""Creates a message of a type such as "vision_msgs/msg/LabelInfo" from its fields."""


@dataclass(frozen=True)
class DetectionFields:
    """A detection as in vision_msgs/Detection2D: class id, score, centre and size in source pixels, identity or ""."""

    class_id: str
    score: float
    x: float
    y: float
    width: float
    height: float
    track_id: str = ""


def detection_fields(percepts: PerceptionResult, class_ids: Sequence[str] = ()) -> Iterator[DetectionFields]:
    """Yield the detections, highest score first.

    Args:
        percepts: the result.
        class_ids: class ids by label; empty: the index of the class in LabelInfo, as a string.
    """
    track_ids = percepts.track_ids or ("",) * len(percepts)
    for box, score, label, track_id in zip(percepts.boxes, percepts.scores, percepts.labels, track_ids, strict=True):
        x1, y1, x2, y2 = (float(v) for v in box)
        class_id = class_ids[int(label)] if class_ids else str(int(label))
        yield DetectionFields(class_id, float(score), (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, track_id)


@dataclass(frozen=True)
class Facts:
    """Content of a frame report in addition to the detections.

    Attributes:
        rgb_stamp, ir_stamp: header stamps of the frames used (builtin_interfaces/Time); None without frame.
        ir_offset_ms: signed offset of the infrared frame in the pair; NaN if a frame is missing.
        ir_reused: whether the infrared frame was in an earlier result.
        latency_ms: from the header stamp to just before publishing, on the node's clock.
        steps_ms: milliseconds by step, in order.
        drops: frames dropped since activation, by cause.
        deadline_ms: latency budget; 0: none.
    """

    rgb_stamp: Any
    ir_stamp: Any
    ir_offset_ms: float
    ir_reused: bool
    latency_ms: float
    steps_ms: Mapping[str, float]
    drops: Mapping[str, int]
    deadline_ms: float

    @property
    def deadline_met(self) -> bool:
        return self.deadline_ms <= 0 or self.latency_ms <= self.deadline_ms


def label_message(make: Make, names: Sequence[str], header: Any, threshold: float) -> Any:
    """Create a vision_msgs/LabelInfo: class names by id, and the minimum score in use."""
    classes = [make("vision_msgs/msg/VisionClass", class_id=i, class_name=name) for i, name in enumerate(names)]
    return make("vision_msgs/msg/LabelInfo", header=header, class_map=classes, threshold=float(threshold))


def temperatures_message(
    make: Make, percepts: PerceptionResult, header: Any, ir_stamp: Any, class_ids: Sequence[str] = ()
) -> Any:
    """Create a spectradino_msgs/DetectionTemperatures of a result with temperatures; class ids: `detection_fields`."""
    assert percepts.temperatures is not None
    detections = [
        make(
            "spectradino_msgs/msg/DetectionTemperature",
            class_id=found.class_id,
            minimum=minimum,
            mean=mean,
            maximum=maximum,
        )
        for found, (minimum, mean, maximum) in zip(
            detection_fields(percepts, class_ids), percepts.temperatures.tolist(), strict=True
        )
    ]
    return make("spectradino_msgs/msg/DetectionTemperatures", header=header, ir_stamp=ir_stamp, detections=detections)


def report_message(make: Make, percepts: PerceptionResult, facts: Facts, info: ModelInfo, header: Any) -> Any:
    """Create a spectradino_msgs/FrameReport: how one result was made."""
    step, drop = "spectradino_msgs/msg/StepTime", "spectradino_msgs/msg/DropCount"
    unset = make("builtin_interfaces/msg/Time", sec=0, nanosec=0)
    return make(
        "spectradino_msgs/msg/FrameReport",
        header=header,
        rgb_stamp=facts.rgb_stamp or unset,
        ir_stamp=facts.ir_stamp or unset,
        ir_offset_ms=float(facts.ir_offset_ms),
        ir_reused=facts.ir_reused,
        mode=MODE_CODES[percepts.mode],
        detections=len(percepts),
        latency_ms=float(facts.latency_ms),
        steps=[make(step, name=name, milliseconds=float(ms)) for name, ms in facts.steps_ms.items()],
        drops=[make(drop, cause=cause, count=int(count)) for cause, count in sorted(facts.drops.items())],
        deadline_met=facts.deadline_met,
        deadline_ms=float(facts.deadline_ms),
        model=info.name,
    )
