"""Class masks as data sets store them: numbers in one channel, in three equal ones, or in a PNG with a palette.

OpenCV turns a palette into colours, so that class 3 comes back as three numbers; here the colours are looked up in the
file's own palette again.

Letters: h w an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from spectradino_core.data.benchmarks.files import BenchmarkError
from spectradino_core.data.images import read_image
from spectradino_core.data.paired_folder import UNLABELLED
from spectradino_core.files import read_bytes

__all__ = ["mask_of", "read_numbers"]

_PNG = b"\x89PNG\r\n\x1a\n"
_INDEXED = 3


def read_numbers(path: Path) -> np.ndarray:
    """The numbers of a mask file as stored, uint8 [h, w].

    Raises:
        ImageFileError: the file is missing or damaged.
        BenchmarkError: it holds colours, or numbers above 255.
    """
    image = read_image(path, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint8:
        if image.dtype != np.uint16 or image.max() > UNLABELLED:
            raise BenchmarkError(
                f"{path}: a mask holds class numbers up to 255, this one {image.dtype} to {image.max()}"
            )
        image = image.astype(np.uint8)
    if image.ndim == 2:
        return image
    palette = _palette(path)
    if palette is not None:
        return _by_colour(image[..., :3], palette, path)
    if (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all():
        return np.ascontiguousarray(image[..., 0])
    raise BenchmarkError(f"{path}: holds colours, not class numbers; take the data set's folder of plain labels")


def mask_of(path: Path, table: Mapping[int, int]) -> np.ndarray:
    """A mask in a benchmark's classes, uint8 [h, w].

    Args:
        path: the file.
        table: class by stored number; 255 for those that don't count.

    Raises:
        ImageFileError, BenchmarkError: as `read_numbers`, or it holds a number that the table lacks.
    """
    numbers = read_numbers(path)
    known = np.zeros(256, bool)
    known[list(table)] = True
    present = np.bincount(numbers.ravel(), minlength=256) > 0
    strange = np.flatnonzero(present & ~known)
    if len(strange):
        told = ", ".join(map(str, strange[:6])) + (", .." if len(strange) > 6 else "")
        raise BenchmarkError(f"{path}: holds {told}, which the class table lacks; is it this data set's label folder?")
    lookup = np.full(256, UNLABELLED, np.uint8)
    for number, label in table.items():
        lookup[number] = label
    return lookup[numbers]


def _palette(path: Path) -> np.ndarray | None:
    """The palette [n, 3], RGB, of an indexed PNG; None for other files."""
    data = read_bytes(path, "image")
    if not data.startswith(_PNG) or len(data) < 33 or data[25] != _INDEXED:
        return None
    place = len(_PNG)
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind == b"PLTE":
            return np.frombuffer(data[place + 8 : place + 8 + length - length % 3], np.uint8).reshape(-1, 3)
        if kind == b"IDAT":
            break
        place += 12 + length
    return None


def _by_colour(image: np.ndarray, palette: np.ndarray, path: Path) -> np.ndarray:
    """Colours [h, w, 3], BGR, as places in the palette."""
    colours = palette[:, 0].astype(np.int64) << 16 | palette[:, 1].astype(np.int64) << 8 | palette[:, 2]
    values, places = np.unique(colours, return_index=True)
    seen = image[..., 2].astype(np.int64) << 16 | image[..., 1].astype(np.int64) << 8 | image[..., 0]
    found = np.searchsorted(values, seen.ravel()).clip(0, len(values) - 1)
    if not (values[found] == seen.ravel()).all():
        raise BenchmarkError(f"{path}: holds colours that its own palette lacks")
    twice = [value for value in np.unique(seen) if (colours == value).sum() > 1 and value]  # unused rows are black
    if twice:
        raise BenchmarkError(
            f"{path}: its palette has the colour #{twice[0]:06x} twice; which class is meant is unknown"
        )
    return places[found].reshape(seen.shape).astype(np.uint8)
