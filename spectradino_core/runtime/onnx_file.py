"""Check an ONNX file before opening a session: it must contain all weights and reference no other file.

In ONNX a tensor may name another file, with any path, from which the runtime then reads; so may a node with a
vendor's compiled engine. A model is a single file here, so both are refused. The scan parses the protobuf wire format
only, since the robot has no `onnx` package: https://protobuf.dev/programming-guides/encoding, onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from spectradino_core.files import FileError, open_file
from spectradino_core.runtime.bundle import BundleError
from spectradino_core.text import printable

_MAX_FIELDS = 2_000_000
"""A ViT-G has about 100,000; this bounds a maliciously large file to half a second."""
_MAX_DEPTH = 32

_TENSOR, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = "tensor", 13, 14
_NODE, _NODE_OP_TYPE = "node", 4
# Message -> field number -> nested message: the paths from a model to its tensors and nodes.
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
"""Operators with a path to a compiled engine."""


class _DamagedError(ValueError):
    """The bytes are not a protobuf message."""


def check_onnx_file(path: Path) -> None:
    """Refuse a model file that is not a regular file, a placeholder, not ONNX, or that references other files.

    Raises:
        BundleError: the file is one of these; the message names it and the remedy.
    """
    try:
        with open_file(path, "model file") as file:
            if not file.read(1):
                raise BundleError(f"model file {printable(str(path))} is empty: copy or export it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _ProtobufScan(data, path).model()
    except FileError as error:
        raise BundleError(str(error)) from None
    except (_DamagedError, IndexError) as error:
        raise BundleError(
            f"{printable(str(path))} is not a readable ONNX model (truncated or damaged?): {error}"
        ) from None


class _ProtobufScan:
    """Scan of the fields that lead to tensors and nodes; all others are skipped by length."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data, self._shown, self._count = data, printable(str(path)), 0

    def model(self) -> None:
        self._message("model", 0, len(self._data), 0)

    def _message(self, kind: str, start: int, end: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise BundleError(
                f"{self._shown}: its graphs are nested more than {_MAX_DEPTH} levels deep: use a file that "
                "'spectradino export' wrote"
            )
        inside = _INSIDE[kind]
        for field, wire, first, last in self._fields(start, end):
            if wire == _BYTES and field in inside:
                self._message(inside[field], first, last, depth + 1)
            elif kind == _TENSOR and (
                field == _TENSOR_EXTERNAL_DATA or (field == _TENSOR_DATA_LOCATION and any(self._data[first:last]))
            ):
                raise BundleError(
                    f"{self._shown} has weights in another file (ONNX external data), which is not allowed: export it "
                    "as one file with 'spectradino export'"
                )
            elif kind == _NODE and field == _NODE_OP_TYPE and self._data[first:last] in _OF_OTHER_FILES:
                raise BundleError(
                    f"{self._shown} contains an engine compiled for one device ({self._data[first:last].decode()}), "
                    "which is not allowed: export it again with 'spectradino export'"
                )

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield number, wire type, start and end of the content of each field of a message."""
        at = start
        while at < end:
            self._count += 1
            if self._count > _MAX_FIELDS:
                raise BundleError(
                    f"{self._shown} has more than {_MAX_FIELDS} fields, more than any model: use a file that "
                    "'spectradino export' wrote"
                )
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
                raise _DamagedError(f"a field exceeds its message or the file at byte {last}")
            yield field, wire, at, last
            at = last

    def _varint(self, offset: int, end: int, longest: int) -> tuple[int, int]:
        value = shift = 0
        for _ in range(longest):
            if offset >= end:
                break
            byte = self._data[offset]
            offset += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if longest == 5 and value >> 32:  # truncated to 32 bits it would be another field
                    break
                return value, offset
            shift += 7
        raise _DamagedError(f"the number at byte {offset} is truncated or too long")
