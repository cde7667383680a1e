"""Percepts as messages: the conventions of vision_msgs 4 and of images, and nothing else.

Every message carries the header of the frame it speaks of, copied: the stamp and the frame of the camera.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from spectradino_msgs.msg import DropCount, FrameReport, StepTime
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
)

from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.percepts import Mode, Percepts

__all__ = ["Facts", "detections_message", "image_message", "label_message", "report_message"]

_MODES = {
    Mode.FUSED: FrameReport.MODE_FUSED,
    Mode.RGB_ONLY: FrameReport.MODE_RGB_ONLY,
    Mode.IR_ONLY: FrameReport.MODE_IR_ONLY,
    Mode.STALE: FrameReport.MODE_STALE,
}


def detections_message(percepts: Percepts, header: Header) -> Detection2DArray:
    """Boxes in source pixels, best first; the class id is the index of the class in LabelInfo, as a string."""
    message = Detection2DArray(header=header)
    for box, score, label in zip(percepts.boxes, percepts.scores, percepts.labels, strict=True):
        x1, y1, x2, y2 = (float(v) for v in box)
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = str(int(label))
        result.hypothesis.score = float(score)
        detection = Detection2D(header=header, results=[result])
        detection.bbox.center.position.x = (x1 + x2) / 2
        detection.bbox.center.position.y = (y1 + y2) / 2
        detection.bbox.size_x = x2 - x1
        detection.bbox.size_y = y2 - y1
        message.detections.append(detection)
    return message


def label_message(names: Sequence[str], header: Header, threshold: float) -> LabelInfo:
    """Names of classes by id, and the least score in force."""
    classes = [VisionClass(class_id=index, class_name=name) for index, name in enumerate(names)]
    return LabelInfo(header=header, class_map=classes, threshold=float(threshold))


def image_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """An array uint8 [H, W] or [H, W, 3] as an image message of the given encoding."""
    pixels = np.ascontiguousarray(pixels)
    message = Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
    )
    # Appending to the empty array of a fresh message: assigning a list or bytes takes up to a thousand times longer.
    message.data.frombytes(pixels.reshape(-1).data)
    return message


@dataclass(frozen=True)
class Facts:
    """What a frame report says beside what the percepts say.

    Attributes:
        rgb_stamp, ir_stamp: header stamps of the frames used, None where there was none.
        ir_offset_ms: signed offset of the infrared frame in the pair, NaN where a frame is missing.
        latency_ms: from the header's stamp to the moment before publishing, on the node's clock.
        steps_ms: milliseconds by step, in the order in which the steps ran.
        drops: frames dropped since activation, by cause.
        deadline_ms: the budget, 0: none.
    """

    rgb_stamp: Time | None
    ir_stamp: Time | None
    ir_offset_ms: float
    latency_ms: float
    steps_ms: Mapping[str, float]
    drops: Mapping[str, int]
    deadline_ms: float

    @property
    def deadline_met(self) -> bool:
        return self.deadline_ms <= 0 or self.latency_ms <= self.deadline_ms


def report_message(percepts: Percepts, facts: Facts, info: ModelInfo, header: Header) -> FrameReport:
    """How one answer came about."""
    return FrameReport(
        header=header,
        rgb_stamp=facts.rgb_stamp or Time(),
        ir_stamp=facts.ir_stamp or Time(),
        ir_offset_ms=float(facts.ir_offset_ms),
        mode=_MODES[percepts.mode],
        detections=len(percepts),
        latency_ms=float(facts.latency_ms),
        steps=[StepTime(name=name, milliseconds=float(ms)) for name, ms in facts.steps_ms.items()],
        drops=[DropCount(cause=cause, count=int(count)) for cause, count in sorted(facts.drops.items())],
        deadline_met=facts.deadline_met,
        deadline_ms=float(facts.deadline_ms),
        model=info.name,
    )
