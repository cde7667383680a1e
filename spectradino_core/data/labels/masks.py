"""Reading of class masks: class numbers in one channel, in three equal channels, or in a PNG with a palette.

Letters: h x w image.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from spectradino_core.data.images import ImageFileError, read_image
from spectradino_core.data.labels.objects import UNLABELLED, LabelError

_PNG = b"\x89PNG\r\n\x1a\n"
_GREY, _INDEXED = 0, 3


def read_mask(path: Path, notes: Counter[str] | None = None) -> np.ndarray:
    """Read the class numbers of a mask file as stored, uint8 [h, w]; `notes` counts masks with a palette.

    Raises:
        ImageFileError: the file is missing or damaged.
        LabelError: the file holds colours or numbers above 255.
    """
    image = read_image(path, cv2.IMREAD_UNCHANGED)
    if (indices := _indices(path)) is not None:
        if notes is not None:
            notes["palette_mask"] += indices[1]
        return indices[0]
    if image.dtype != np.uint8:
        if image.dtype != np.uint16 or image.max() > UNLABELLED:
            raise LabelError(f"{path}: is {image.dtype} to {image.max()}; a mask must hold class numbers up to 255")
        image = image.astype(np.uint8)
    if image.ndim == 2:
        return image
    if (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all():
        return np.ascontiguousarray(image[..., 0])
    raise LabelError(
        f"{path}: holds colours; a mask must be one channel of 8-bit class numbers: use the data set's folder of plain "
        "labels"
    )


def mask_of(path: Path, table: Mapping[int, int], notes: Counter[str] | None = None) -> np.ndarray:
    """Read a mask and map its numbers to classes, uint8 [h, w]; `table`: class by stored number, 255: ignored.

    Raises:
        ImageFileError, LabelError: see `read_mask`; or the file holds a number that the table lacks.
    """
    numbers = read_mask(path, notes)
    known = np.zeros(256, bool)
    known[list(table)] = True
    present = np.bincount(numbers.ravel(), minlength=256) > 0
    unknown = np.flatnonzero(present & ~known)
    if len(unknown):
        listed = ", ".join(map(str, unknown[:6])) + (", .." if len(unknown) > 6 else "")
        raise LabelError(f"{path}: holds {listed}, which the class table lacks; is it this data set's label folder?")
    lookup = np.full(256, UNLABELLED, np.uint8)
    lookup[list(table)] = list(table.values())
    return lookup[numbers]


def _indices(path: Path) -> tuple[np.ndarray, bool] | None:
    """Return the stored samples [h, w] of a PNG whose samples OpenCV changes, and whether it has a palette.

    OpenCV converts palette indices to colours, which may be equal for two classes, and scales grey samples of fewer
    than 8 bits to 0..255. The file is therefore decoded as grey of its bit depth, and the scaling is reverted.
    """
    data = path.read_bytes()
    if not data.startswith(_PNG) or len(data) < 33:
        return None
    bits, kind = data[24], data[25]
    if kind != _INDEXED and not (kind == _GREY and bits < 8):
        return None
    header = data[16:25] + bytes([_GREY]) + data[26:29]
    chunks = [_chunk(b"IHDR", header)]
    offset = 33
    while offset + 12 <= len(data):
        length, name = int.from_bytes(data[offset : offset + 4], "big"), data[offset + 4 : offset + 8]
        if name in (b"IDAT", b"IEND"):
            chunks.append(data[offset : offset + 12 + length])
        offset += 12 + length
    image = cv2.imdecode(np.frombuffer(_PNG + b"".join(chunks), np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ImageFileError(f"{path}: not an image, or a damaged one")
    return image // np.uint8(255 // (2**bits - 1)), kind == _INDEXED


def _chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
