"""Deserialize raw messages with the types of their bag."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from typing import Any

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from spectradino_core.bags.packing import why_no_cdr

__all__ = ["DEFINITIONS", "DamagedMessageError", "MessageTypes", "peek_stamp_ns", "writing_types"]

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


_STAMPED = struct.Struct("<iI"), struct.Struct(">iI")


class DamagedMessageError(ValueError):
    """The bytes of a message do not match its type."""


class MessageTypes:
    """Message types of one bag: its own definitions, else those of the distribution and of this package."""

    def __init__(self, definitions: Iterable[tuple[str, MessageDefinition]] = ()) -> None:
        """
        Args:
            definitions: type names with the definition stored in the bag, empty if none is stored.
        """
        self._definitions = dict(definitions)
        self._stores: dict[str, Typestore | None] = {}

    def knows(self, name: str) -> bool:
        """Return whether messages of this type can be read."""
        return self._store_of(name) is not None

    def read(self, raw: bytes, name: str) -> Any:
        """Deserialize a message.

        Raises:
            DamagedMessageError: the type is unknown, or the bytes do not match it.
        """
        store = self._store_of(name)
        if store is None:
            raise DamagedMessageError(f"the type {name} is unknown")
        if text := why_no_cdr(raw):
            raise DamagedMessageError(f"not a {name}: {text}")
        try:
            return store.deserialize_cdr(raw, name)
        except (SerdeError, KeyError, struct.error, ValueError, IndexError, MemoryError, OverflowError) as error:
            raise DamagedMessageError(f"not a {name}: {' '.join(str(error).split())[:160]}") from None

    def _store_of(self, name: str) -> Typestore | None:
        # Definitions are parsed on demand: a robot's bag contains dozens, at about ten milliseconds each.
        if name not in self._stores:
            self._stores[name] = self._own(name) or (_common() if name in _common().fielddefs else None)
        return self._stores[name]

    def _own(self, name: str) -> Typestore | None:
        """Return the bag's own types if they differ from the common ones, whose classes all bags share."""
        definition = self._definitions.get(name)
        if definition is None or definition.format == MessageDefinitionFormat.NONE or not definition.data.strip():
            return None
        try:
            store = get_typestore(Stores.EMPTY)
            store.register(_parsed(name, definition))
        except (TypesysError, ValueError, KeyError, AssertionError, RecursionError):
            return None  # the common definition may fit
        common = _common().fielddefs
        return None if all(common.get(t) == store.fielddefs[t] for t in store.fielddefs) else store


def peek_stamp_ns(raw: bytes) -> int:
    """Read the stamp of a message that begins with a std_msgs/Header, without deserializing the rest.

    Raises:
        DamagedMessageError: too short, or not in CDR.
    """
    if text := why_no_cdr(raw):
        raise DamagedMessageError(text)
    if len(raw) < 12:
        raise DamagedMessageError(f"its {len(raw)} bytes are too short for a header")
    seconds, nanoseconds = _STAMPED[0 if raw[1] else 1].unpack_from(raw, 4)
    return seconds * 1_000_000_000 + nanoseconds


def writing_types() -> Typestore:
    """Return the types for writing: those of ROS 2 Jazzy with vision_msgs 4 and this project's own."""
    return _common()


@cache
def _common() -> Typestore:
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
