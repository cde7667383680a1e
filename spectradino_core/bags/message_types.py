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
        self._common = _common()
        self._own: dict[str, Typestore] = {}
        for name, definition in definitions:
            if definition.format == MessageDefinitionFormat.NONE or name in self._own:
                continue
            try:
                types = _parsed(name, definition)
                store = get_typestore(Stores.EMPTY)
                store.register(types)
                known = self._common.fielddefs.get(name)
                # An equal one keeps the common class, so that objects of two bags are of one type.
                if known is None or any(self._common.fielddefs.get(t) != store.fielddefs[t] for t in store.fielddefs):
                    self._own[name] = store
            except (TypesysError, ValueError, KeyError, AssertionError, RecursionError):
                continue  # what is not understood is refused when it is asked for, see `knows`

    def knows(self, name: str) -> bool:
        """Whether messages of this type can be read."""
        return name in self._own or name in self._common.fielddefs

    def read(self, raw: bytes, name: str) -> Any:
        """The message as an object with its fields.

        Raises:
            DamagedMessageError: the bytes do not fit the type.
        """
        try:
            return (self._own.get(name) or self._common).deserialize_cdr(raw, name)
        except (SerdeError, KeyError, struct.error, ValueError, IndexError, MemoryError, OverflowError) as error:
            raise DamagedMessageError(f"no {name}: {' '.join(str(error).split())[:160]}") from None


def peek_stamp_ns(raw: bytes) -> int:
    """The stamp of a message that begins with a std_msgs/Header, without unpacking the rest.

    Raises:
        DamagedMessageError: too short, or not in CDR.
    """
    if len(raw) < 12 or raw[0] != 0 or raw[1] > 1:
        raise DamagedMessageError("too short for a header, or not in CDR")
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
