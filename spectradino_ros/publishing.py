"""Messages of a `PerceptionResult`: the conventions of vision_msgs 4 and of images, and nothing else.

Every message carries the header of the frame it speaks of, copied: the stamp and the frame of the camera.
"""

from __future__ import annotations

from functools import partial
from typing import Any

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

from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.streams import answers
from spectradino_core.streams.answers import Facts, detection_fields

__all__ = ["Facts", "detections_message", "image_message", "label_message", "report_message"]

_TYPES: dict[str, type] = {
    "builtin_interfaces/msg/Time": Time,
    "spectradino_msgs/msg/DropCount": DropCount,
    "spectradino_msgs/msg/FrameReport": FrameReport,
    "spectradino_msgs/msg/StepTime": StepTime,
    "vision_msgs/msg/LabelInfo": LabelInfo,
    "vision_msgs/msg/VisionClass": VisionClass,
}


def detections_message(
    percepts: PerceptionResult, header: Header, parts: list[Detection2D] | None = None
) -> Detection2DArray:
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


def _make(kind: str, **fields: Any) -> Any:
    return _TYPES[kind](**fields)


label_message = partial(answers.label_message, _make)
report_message = partial(answers.report_message, _make)
