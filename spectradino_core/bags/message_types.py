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

from spectradino_core.bags.definitions import DEFINITIONS
from spectradino_core.bags.packing import why_no_cdr

__all__ = ["DamagedMessageError", "MessageTypes", "peek_stamp_ns", "writing_types"]

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
        """Whether messages of this type can be read."""
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
