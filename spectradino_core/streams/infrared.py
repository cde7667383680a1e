"""Convert IR images to raw counts: crop, floating-point units, grey in RGB encodings.

Letters: h height, w width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.streams.image_message import DecodeError

__all__ = ["FLOAT_UNITS", "DecodeOptions", "check_crop", "check_grey", "counts_of", "cropped", "grey_of"]

FLOAT_UNITS = ("auto", "kelvin", "celsius", "counts")
"""Units of floating-point IR images."""

MAX_COLOUR_DIFFERENCE = 12
"""Maximum difference between the channels of a grey 8-bit image after JPEG, in levels."""

_KELVIN_PER_COUNT = 0.01
_ZERO_CELSIUS = 273.15
_MIN_KELVIN = 150.0
"""A median above is in kelvin, because no scene is as cold; below it is in Celsius."""
_MAX_KELVIN = 2000.0
"""A median above is in raw counts."""
_MAX_COUNTS = 65534
"""65535 is reserved for saturated pixels, 0 for those without a value."""


@dataclass(frozen=True)
class DecodeOptions:
    """Options of decoding, named as the node's parameters.

    Attributes:
        max_pixels: maximum size of a compressed image, checked before decoding.
        ir_crop: x, y, width and height of the part of each IR image to use; width or height 0: up to the edge; all 0:
            the whole image.
        ir_encoding: encoding that overrides the one stated in raw IR image messages; "": as stated.
        ir_float_unit: unit of floating-point IR images, one of `FLOAT_UNITS`.
    """

    max_pixels: int = 24_000_000
    ir_crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    ir_encoding: str = ""
    ir_float_unit: str = "auto"


def cropped(image: np.ndarray, crop: tuple[int, int, int, int]) -> np.ndarray:
    """Return the part of an image [h, w, ...] given by `DecodeOptions.ir_crop`, as a view.

    Raises:
        DecodeError: the part is not inside the image.
    """
    top, bottom, left, right = check_crop(image.shape[0], image.shape[1], crop)
    return image[top:bottom, left:right]


def check_crop(height: int, width: int, crop: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) of a crop in an image, in pixels.

    Raises:
        DecodeError: the crop is not inside the image.
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
    """Convert an IR image of any numeric type to counts.

    Args:
        image: [h, w] of uint8, uint16, int16 (raised by 32768) or floating point. Temperatures become counts of 0.01 K,
            rounded and clipped to 0.01 .. 655.34 K; NaN and infinities become 0.
        unit: unit of floating point, one of `FLOAT_UNITS`. auto: by the median, up to 150 Celsius, up to 2000 kelvin,
            above counts; images within 0 to 1 are scaled to all counts.

    Returns:
        uint8 or uint16 [h, w], C-contiguous.

    Raises:
        DecodeError: the image has another type.
    """
    if image.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(image)
    if image.dtype == np.int16:
        return np.ascontiguousarray(image).view(np.uint16) ^ np.uint16(0x8000)
    if image.dtype not in (np.float32, np.float64):
        raise DecodeError(
            "depth_mismatch", f"the infrared image has type {image.dtype}, not 8 or 16-bit counts: change its encoding"
        )
    valid = np.isfinite(image)
    with np.errstate(invalid="ignore", over="ignore"):
        scale, zero = _float_scale(image[::4, ::4][valid[::4, ::4]], unit)
        counts = np.clip(np.rint((image + zero) * scale), 1, _MAX_COUNTS)
    return np.where(valid, counts, 0).astype(np.uint16)


def _float_scale(sample: np.ndarray, unit: str) -> tuple[float, float]:
    """Return counts per unit and the offset to add before, for the unit of an image."""
    if unit == "auto":
        median = float(np.median(sample)) if sample.size else 0.0
        if sample.size and sample.min() >= 0 and sample.max() <= 1:
            return float(_MAX_COUNTS), 0.0
        unit = "celsius" if median < _MIN_KELVIN else "kelvin" if median < _MAX_KELVIN else "counts"
    if unit == "counts":
        return 1.0, 0.0
    return 1 / _KELVIN_PER_COUNT, _ZERO_CELSIUS if unit == "celsius" else 0.0


def grey_of(image: np.ndarray, encoding: str) -> np.ndarray:
    """Return the channel [h, w] of a grey image of three or four channels, C-contiguous.

    Raises:
        DecodeError: the image is coloured.
    """
    check_grey(image, encoding)
    return np.ascontiguousarray(image[..., 1])


def check_grey(image: np.ndarray, encoding: str) -> None:
    """Check that the channels of an image [h, w, 3 or 4] are equal, at every 8th pixel.

    Raises:
        DecodeError: the image is coloured, so it has no counts.
    """
    sample = image[::8, ::8, :3].astype(np.int32)
    difference = int((sample.max(axis=2) - sample.min(axis=2)).max())
    allowed = MAX_COLOUR_DIFFERENCE if image.dtype == np.uint8 else 0
    if difference > allowed:
        raise DecodeError(
            "colour_infrared",
            f"the infrared image ({encoding}) is coloured (channels differ by up to {difference} levels): disable the "
            "camera's palette (white-hot, mono8, mono16), or check whether the RGB and infrared topics are exchanged",
        )
