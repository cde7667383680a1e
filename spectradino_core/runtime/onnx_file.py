"""What an ONNX file may hold before a session is opened on it: one graph with all of its weights, and no other file.

ONNX lets a tensor name another file, with any path, from which the runtime then reads; a node of a vendor's compiled
engine does so too. A model is one file here, so both are refused. The walk needs nothing but the protobuf wire format,
since the robot has no `onnx` package: https://protobuf.dev/programming-guides/encoding, onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from spectradino_core.files import FileError, open_file
from spectradino_core.runtime.bundle import BundleError
from spectradino_core.text import printable

__all__ = ["check_onnx_file"]

_MOST_FIELDS = 2_000_000
"""A ViT-G has about 100,000; half a second for a file that was made to be walked for ever."""
_MOST_DEPTH = 32

_TENSOR, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = "tensor", 13, 14
_NODE, _NODE_OP_TYPE = "node", 4
# Message -> field number -> message in it: the ways from a model to its tensors and nodes.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: _NODE, 11: "attribute"},
    "graph": {1: _NODE, 5: _TENSOR, 15: "sparse"},
    _NODE: {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_OF_OTHER_FILES = (b"EPContext",)
"""Operators that hold a path to a compiled engine."""


class _DamagedError(ValueError):
    """The bytes are no protobuf message."""


def check_onnx_file(path: Path) -> None:
    """Refuses a model file that is no regular file, a placeholder, no ONNX, or that would have other files read.

    Args:
        path: the .onnx file.

    Raises:
        BundleError: it is one of these; the message names it and the remedy.
    """
    try:
        with open_file(path, "model file") as file:
            if not file.read(1):
                raise BundleError(f"model file {printable(str(path))} is empty: copy or export it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _Walk(data, path).model()
    except FileError as error:
        raise BundleError(str(error)) from None
    except (_DamagedError, IndexError) as error:
        raise BundleError(
            f"{printable(str(path))} is not a readable ONNX model (truncated or damaged?): {error}"
        ) from None


class _Walk:
    """One pass over the fields that lead to tensors and nodes; everything else is skipped by its length."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data, self._shown, self._count = data, printable(str(path)), 0

    def model(self) -> None:
        self._message("model", 0, len(self._data), 0)

    def _message(self, kind: str, start: int, end: int, depth: int) -> None:
        if depth > _MOST_DEPTH:
            raise BundleError(f"{self._shown}: its graphs are nested more than {_MOST_DEPTH} levels deep: refused")
        inside = _INSIDE[kind]
        for field, wire, first, last in self._fields(start, end):
            if wire == _BYTES and field in inside:
                self._message(inside[field], first, last, depth + 1)
            elif kind == _TENSOR and (
                field == _TENSOR_EXTERNAL_DATA or (field == _TENSOR_DATA_LOCATION and any(self._data[first:last]))
            ):
                raise BundleError(
                    f"{self._shown} keeps weights in another file (ONNX external data), which is refused: a model is "
                    "one file; export it again with 'spectradino export'"
                )
            elif kind == _NODE and field == _NODE_OP_TYPE and self._data[first:last] in _OF_OTHER_FILES:
                raise BundleError(
                    f"{self._shown} holds an engine compiled for one device ({self._data[first:last].decode()}), which "
                    "is refused: export it again with 'spectradino export'"
                )

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, wire type, and where its content begins and ends, of each field of a message."""
        at = start
        while at < end:
            self._count += 1
            if self._count > _MOST_FIELDS:
                raise BundleError(f"{self._shown} holds more than {_MOST_FIELDS} parts, which no model does: refused")
            tag, at = self._varint(at, end, 5)
            field, wire = tag >> 3, tag & 7
            if wire == _BYTES:
                length, at = self._varint(at, end, 5)
                last = at + length
            elif wire == _VARINT:
                _, last = self._varint(at, end, 10)
            elif wire in (_FIXED64, _FIXED32):
                last = at + (8 if wire == _FIXED64 else 4)
            else:
                raise _DamagedError(f"unknown wire type {wire} at byte {at}")
            if not field or last > end:
                raise _DamagedError(f"it ends, or a part of it ends, before byte {last}")
            yield field, wire, at, last
            at = last

    def _varint(self, at: int, end: int, longest: int) -> tuple[int, int]:
        value = shift = 0
        for _ in range(longest):
            if at >= end:
                break
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if longest == 5 and value >> 32:  # a reader that cuts this to 32 bits would see another field
                    break
                return value, at
            shift += 7
        raise _DamagedError(f"a number at byte {at} is cut short or too long")
