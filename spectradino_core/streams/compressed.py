"""Compressed image messages to arrays: JPEG and PNG for 8 bits, PNG and TIFF for 16.

A message is anything with the fields of `sensor_msgs/CompressedImage`: format and data. The data itself says what kind
of file it is; the format's text ("jpeg", "rgb8; jpeg compressed bgr8", "mono16; png compressed") says what it was made
from, and a contradiction is refused. The size is read from the file's head before anything is unpacked, so that a few
bytes cannot ask for gigabytes. The stored bytes are checked as far as their format allows: PNG's checksums, JPEG's end.

Letters: h height, w width.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from spectradino_core.streams.decode import DecodeError, check_size, flat_bytes, grey_of

__all__ = [
    "MAX_PIXELS",
    "CompressedImageMessage",
    "decode_compressed_infrared",
    "decode_compressed_rgb",
    "open_compressed_rgb",
]

MAX_PIXELS = 1 << 26
"""More pixels than any camera on a robot has (8192 x 8192): a file that claims more is damaged, or meant to do harm."""

_KINDS = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"II*\x00", "tiff"), (b"MM\x00*", "tiff"))
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END_WITHIN = 1024  # bytes of padding that encoders are known to leave behind the end of a picture


class CompressedImageMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage that are read."""

    format: str
    data: Any


def decode_compressed_rgb(message: CompressedImageMessage) -> np.ndarray:
    """A compressed colour image to uint8 [h, w, 3] in RGB order; grey is repeated over the channels.

    Raises:
        DecodeError: not JPEG, PNG or TIFF; damaged; or more than `MAX_PIXELS`.
    """
    return open_compressed_rgb(message)()


def open_compressed_rgb(message: CompressedImageMessage) -> Callable[[], np.ndarray]:
    """As `decode_compressed_rgb` in two steps: checks what can be seen without unpacking, and gives what unpacks.

    Unpacking takes milliseconds, in vain where a newer frame comes before this one is needed.

    Raises:
        DecodeError: not JPEG, PNG or TIFF, more than `MAX_PIXELS`, or visibly damaged. What is returned raises it for
            damage that only shows on unpacking.
    """
    file = _open(message)

    def unpack() -> np.ndarray:
        image = _unpack(file, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    return unpack


def decode_compressed_infrared(message: CompressedImageMessage) -> np.ndarray:
    """A compressed infrared image to raw counts, uint8 or uint16 [h, w].

    Grey that was stored as three equal channels is read too; colours are refused (see `decode.decode_infrared`).

    Raises:
        DecodeError: not JPEG, PNG or TIFF; damaged; more than `MAX_PIXELS`; a picture with colours; a JPEG made from
            16-bit counts, which it cannot carry; or 8 bits where the format's text says 16.
    """
    file = _open(message)
    kind, text = file.kind, file.text
    image = _unpack(file, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    made_from_16_bits = "16" in text.split(";")[0]
    if made_from_16_bits and kind == "jpeg":
        raise DecodeError(
            "lossy_16bit",
            f"the infrared image was 16-bit ({text!r}) and sent as JPEG, which keeps 8: set the publisher's compressed "
            "format to png (or tiff)",
        )
    if image.dtype not in (np.uint8, np.uint16):
        raise DecodeError(
            "depth_mismatch", f"the infrared image ({text!r}) holds {image.dtype}, not 8 or 16-bit counts"
        )
    if made_from_16_bits and image.dtype != np.uint16:
        raise DecodeError(
            "depth_mismatch", f"the infrared image's format says 16 bits ({text!r}), its {kind} data has 8"
        )
    return image if image.ndim == 2 else grey_of(image, kind)


@dataclass(frozen=True)
class _File:
    """A picture whose head was read: its bytes uint8 [N], kind of file, format's text, and size in pixels."""

    data: np.ndarray
    kind: str
    text: str
    width: int
    height: int


def _open(message: CompressedImageMessage) -> _File:
    text = getattr(message, "format", None)
    if not isinstance(text, str):
        raise DecodeError("bad_field", f"the compressed image's format is a {type(text).__name__}, not a text")
    text = text[:80]
    data = flat_bytes(message)
    raw = data.tobytes()
    kind = next((kind for magic, kind in _KINDS if raw.startswith(magic)), None)
    if kind is None:
        hint = "; subscribe to the plain compressed topic, not compressedDepth" if "compressedDepth" in text else ""
        raise DecodeError(
            "unknown_format",
            f"the compressed image ({text!r}, {len(raw)} bytes from {raw[:8].hex()} on) is no JPEG, PNG or TIFF{hint}",
        )
    try:
        width, height = {"jpeg": _jpeg_size, "png": _png_size, "tiff": _tiff_size}[kind](raw)
    except (struct.error, IndexError, KeyError):
        raise _corrupt(kind, raw, "it ends too early, or its head is damaged") from None
    check_size(height, width, f"the {kind} image")
    if width * height > MAX_PIXELS:
        raise DecodeError("implausible_size", f"the {kind} image claims {width}x{height} pixels, above {MAX_PIXELS}")
    return _File(data, kind, text, width, height)


def _unpack(file: _File, flags: int) -> np.ndarray:
    """The picture as OpenCV reads it."""
    image = _read(file.data, flags)
    if image is None or image.size == 0:
        raise _corrupt(file.kind, file.data, "OpenCV cannot read it")
    if image.shape[:2] != (file.height, file.width):
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise _corrupt(file.kind, file.data, f"it claims {file.width}x{file.height} pixels and holds {size}")
    return image


def _read(data: np.ndarray, flags: int) -> np.ndarray | None:
    """What OpenCV reads, None where it can't; its own complaints, a line or two for each picture, are kept quiet."""
    logging: Any = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2  # the latter up to 4.5
    level = logging.getLogLevel()
    logging.setLogLevel(0)
    try:
        return cv2.imdecode(data, flags)
    except cv2.error:
        return None
    finally:
        logging.setLogLevel(level)


def _corrupt(kind: str, raw: Sized, why: str) -> DecodeError:
    return DecodeError("corrupt_data", f"the {kind} image of {len(raw)} bytes is damaged: {why}")


def _jpeg_size(raw: bytes) -> tuple[int, int]:
    """(width, height) from a JPEG's frame header; checks that the picture has its end."""
    if raw.rfind(b"\xff\xd9", max(0, len(raw) - _END_WITHIN)) < 0:
        raise _corrupt("jpeg", raw, "its end is missing")
    at = 2
    while raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker in _JPEG_FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", raw, at + 5)
            return width, height
        at += 2 + struct.unpack_from(">H", raw, at + 2)[0]
    raise _corrupt("jpeg", raw, "its head is damaged")


def _png_size(raw: bytes) -> tuple[int, int]:
    """(width, height) from a PNG's header; checks every chunk's checksum and that the end is there."""
    at, name, view = 8, b"", memoryview(raw)
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", raw, at)
        (checksum,) = struct.unpack_from(">I", raw, at + 8 + length)
        if zlib.crc32(view[at + 4 : at + 8 + length]) != checksum:
            raise _corrupt("png", raw, f"the checksum of its part {name!r} is wrong")
        if at == 8:
            if name != b"IHDR":
                raise _corrupt("png", raw, "its head is damaged")
            width, height = struct.unpack_from(">II", raw, 16)
        at += 12 + length
    return width, height


def _tiff_size(raw: bytes) -> tuple[int, int]:
    """(width, height) from a TIFF's first directory."""
    order = "<" if raw[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", raw, 4)
    (entries,) = struct.unpack_from(order + "H", raw, at)
    found: dict[int, int] = {}
    for entry in range(min(entries, 512)):
        tag, kind = struct.unpack_from(order + "HH", raw, at + 2 + 12 * entry)
        if tag in (256, 257):
            (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), raw, at + 2 + 12 * entry + 8)
    return found[256], found[257]
