"""Infrared images as counts: which part of an image is used, and what its numbers are.

Letters: h height, w width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.streams.image_message import DecodeError

__all__ = ["FLOAT_UNITS", "DecodeOptions", "check_crop", "check_grey", "counts_of", "cropped", "grey_of"]

FLOAT_UNITS = ("auto", "kelvin", "celsius", "counts")
"""What the numbers of a floating-point infrared image may be."""

MAX_COLOUR_DIFFERENCE = 12
"""Levels by which the channels of a grey image may differ after JPEG."""

_KELVIN_PER_COUNT = 0.01
_ZERO_CELSIUS = 273.15
_LEAST_KELVIN = 150.0
"""Above this a median is kelvin, as no thermal camera's scene is that cold; below it is Celsius."""
_MOST_KELVIN = 2000.0
"""Above this a median is no temperature but raw counts."""
_MOST_COUNTS = 65534
"""The highest uint16 is kept for saturated pixels, 0 for those without a value."""


@dataclass(frozen=True)
class DecodeOptions:
    """How images are read; the names are the node's parameters.

    Attributes:
        max_pixels: a compressed image that claims more is refused before it is unpacked.
        ir_crop: x, y, width and height of the part of each infrared image that is used; width or height 0: up to the
            edge. All 0: the whole image.
        ir_encoding: encoding of raw infrared images whatever their messages say; "": as they say.
        ir_float_unit: one of `FLOAT_UNITS`, what floating-point infrared images hold.
    """

    max_pixels: int = 24_000_000
    ir_crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    ir_encoding: str = ""
    ir_float_unit: str = "auto"


def cropped(image: np.ndarray, crop: tuple[int, int, int, int]) -> np.ndarray:
    """The part of an image [h, w, ...] that `DecodeOptions.ir_crop` means, as a view.

    Raises:
        DecodeError: it is not inside the image.
    """
    top, bottom, left, right = check_crop(image.shape[0], image.shape[1], crop)
    return image[top:bottom, left:right]


def check_crop(height: int, width: int, crop: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a crop in an image.

    Raises:
        DecodeError: it is not inside the image.
    """
    x, y, crop_width, crop_height = crop
    right, bottom = x + crop_width if crop_width else width, y + crop_height if crop_height else height
    if not (0 <= x < right <= width and 0 <= y < bottom <= height):
        raise DecodeError(
            "crop_outside",
            f"ir_crop {list(crop)} (x, y, width, height) is not inside the infrared image of {width}x{height} pixels: "
            "correct the parameter",
        )
    return y, bottom, x, right


def counts_of(image: np.ndarray, unit: str = "auto") -> np.ndarray:
    """An infrared image of any number type to counts uint8 or uint16 [h, w], C-contiguous.

    Args:
        image: uint8, uint16, int16 (raised by 32768), or floating point: temperatures become hundredths of a kelvin,
            rounded; what is no number becomes 0, and what is outside 0.01 to 655.34 K the nearest of them.
        unit: of floating point, one of `FLOAT_UNITS`. auto: by the median: up to 150 Celsius, up to 2000 kelvin, above
            that counts. Images within 0 to 1, which were scaled to it, are spread over all counts.

    Raises:
        DecodeError: another number type.
    """
    if image.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(image)
    if image.dtype == np.int16:
        return np.ascontiguousarray(image).view(np.uint16) ^ np.uint16(0x8000)
    if image.dtype not in (np.float32, np.float64):
        raise DecodeError("depth_mismatch", f"the infrared image holds {image.dtype}, not 8 or 16-bit counts")
    valid = np.isfinite(image)
    with np.errstate(invalid="ignore", over="ignore"):
        scale, zero = _float_scale(image[::4, ::4][valid[::4, ::4]], unit)
        counts = np.clip(np.rint((image + zero) * scale), 1, _MOST_COUNTS)
    return np.where(valid, counts, 0).astype(np.uint16)


def _float_scale(sample: np.ndarray, unit: str) -> tuple[float, float]:
    """Counts for one unit, and what is added before, by what an image's numbers are."""
    if unit == "auto":
        median = float(np.median(sample)) if sample.size else 0.0
        if sample.size and sample.min() >= 0 and sample.max() <= 1:
            return float(_MOST_COUNTS), 0.0
        unit = "celsius" if median < _LEAST_KELVIN else "kelvin" if median < _MOST_KELVIN else "counts"
    if unit == "counts":
        return 1.0, 0.0
    return 1 / _KELVIN_PER_COUNT, _ZERO_CELSIUS if unit == "celsius" else 0.0


def grey_of(image: np.ndarray, encoding: str) -> np.ndarray:
    """The one channel of a grey image that came as three or four: [h, w] of the same type, C-contiguous.

    Raises:
        DecodeError: see `check_grey`.
    """
    check_grey(image, encoding)
    return np.ascontiguousarray(image[..., 1])


def check_grey(image: np.ndarray, encoding: str) -> None:
    """Refuse an image [h, w, 3 or 4] whose channels differ; every 8th pixel of every 8th row is looked at.

    Raises:
        DecodeError: it has colours, so it holds no counts.
    """
    sample = image[::8, ::8, :3].astype(np.int32)
    difference = int((sample.max(axis=2) - sample.min(axis=2)).max())
    allowed = MAX_COLOUR_DIFFERENCE if image.dtype == np.uint8 else 0
    if difference > allowed:
        raise DecodeError(
            "colour_infrared",
            f"the infrared image ({encoding}) has colours (channels differ by up to {difference} levels): "
            "switch the camera's palette off (white-hot, mono8, mono16), unless the two topics are exchanged",
        )
