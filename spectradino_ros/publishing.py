"""ROS messages of a `PerceptionResult`, by the conventions of vision_msgs 4.

Every message carries a copy of the source frame's header: its stamp and frame_id.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image
from spectradino_msgs.msg import (
    CameraMode,
    DetectionTemperature,
    DetectionTemperatures,
    DropCount,
    FrameReport,
    StepTime,
)
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
    VisionInfo,
)

from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.streams import result_fields
from spectradino_core.streams.result_fields import Facts, detection_fields

try:  # optional: a viewer's own messages
    from foxglove_msgs.msg import Color, ImageAnnotations, Point2, PointsAnnotation, TextAnnotation
except ImportError:
    _OF_FOXGLOVE: tuple[type, ...] = ()
else:
    _OF_FOXGLOVE = (Color, ImageAnnotations, Point2, PointsAnnotation, TextAnnotation)

__all__ = [
    "FOXGLOVE",
    "Facts",
    "annotations_message",
    "compressed_message",
    "camera_mode_message",
    "detections_message",
    "image_message",
    "label_message",
    "report_message",
    "temperatures_message",
    "vision_info_message",
]

_TYPES: dict[str, type] = {
    "builtin_interfaces/msg/Time": Time,
    "spectradino_msgs/msg/CameraMode": CameraMode,
    "spectradino_msgs/msg/DetectionTemperature": DetectionTemperature,
    "spectradino_msgs/msg/DetectionTemperatures": DetectionTemperatures,
    "spectradino_msgs/msg/DropCount": DropCount,
    "spectradino_msgs/msg/FrameReport": FrameReport,
    "spectradino_msgs/msg/StepTime": StepTime,
    "vision_msgs/msg/LabelInfo": LabelInfo,
    "vision_msgs/msg/VisionClass": VisionClass,
    "vision_msgs/msg/VisionInfo": VisionInfo,
}


FOXGLOVE = {f"foxglove_msgs/msg/{kind.__name__}": kind for kind in _OF_FOXGLOVE}
"""Message classes of foxglove_msgs by type name; empty: it is not installed."""
_TYPES |= FOXGLOVE


def detections_message(
    percepts: PerceptionResult,
    header: Header,
    parts: list[Detection2D] | None = None,
    class_ids: Sequence[str] = (),
) -> Detection2DArray:
    """Make the Detection2DArray of a result.

    Args:
        percepts: the result; its order, highest score first, is kept.
        header: copied into the array and each detection.
        parts: Detection2D messages to reuse, because one consists of some thirty objects; the list grows as needed.
            A message made from the same list before becomes invalid.
        class_ids: see `detection_fields`.

    Returns:
        Boxes in source pixels.
    """
    parts = [] if parts is None else parts
    while len(parts) < len(percepts):
        parts.append(Detection2D(results=[ObjectHypothesisWithPose()]))
    for detection, found in zip(parts, detection_fields(percepts, class_ids)):
        detection.header = header
        hypothesis, box = detection.results[0].hypothesis, detection.bbox
        hypothesis.class_id, hypothesis.score = found.class_id, found.score
        detection.id = found.track_id
        box.center.position.x, box.center.position.y = found.x, found.y
        box.size_x, box.size_y = found.width, found.height
    return Detection2DArray(header=header, detections=parts[: len(percepts)])


def image_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """Make an Image message from an array uint8 [H, W] or [H, W, 3] of the given encoding."""
    pixels = np.ascontiguousarray(pixels)
    message = Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
    )
    # Append to the empty array of a new message: assigning a list or bytes takes up to a thousand times longer.
    message.data.frombytes(pixels.reshape(-1).data)
    return message


def compressed_message(jpeg: bytes, header: Header) -> CompressedImage:
    """Make a CompressedImage of an RGB image as image_transport's plugin does."""
    message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
    message.data.frombytes(jpeg)
    return message


def _make(kind: str, **fields: Any) -> Any:
    return _TYPES[kind](**fields)


annotations_message = partial(result_fields.annotations_message, _make)
camera_mode_message = partial(result_fields.camera_mode_message, _make)
label_message = partial(result_fields.label_message, _make)
report_message = partial(result_fields.report_message, _make)
temperatures_message = partial(result_fields.temperatures_message, _make)
vision_info_message = partial(result_fields.vision_info_message, _make)
