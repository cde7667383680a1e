"""Check the claimed size of image files and messages before a decoder allocates memory.

A file of a few kilobytes may claim gigabytes of pixels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection

MAX_SIDE = 1 << 16
"""No camera has more rows or columns; a header that claims more is damaged."""

MAX_FILE_PIXELS = 100_000_000
"""Limit for image files: 300 MB decoded as RGB, and more than nearly all cameras have."""

_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_NETPBM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})")
_WIDTH, _HEIGHT = 256, 257
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MAX_TIFF_ENTRIES, _MAX_TIFF_VALUES = 512, 1 << 16


def size_fault(width: int, height: int, max_pixels: int) -> str:
    """Describe what is wrong with an image's claimed size, as a predicate after its name; "" if it is valid."""
    if width <= 0 or height <= 0:
        return f"is {width}x{height} pixels, so it is empty"
    if max(width, height) > MAX_SIDE:
        return f"claims {width}x{height} pixels, more than {MAX_SIDE} on a side"
    if width * height > max_pixels:
        return f"claims {width}x{height} pixels, above the limit of {max_pixels / 1e6:g} megapixels"
    return ""


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """Read (width, height) from the header of a PNG, JPEG, TIFF, BMP, WebP or PGM/PPM file.

    None for other formats, and for truncated or damaged headers.
    """
    try:
        for begins, read in _READERS:
            if data.startswith(begins):
                return read(data)
    except (struct.error, IndexError, KeyError, ValueError, OverflowError):
        pass
    return None


def _png(data: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while data[at] == 0xFF:
        while data[at + 1] == 0xFF:  # fill
            at += 1
        code = data[at + 1]
        if code in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 if code in _NO_LENGTH else 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _tiff(data: bytes) -> tuple[int, int] | None:
    tags = tiff_tags(data, (_WIDTH, _HEIGHT))
    return tags[_WIDTH][0], tags[_HEIGHT][0]


def tiff_tags(data: bytes | memoryview, wanted: Collection[int]) -> dict[int, list[int]]:
    """Read the integers of wanted tags in the first directory of a TIFF or BigTIFF file, if they are in the file.

    Others are not decoded: many tags that refer to the same bytes would take seconds and gigabytes.

    Raises:
        ValueError: a tag is there twice: libtiff takes the first of two sizes.
        struct.error, IndexError, OverflowError: the file is truncated or damaged.
    """
    order = "<" if data[0] == ord("I") else ">"
    is_big = struct.unpack_from(order + "H", data, 2) == (43,)
    offset, number = ("Q", "Q") if is_big else ("I", "H")
    entry = struct.Struct(f"{order}HH{offset}")
    length = entry.size + struct.calcsize(f"={offset}")
    (start,) = struct.unpack_from(order + offset, data, 8 if is_big else 4)
    (entries,) = struct.unpack_from(order + number, data, start)
    start += struct.calcsize(f"={number}")
    found: dict[int, list[int]] = {}
    seen: set[int] = set()
    for place in range(start, start + length * min(entries, _MAX_TIFF_ENTRIES), length):
        tag, kind, count = entry.unpack_from(data, place)
        if tag in seen:
            raise ValueError(f"its directory has tag {tag} twice")
        seen.add(tag)
        letter, at = _TIFF_TYPES.get(kind), place + entry.size
        if tag not in wanted or letter is None or not 1 <= count <= _MAX_TIFF_VALUES:
            continue
        values = struct.Struct(f"{order}{count}{letter}")
        if at + values.size > place + length:
            (at,) = struct.unpack_from(order + offset, data, at)
        if at + values.size <= len(data):
            found[tag] = list(values.unpack_from(data, at))
    return found


def _bmp(data: bytes) -> tuple[int, int] | None:
    old = struct.unpack_from("<I", data, 14) == (12,)
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    return abs(width), abs(height)  # a negative height means rows stored from the top


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        return width + 1, height + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _netpbm(data: bytes) -> tuple[int, int] | None:
    found = _NETPBM.match(data)
    return (int(found[1]), int(found[2])) if found else None


_READERS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes], tuple[int, int] | None]], ...] = (
    (_PNG, _png),
    (b"\xff\xd8", _jpeg),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    (b"P", _netpbm),
)
