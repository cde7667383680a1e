"""Decode PNG and TIFF files after checks against damage and decompression bombs.

Letters: h height, w width.
"""

from __future__ import annotations

import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.runtime.image_size import tiff_tags
from spectradino_core.streams.image_message import DecodeError, corrupt
from spectradino_core.streams.stderr import diverted_stderr

_NOTHING = re.compile(r"(?!)")
_TIFF_COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _CHANNELS, _COUNTS = 256, 257, 258, 259, 273, 277, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_TIFF_TAGS = frozenset((*range(256, 260), _OFFSETS, _CHANNELS, _COUNTS, *range(322, 326)))
_MAX_TILE_SIDE = 4096
_MAX_CHUNKS = 1 << 16
"""Maximum of a PNG file; encoders write a few, or one per 8 KiB of pixels."""
_OF_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


@dataclass(frozen=True)
class ImageFile:
    """An image file whose header has been checked.

    Attributes:
        kind: "jpeg", "png" or "tiff".
        width, height: size in pixels.
        bits: bits per channel.
        channels: 1 is grey.
        content: uint8 [N] that differs between different images: a JPEG's scans, a PNG's checksums, the whole TIFF.
        data: uint8 [N], what is decoded: of a JPEG up to its end marker; of a PNG without texts, profiles, metadata and
            further images of an animation, any of which may decompress to gigabytes.
    """

    kind: str
    width: int
    height: int
    bits: int
    channels: int
    content: np.ndarray
    data: np.ndarray

    def corrupt(self, reason: str) -> DecodeError:
        """Make the error for damage."""
        return corrupt(self.kind, self.data.size, reason)

    def checked(self, image: np.ndarray | None) -> np.ndarray:
        """Return a decoded image [h, w] or [h, w, 3] in OpenCV's order in RGB order, if it has the size stated."""
        if image is None or image.size == 0:
            raise self.corrupt("OpenCV can't decode it")
        if image.shape[:2] != (self.height, self.width):
            found = f"{image.shape[1]}x{image.shape[0]}"
            raise self.corrupt(f"its header states {self.width}x{self.height} pixels, decoded are {found}")
        return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def png_header(data: np.ndarray) -> ImageFile:
    """Read the header of a PNG file, uint8 [N]; check all chunks' checksums and the end chunk.

    Raises:
        DecodeError: the file is damaged.
        struct.error, IndexError: the file is truncated.
    """
    offset, name, view = 8, b"", data.data
    width = height = bits = kind = 0
    kept, checksums, count = [view[:8]], [], 0
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", view, offset)
        end = offset + 12 + length
        (checksum,) = struct.unpack_from(">I", view, end - 4)
        if zlib.crc32(view[offset + 4 : end - 4]) != checksum:
            raise corrupt("png", data.size, f"the checksum of its chunk {name!r} is wrong")
        if offset == 8:
            if name != b"IHDR" or length != 13:
                raise corrupt("png", data.size, "its header is damaged")
            width, height, bits, kind = struct.unpack_from(">IIBB", view, 16)
        count += 1
        if count > _MAX_CHUNKS:
            raise corrupt("png", data.size, f"it has more than {_MAX_CHUNKS} chunks")
        if name in _OF_PIXELS:
            kept.append(view[offset:end])
        if name == b"IDAT":
            checksums.append(view[end - 4 : end])
        offset = end
    pixels = data if len(kept) == count + 1 else np.frombuffer(b"".join(kept), np.uint8)
    content = np.frombuffer(b"".join(checksums), np.uint8)
    return ImageFile("png", width, height, bits, _PNG_CHANNELS.get(kind, 0), content, pixels)


def tiff_header(data: np.ndarray) -> ImageFile:
    """Read the header of a TIFF file, uint8 [N], from its first directory; check its strips or tiles.

    Raises:
        DecodeError: the file is truncated, or its compression or type of pixels is not supported.
        struct.error, KeyError, IndexError, OverflowError: its directory is damaged.
    """
    try:
        tags = tiff_tags(data.data, _TIFF_TAGS)
    except ValueError as error:
        raise corrupt("tiff", data.size, str(error)) from None
    width, height, bits = tags[_WIDTH][0], tags[_HEIGHT][0], tags.get(_BITS, [1])[0]
    compression, channels = tags.get(_COMPRESSION, [1])[0], tags.get(_CHANNELS, [1])[0]
    depths = (8, 16, 32, 64) if channels == 1 else (8, 16)
    if compression not in _TIFF_COMPRESSIONS or bits not in depths or not 1 <= channels <= 4:
        raise DecodeError(
            "unknown_format",
            f"the tiff image has compression {compression}, {bits} bits and {channels} channels; supported are 8 or 16 "
            "bits and up to 4 channels, or 32 or 64 bits and one channel, with "
            f"{', '.join(dict.fromkeys(_TIFF_COMPRESSIONS.values()))}: set the publisher to one of these, or to png",
        )
    tiled = _TILE_OFFSETS in tags
    offsets, counts = (tags[_TILE_OFFSETS], tags[_TILE_COUNTS]) if tiled else (tags[_OFFSETS], tags[_COUNTS])
    if tiled and max(tags[_TILE_WIDTH][0], tags[_TILE_HEIGHT][0]) > _MAX_TILE_SIDE:
        raise corrupt("tiff", data.size, f"its tiles are larger than {_MAX_TILE_SIDE} pixels")
    if len(offsets) != len(counts) or any(o + n > data.size for o, n in zip(offsets, counts, strict=True)):
        raise corrupt("tiff", data.size, "it is truncated")
    if not tiled and compression == 1 and sum(counts) < width * height * channels * bits // 8:
        raise corrupt("tiff", data.size, "it has fewer pixels than its header states")
    return ImageFile("tiff", width, height, bits, channels, data, data)


def decode_file(file: ImageFile, as_is: bool) -> np.ndarray:
    """Decode a PNG or TIFF file with OpenCV, without its libraries' output on stderr.

    Returns:
        If `as_is` of the file's depth, [h, w] of a grey image or [h, w, 3] in RGB order; else uint8 [h, w, 3].

    Raises:
        DecodeError: cause "corrupt_data".
    """
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR if as_is else cv2.IMREAD_COLOR
    image = None
    with diverted_stderr(_NOTHING), suppress(cv2.error):
        image = cv2.imdecode(file.data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    return file.checked(image)
