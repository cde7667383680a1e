"""Types and messages of a bag: deserialize raw messages with its types, and build messages with the node's fields."""

from __future__ import annotations

import logging
import struct
import sys
from collections.abc import Iterable, Sequence
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from spectradino_core.bags import BagError
from spectradino_core.bags.salvage import MAX_MESSAGE, ZSTD
from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.streams import result_fields
from spectradino_core.streams.result_fields import DetectionFields, detection_fields

DEFINITIONS = {
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y\n",
    "vision_msgs/msg/Pose2D": "Point2D position\nfloat64 theta\n",
    "vision_msgs/msg/BoundingBox2D": "Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n",
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox2D bbox\nstring id\n"
    ),
    "vision_msgs/msg/Detection2DArray": "std_msgs/Header header\nDetection2D[] detections\n",
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    "vision_msgs/msg/LabelInfo": "std_msgs/Header header\nVisionClass[] class_map\nfloat32 threshold\n",
    "foxglove_msgs/msg/Color": "float64 r\nfloat64 g\nfloat64 b\nfloat64 a\n",
    "foxglove_msgs/msg/Point2": "float64 x\nfloat64 y\n",
    "foxglove_msgs/msg/CircleAnnotation": (
        "builtin_interfaces/Time timestamp\nPoint2 position\nfloat64 diameter\nfloat64 thickness\nColor fill_color\n"
        "Color outline_color\n"
    ),
    "foxglove_msgs/msg/PointsAnnotation": (
        "builtin_interfaces/Time timestamp\nuint8 UNKNOWN=0\nuint8 POINTS=1\nuint8 LINE_LOOP=2\nuint8 LINE_STRIP=3\n"
        "uint8 LINE_LIST=4\nuint8 type\nPoint2[] points\nColor outline_color\nColor[] outline_colors\n"
        "Color fill_color\nfloat64 thickness\n"
    ),
    "foxglove_msgs/msg/TextAnnotation": (
        "builtin_interfaces/Time timestamp\nPoint2 position\nstring text\nfloat64 font_size\nColor text_color\n"
        "Color background_color\n"
    ),
    "foxglove_msgs/msg/ImageAnnotations": (
        "CircleAnnotation[] circles\nPointsAnnotation[] points\nTextAnnotation[] texts\n"
    ),
    "vision_msgs/msg/VisionInfo": (
        "std_msgs/Header header\nstring method\nstring database_location\nint32 database_version\n"
    ),
    "spectradino_msgs/msg/CameraMode": (
        "uint8 MODE_FUSED=0\nuint8 MODE_RGB_ONLY=1\nuint8 MODE_IR_ONLY=2\nuint8 MODE_STALE=3\nuint8 MODE_DISABLED=4\n"
        "std_msgs/Header header\nuint8 mode\n"
    ),
    "spectradino_msgs/msg/DetectionTemperature": "string class_id\nfloat32 minimum\nfloat32 mean\nfloat32 maximum\n",
    "spectradino_msgs/msg/DetectionTemperatures": (
        "std_msgs/Header header\nbuiltin_interfaces/Time ir_stamp\nDetectionTemperature[] detections\n"
    ),
    "spectradino_msgs/msg/StepTime": "string name\nfloat64 milliseconds\n",
    "spectradino_msgs/msg/DropCount": "string cause\nuint64 count\n",
    "spectradino_msgs/msg/FrameReport": (
        "uint8 MODE_FUSED=0\nuint8 MODE_RGB_ONLY=1\nuint8 MODE_IR_ONLY=2\nuint8 MODE_STALE=3\n"
        "std_msgs/Header header\nbuiltin_interfaces/Time rgb_stamp\nbuiltin_interfaces/Time ir_stamp\n"
        "float64 ir_offset_ms\nbool ir_reused\n"
        "uint8 mode\nuint32 detections\nfloat64 latency_ms\nStepTime[] steps\nDropCount[] drops\n"
        "bool deadline_met\nfloat64 deadline_ms\nstring model\n"
    ),
}
"""Fields and constants by type name."""

log = logging.getLogger(__name__)

_LONGEST_DEFINITION = 1 << 16
"""Longest definition, in characters, that is parsed, in quadratic time: 3 s for as many lines."""

_STAMPED = struct.Struct("<iI"), struct.Struct(">iI")


_NO_CDR = {
    b"\x04\x22\x4d\x18": "compressed with LZ4, and only zstd is supported",
    b"\x1f\x8b": "compressed with gzip, and only zstd is supported",
    b"BZh": "compressed with bzip2, and only zstd is supported",
    b"{": "text such as JSON, not CDR",
    b"[": "text such as JSON, not CDR",
}
_ENCODINGS = {(2, "uint8"): "mono8", (2, "uint16"): "mono16", (3, "uint8"): "rgb8"}
_QUALITY = 90


class DamagedMessageError(ValueError):
    """The bytes of a message do not match its type."""


class MessageTypes:
    """Message types of one bag: its own definitions, else those of the distribution and of this package."""

    def __init__(self, definitions: Iterable[tuple[str, MessageDefinition]] = ()) -> None:
        """Definitions are those stored in the bag, by type name; empty ones are as good as none."""
        self._definitions = dict(definitions)
        self._stores: dict[str, Typestore | None] = {}

    def has_type(self, name: str) -> bool:
        """Return whether messages of this type can be read."""
        return self._store_of(name) is not None

    def read(self, raw: bytes, name: str) -> Any:
        """Deserialize a message; raises DamagedMessageError if its type is unknown, or the bytes do not match it."""
        store = self._store_of(name)
        if store is None:
            raise DamagedMessageError(f"the type {name} is unknown")
        if text := cdr_problem(raw):
            raise DamagedMessageError(f"not a {name}: {text}")
        try:
            return store.deserialize_cdr(raw, name)
        except (SerdeError, KeyError, struct.error, ValueError, IndexError, MemoryError, OverflowError) as error:
            raise DamagedMessageError(f"not a {name}: {' '.join(str(error).split())[:160]}") from None

    def _store_of(self, name: str) -> Typestore | None:
        # Definitions are parsed on demand: a robot's bag contains dozens, at about ten milliseconds each.
        if name not in self._stores:
            self._stores[name] = self._own(name) or (writing_types() if name in writing_types().fielddefs else None)
        return self._stores[name]

    def _own(self, name: str) -> Typestore | None:
        """Return the bag's own types if they differ from the common ones, whose classes all bags share."""
        definition = self._definitions.get(name)
        if definition is None or definition.format == MessageDefinitionFormat.NONE or not definition.data.strip():
            return None
        if len(definition.data) > _LONGEST_DEFINITION:
            length, longest = len(definition.data) >> 10, _LONGEST_DEFINITION >> 10
            log.warning("%s: its definition of %d KiB in the bag is not used, only up to %d", name, length, longest)
            return None
        try:
            store = get_typestore(Stores.EMPTY)
            store.register(_parsed(name, definition))
        except (TypesysError, ValueError, KeyError, AssertionError, RecursionError):
            return None  # the common definition may fit
        common = writing_types().fielddefs
        return None if all(common.get(t) == store.fielddefs[t] for t in store.fielddefs) else store


def cdr_problem(raw: bytes) -> str:
    """Describe bytes that are not a CDR message; "" if they may be one."""
    start = bytes(raw[:4])
    if len(raw) < 4:
        return f"a message of {len(raw)} bytes is too short"
    if start == ZSTD:
        return f"compressed with zstd and truncated or damaged, or larger than {MAX_MESSAGE >> 20} MiB"
    if start[0] == 0 and start[1] <= 1:
        return ""
    if start[0] == 0 and start[1] <= 0x0B:
        return "in another representation than plain CDR (XCDR2 or a parameter list), which is not supported"
    known = next((text for magic, text in _NO_CDR.items() if start.startswith(magic)), "")
    return known or f"not in CDR, as it begins with the bytes {start.hex(' ')}"


def peek_stamp_ns(raw: bytes) -> int:
    """Read the stamp of a message that begins with a std_msgs/Header; raises DamagedMessageError as `MessageTypes`."""
    if text := cdr_problem(raw):
        raise DamagedMessageError(text)
    if len(raw) < 12:
        raise DamagedMessageError(f"its {len(raw)} bytes are too short for a header")
    seconds, nanoseconds = _STAMPED[0 if raw[1] else 1].unpack_from(raw, 4)
    return seconds * 1_000_000_000 + nanoseconds


@cache
def writing_types() -> Typestore:
    """Return the types for writing: those of ROS 2 Jazzy with vision_msgs 4 and this project's own."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for name, text in DEFINITIONS.items():
        types.update(get_types_from_msg(text, name))
    store.register(types)
    return store


def _parsed(name: str, definition: MessageDefinition) -> Any:
    if definition.format == MessageDefinitionFormat.MSG:
        return get_types_from_msg(definition.data, name)
    types: dict[str, Any] = {}
    separator = "=" * 80 + "\n"
    for part in definition.data.split(separator):
        text = part.partition("\n")[2] if part.startswith("IDL: ") else part
        if text.strip():
            types.update(get_types_from_idl(text))
    return types


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
    """Build a sensor_msgs/Image, in this machine's byte order, of uint8 RGB [h, w, 3], or uint8 or uint16 [h, w]."""
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


def compressed_message(pixels: np.ndarray, head: Any, form: str) -> Any:
    """Build a sensor_msgs/CompressedImage, "png" or "jpeg" (8 bits only), as image_transport's plugin writes it."""
    encoding = _encoding(pixels)
    if form == "jpeg" and pixels.dtype != np.uint8:
        raise BagError("16-bit images cannot be written as JPEG, which has 8 bits: use png")
    colour = pixels.ndim == 3
    # Sensor noise hardly compresses, so the fastest setting is as good as any.
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if form == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, data = cv2.imencode(f".{form}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if colour else pixels, options)
    if not done:
        raise BagError(f"an image of {pixels.shape[1]}x{pixels.shape[0]} cannot be compressed as {form}")
    text = f"{encoding}; {form} compressed {'bgr8' if colour else encoding}"
    return make("sensor_msgs/msg/CompressedImage", header=head, format=text, data=data.reshape(-1))


def detections_message(perception: PerceptionResult, head: Any, class_ids: Sequence[str] = ()) -> Any:
    """Build a vision_msgs/Detection2DArray of a result; empty without detections. Class ids: `detection_fields`."""
    return detection_array(detection_fields(perception, class_ids), head)


def detection_array(found: Iterable[DetectionFields], head: Any) -> Any:
    """Build a vision_msgs/Detection2DArray; each detection has the same header."""
    detections = [_detection(fields, head) for fields in found]
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


def _detection(fields: DetectionFields, head: Any) -> Any:
    point = make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)
    turn = make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    pose = make(
        "geometry_msgs/msg/PoseWithCovariance",
        pose=make("geometry_msgs/msg/Pose", position=point, orientation=turn),
        covariance=np.zeros(36),
    )
    hypothesis = make("vision_msgs/msg/ObjectHypothesis", class_id=fields.class_id, score=fields.score)
    position = make("vision_msgs/msg/Point2D", x=fields.x, y=fields.y)
    box = make(
        "vision_msgs/msg/BoundingBox2D",
        center=make("vision_msgs/msg/Pose2D", position=position, theta=0.0),
        size_x=fields.width,
        size_y=fields.height,
    )
    result = make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=pose)
    return make("vision_msgs/msg/Detection2D", header=head, results=[result], bbox=box, id=fields.track_id)
