"""Image files from outside, read with care: a missing, damaged, cut short or over-wide file is named, never guessed at.

Letters: h w an image.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from spectradino_core.files import FileError, read_bytes
from spectradino_core.runtime.image_size import MAX_FILE_PIXELS, claimed_size, size_fault

__all__ = ["ImageFileError", "in_colour", "read_colour", "read_counts", "read_image"]


_COLOURFUL = 0.03
"""Mean spread of the three channels, as a fraction of their range, from which an image is in colour."""


class ImageFileError(ValueError):
    """An image file is missing, damaged or not of the kind asked for; the message names it."""


def read_image(path: Path, flags: int) -> np.ndarray:
    """An image in OpenCV's order on its stored pixel grid: a rotation noted in the file would part a pair.

    Raises:
        ImageFileError: the file can't be read, is cut short, claims more than `MAX_FILE_PIXELS`, or is no PNG, JPEG,
            TIFF, BMP, WebP or PGM/PPM image.
    """
    try:
        data = read_bytes(path, "image")
    except FileError as error:
        raise ImageFileError(str(error)) from None
    if _is_cut_short(data):
        raise ImageFileError(f"{path}: the file is cut short; fetch it again")
    size = claimed_size(data)
    if size is None:
        raise ImageFileError(f"{path}: not an image (PNG, JPEG, TIFF, BMP, WebP, PGM, PPM), or a damaged one")
    if fault := size_fault(*size, MAX_FILE_PIXELS):
        raise ImageFileError(f"{path}: {fault}: shrink the image, cut it into parts or take it out of the folder")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ImageFileError(f"{path}: not an image, or a damaged one")
    return image


def read_colour(path: Path) -> np.ndarray:
    """uint8 [h, w, 3] in RGB order; a grey file is given three equal channels.

    Raises:
        ImageFileError: as `read_image`, or the file has more than 8 bits per channel.
    """
    image = read_image(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype != np.uint8:
        raise ImageFileError(f"{path}: a colour image has 8 bits per channel, this one is {image.dtype}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_counts(path: Path) -> np.ndarray:
    """One channel as stored, uint8 or uint16 [h, w]; three equal channels count as one.

    Raises:
        ImageFileError: as `read_image`, or the file is of another depth.
    """
    image = read_image(path, cv2.IMREAD_ANYDEPTH)
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageFileError(f"{path}: infrared images are 8 or 16 bit, this one is {image.dtype}")
    return image


def in_colour(path: Path) -> bool:
    """Whether an image has three channels that differ; False for what can't be read, which is reported later."""
    try:
        image = read_image(path, cv2.IMREAD_UNCHANGED)
    except ImageFileError:
        return False
    if image.ndim != 3 or image.shape[2] < 3:
        return False
    spread = image[..., :3].max(axis=2).astype(np.float64) - image[..., :3].min(axis=2)
    return float(spread.mean()) > _COLOURFUL * (255 if image.dtype == np.uint8 else 65535)


def _is_cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; OpenCV would fill the rest with grey and say nothing."""
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")  # end of image before the last start of scan
    return data.startswith(b"\x89PNG") and b"IEND" not in data
