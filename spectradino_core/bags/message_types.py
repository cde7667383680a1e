"""Raw messages to objects with the fields of their type, and back."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from typing import Any

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from spectradino_core.bags.definitions import DEFINITIONS
from spectradino_core.bags.packing import why_no_cdr

__all__ = ["DamagedMessageError", "MessageTypes", "peek_stamp_ns", "writing_types"]

_STAMPED = struct.Struct("<iI"), struct.Struct(">iI")


class DamagedMessageError(ValueError):
    """The bytes of a message are not what its type says."""


class MessageTypes:
    """The types of one bag: as its own definitions say, else as the distribution and this package do."""

    def __init__(self, definitions: Iterable[tuple[str, MessageDefinition]] = ()) -> None:
        """
        Args:
            definitions: name of a type and its definition as found in a bag, empty where it holds none.
        """
        self._definitions = dict(definitions)
        self._stores: dict[str, Typestore | None] = {}

    def knows(self, name: str) -> bool:
        """Whether messages of this type can be read."""
        return self._store_of(name) is not None

    def read(self, raw: bytes, name: str) -> Any:
        """The message as an object with its fields.

        Raises:
            DamagedMessageError: the bytes do not fit the type, or nobody knows it.
        """
        store = self._store_of(name)
        if store is None:
            raise DamagedMessageError(f"nobody knows the type {name}")
        if text := why_no_cdr(raw):
            raise DamagedMessageError(f"no {name}: {text}")
        try:
            return store.deserialize_cdr(raw, name)
        except (SerdeError, KeyError, struct.error, ValueError, IndexError, MemoryError, OverflowError) as error:
            raise DamagedMessageError(f"no {name}: {' '.join(str(error).split())[:160]}") from None

    def _store_of(self, name: str) -> Typestore | None:
        # Definitions are read when they are needed: a robot's bag holds dozens, at some ten milliseconds each.
        if name not in self._stores:
            self._stores[name] = self._own(name) or (_common() if name in _common().fielddefs else None)
        return self._stores[name]

    def _own(self, name: str) -> Typestore | None:
        """The bag's own types, if they differ from the common ones, whose classes are the same for all bags."""
        definition = self._definitions.get(name)
        if definition is None or definition.format == MessageDefinitionFormat.NONE or not definition.data.strip():
            return None
        try:
            store = get_typestore(Stores.EMPTY)
            store.register(_parsed(name, definition))
        except (TypesysError, ValueError, KeyError, AssertionError, RecursionError):
            return None  # the common one may do
        common = _common().fielddefs
        return None if all(common.get(t) == store.fielddefs[t] for t in store.fielddefs) else store


def peek_stamp_ns(raw: bytes) -> int:
    """The stamp of a message that begins with a std_msgs/Header, without unpacking the rest.

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
    """Types to write: those of ROS 2 Jazzy with vision_msgs 4 and this project's own."""
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
