"""Reading of image files from outside: missing, damaged, truncated and oversized files are refused by name.

Letters: h x w image.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from spectradino_core.files import FileError, errors_as, open_file, read_bytes
from spectradino_core.runtime.image_size import MAX_FILE_PIXELS, claimed_size, size_fault, tiff_tags
from spectradino_core.text import LineError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm")

_COLOURFUL = 0.03
"""Minimum mean difference of the three channels, as a fraction of their range, of an image in colour."""


_COLOUR_SAMPLES = 8
_ORIENTATION = 0x112
_MAX_SEGMENTS = 32
_REMEDY = "fetch it again, or remove it and run the same command again ('spectradino data check' lists all such files)"


class ImageFileError(LineError):
    """An image file is missing, damaged or of another kind than expected; the message names it."""


def read_image(path: Path, flags: int) -> np.ndarray:
    """Read an image in OpenCV's channel order on its stored pixel grid.

    EXIF orientation is ignored: rotating one image of a pair would break its alignment. Raises ImageFileError for a
    file that is missing, truncated, no image, or claims more than `MAX_FILE_PIXELS`.
    """
    with errors_as(ImageFileError):
        data = read_bytes(path, "image")
    if _is_truncated(data):
        raise ImageFileError(f"{path}: the file is truncated; {_REMEDY}")
    size = claimed_size(data)
    if size is None:
        raise ImageFileError(f"{path}: not an image (PNG, JPEG, TIFF, BMP, WebP, PNM), or a damaged one; {_REMEDY}")
    if fault := size_fault(*size, MAX_FILE_PIXELS):
        raise ImageFileError(f"{path}: {fault}: shrink the image, cut it into parts or take it out of the folder")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ImageFileError(f"{path}: not an image, or a damaged one; {_REMEDY}")
    return image


def read_colour(path: Path) -> np.ndarray:
    """Read an RGB image of 8 bits, uint8 [h, w, 3]; a grey file gets three equal channels. See `read_image`."""
    image = read_image(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype != np.uint8:
        raise ImageFileError(
            f"{path}: is {image.dtype}; an RGB image must have 8 bits per channel: convert it (e.g. mogrify -depth 8)"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_counts(path: Path) -> np.ndarray:
    """Read one channel as stored, uint8 or uint16 [h, w]; three equal channels count as one. See `read_image`."""
    image = read_image(path, cv2.IMREAD_ANYDEPTH)
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageFileError(
            f"{path}: is {image.dtype}; an infrared image must have 8 or 16 bits: save its values, such as kelvin * "
            "100, as uint16 in PNG or TIFF"
        )
    return image


def in_colour(path: Path) -> bool:
    """Return whether an image has three different channels; False for an unreadable file, which is reported later."""
    try:
        image = read_image(path, cv2.IMREAD_UNCHANGED)
    except ImageFileError:
        return False
    if image.ndim != 3 or image.shape[2] < 3:
        return False
    spread = image[..., :3].max(axis=2).astype(np.float64) - image[..., :3].min(axis=2)
    return float(spread.mean()) > _COLOURFUL * (255 if image.dtype == np.uint8 else 65535)


def colour_fault(infrared: Sequence[Path]) -> str:
    """Describe what is wrong if most of some infrared images are in colour: a camera's have three equal channels."""
    sampled = infrared[:: -(-len(infrared) // _COLOUR_SAMPLES) or 1]
    coloured = [path for path in sampled if in_colour(path)]
    if 2 * len(coloured) <= len(sampled):
        return ""
    return (
        f"infrared images are in colour, such as {coloured[0]}: are the two folders swapped? If they are in false "
        "colour (a palette such as ironbow), export them in grey: colours are not temperatures"
    )


def exif_orientation(path: Path) -> int:
    """Return the EXIF orientation of a JPEG, which `read_image` ignores, 1 to 8; 1 (upright) if it has none."""
    try:
        with open_file(path, "image") as file:
            is_jpeg = file.read(2) == b"\xff\xd8"
            for _ in range(_MAX_SEGMENTS if is_jpeg else 0):
                fill, code, length = struct.unpack(">BBH", file.read(4))
                if fill != 0xFF or code == 0xDA:  # start of scan
                    break
                data = file.read(max(0, length - 2))
                if code == 0xE1 and data.startswith(b"Exif\0\0"):
                    (value, *_) = tiff_tags(data[6:], (_ORIENTATION,))[_ORIENTATION]
                    return value if 1 <= value <= 8 else 1
    except (FileError, OSError, struct.error, IndexError, KeyError, ValueError, OverflowError):
        pass  # a damaged file is reported when it is read
    return 1


def _is_truncated(data: bytes) -> bool:
    """Return whether a JPEG or PNG lacks its end, which OpenCV silently fills with grey."""
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")  # end of image before the last start of scan
    return data.startswith(b"\x89PNG") and b"IEND" not in data
