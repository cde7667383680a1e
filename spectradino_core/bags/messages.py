"""Build messages from arrays and numbers for writing into a bag, with the same fields as the node's.

Letters: h x w an image.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np

from spectradino_core.bags import BagError
from spectradino_core.bags.message_types import writing_types
from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.streams import result_fields
from spectradino_core.streams.result_fields import DetectionFields, detection_fields

__all__ = [
    "annotations_message",
    "camera_mode_message",
    "compressed_message",
    "detection_array",
    "detections_message",
    "header",
    "image_message",
    "label_message",
    "make",
    "report_message",
    "stamp",
    "temperatures_message",
    "text_message",
    "vision_info_message",
]

_ENCODINGS = {(2, "uint8"): "mono8", (2, "uint16"): "mono16", (3, "uint8"): "rgb8"}


def make(kind: str, **fields: Any) -> Any:
    """Build a message of a type such as "sensor_msgs/msg/CameraInfo" from all of its fields."""
    return writing_types().types[kind](**fields)


def stamp(ns: int) -> Any:
    """Convert nanoseconds to builtin_interfaces/Time."""
    return make("builtin_interfaces/msg/Time", sec=ns // 1_000_000_000, nanosec=ns % 1_000_000_000)


def header(stamp_ns: int, frame_id: str) -> Any:
    """Build a std_msgs/Header."""
    return make("std_msgs/msg/Header", stamp=stamp(stamp_ns), frame_id=frame_id)


def text_message(text: str) -> Any:
    """Build a std_msgs/String."""
    return make("std_msgs/msg/String", data=text)


def image_message(pixels: np.ndarray, head: Any) -> Any:
    """Build a sensor_msgs/Image, in this machine's byte order.

    Args:
        pixels: uint8 [h, w, 3] in RGB order, or uint8 or uint16 [h, w].
        head: the header.

    Raises:
        BagError: another shape or type.
    """
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    return make(
        "sensor_msgs/msg/Image",
        header=head,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=_encoding(pixels),
        is_bigendian=int(sys.byteorder == "big"),
        step=rows.shape[1],
        data=rows.reshape(-1),
    )


def compressed_message(pixels: np.ndarray, head: Any, form: str, quality: int = 90) -> Any:
    """Build a sensor_msgs/CompressedImage as image_transport's plugin writes it.

    Args:
        pixels: as for `image_message`.
        head: the header.
        form: "png" (lossless) or "jpeg".
        quality: JPEG quality, 1 to 100.

    Raises:
        BagError: 16 bits as JPEG, or the image cannot be compressed.
    """
    encoding = _encoding(pixels)
    if form == "jpeg" and pixels.dtype != np.uint8:
        raise BagError("16-bit images cannot be written as JPEG, which has 8 bits: use png")
    colour = pixels.ndim == 3
    # Sensor noise hardly compresses, so the fastest setting is as good as any.
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if form == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, data = cv2.imencode(f".{form}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if colour else pixels, options)
    if not done:
        raise BagError(f"an image of {pixels.shape[1]}x{pixels.shape[0]} cannot be compressed as {form}")
    text = f"{encoding}; {form} compressed {'bgr8' if colour else encoding}"
    return make("sensor_msgs/msg/CompressedImage", header=head, format=text, data=data.reshape(-1))


def detections_message(percepts: PerceptionResult, head: Any, class_ids: Sequence[str] = ()) -> Any:
    """Build a vision_msgs/Detection2DArray of a result; empty without detections. Class ids: `detection_fields`."""
    return detection_array(detection_fields(percepts, class_ids), head)


def detection_array(found: Any, head: Any, ids: Sequence[str] = ()) -> Any:
    """Build a vision_msgs/Detection2DArray.

    Args:
        found: `DetectionFields`, best first.
        head: the header, also of each detection.
        ids: one id per detection, such as a track; empty: those of `found`.
    """
    listed = list(found)
    names = ids or [fields.track_id for fields in listed]
    detections = [_detection(fields, head, name) for fields, name in zip(listed, names, strict=True)]
    return make("vision_msgs/msg/Detection2DArray", header=head, detections=detections)


annotations_message = partial(result_fields.annotations_message, make)
camera_mode_message = partial(result_fields.camera_mode_message, make)
label_message = partial(result_fields.label_message, make)
report_message = partial(result_fields.report_message, make)
temperatures_message = partial(result_fields.temperatures_message, make)
vision_info_message = partial(result_fields.vision_info_message, make)


def _encoding(pixels: np.ndarray) -> str:
    encoding = _ENCODINGS.get((pixels.ndim, pixels.dtype.name))
    if encoding is None or pixels.size == 0 or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise BagError(
            f"an image must be uint8 [h, w, 3], or uint8 or uint16 [h, w], got {pixels.dtype} {tuple(pixels.shape)}"
        )
    return encoding


def _detection(fields: DetectionFields, head: Any, name: str) -> Any:
    point = make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)
    turn = make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    pose = make(
        "geometry_msgs/msg/PoseWithCovariance",
        pose=make("geometry_msgs/msg/Pose", position=point, orientation=turn),
        covariance=np.zeros(36),
    )
    guess = make("vision_msgs/msg/ObjectHypothesis", class_id=fields.class_id, score=fields.score)
    position = make("vision_msgs/msg/Point2D", x=fields.x, y=fields.y)
    box = make(
        "vision_msgs/msg/BoundingBox2D",
        center=make("vision_msgs/msg/Pose2D", position=position, theta=0.0),
        size_x=fields.width,
        size_y=fields.height,
    )
    result = make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=guess, pose=pose)
    return make("vision_msgs/msg/Detection2D", header=head, results=[result], bbox=box, id=name)
