"""Percepts as messages: the conventions of vision_msgs 4 and of images, and nothing else.

Every message carries the header of the frame it speaks of, copied: the stamp and the frame of the camera.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from spectradino_core.runtime.percepts import Percepts
from spectradino_core.streams.answers import MODE_CODES, Facts, detection_fields

__all__ = ["Facts", "detections_message", "image_message", "label_message", "report_message"]


def detections_message(percepts: Percepts, header: Header, parts: list[Detection2D] | None = None) -> Detection2DArray:
    """Boxes in source pixels, best first; the class id is the index of the class in LabelInfo, as a string.

    `parts`, where given, are messages of detections to be written again, and grow by what is missing: a detection is
    some thirty objects. The message made from them before is then no longer to be looked at.
    """
    parts = [] if parts is None else parts
    while len(parts) < len(percepts):
        parts.append(Detection2D(results=[ObjectHypothesisWithPose()]))
    for detection, found in zip(parts, detection_fields(percepts)):
        detection.header = header
        hypothesis, box = detection.results[0].hypothesis, detection.bbox
        hypothesis.class_id, hypothesis.score = found.class_id, found.score
        box.center.position.x, box.center.position.y = found.x, found.y
        box.size_x, box.size_y = found.width, found.height
    return Detection2DArray(header=header, detections=parts[: len(percepts)])


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


def report_message(percepts: Percepts, facts: Facts, info: ModelInfo, header: Header) -> FrameReport:
    """How one answer came about."""
    return FrameReport(
        header=header,
        rgb_stamp=facts.rgb_stamp or Time(),
        ir_stamp=facts.ir_stamp or Time(),
        ir_offset_ms=float(facts.ir_offset_ms),
        mode=MODE_CODES[percepts.mode],
        detections=len(percepts),
        latency_ms=float(facts.latency_ms),
        steps=[StepTime(name=name, milliseconds=float(ms)) for name, ms in facts.steps_ms.items()],
        drops=[DropCount(cause=cause, count=int(count)) for cause, count in sorted(facts.drops.items())],
        deadline_met=facts.deadline_met,
        deadline_ms=float(facts.deadline_ms),
        model=info.name,
    )
