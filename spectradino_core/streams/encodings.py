"""Convert RGB camera encodings to RGB: Bayer mosaics, YUV, 16 bits per channel.

ROS names a Bayer pattern by the first two pixels of its first row, OpenCV by the second and third of its second row, so
`bayer_rggb` is OpenCV's BayerBG. YUV is BT.601 with limited range (16 to 235), as in OpenCV and in cameras. 16-bit
channels use their full range: 65535 becomes 255.

Letters: h height, w width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["BAYER", "PACKED", "PLANAR", "Packed", "Planar", "demosaic", "is_mosaic", "to_8_bits"]

BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}
"""OpenCV conversion by the ROS name of a mosaic without its depth."""

_LIMITED_RANGE = np.array(
    [
        [1.164383, 0.0, 1.596027, -1.164383 * 16 - 1.596027 * 128],
        [1.164383, -0.391762, -0.812968, -1.164383 * 16 + (0.391762 + 0.812968) * 128],
        [1.164383, 2.017232, 0.0, -1.164383 * 16 - 2.017232 * 128],
    ],
    np.float32,
)
"""BT.601, from (Y, U, V, 1) to (R, G, B)."""


@dataclass(frozen=True)
class Packed:
    """An encoding with interleaved channels.

    Attributes:
        channels: values per pixel.
        dtype: type of a value, in native byte order.
        to_rgb: [h, w] or [h, w, channels] to uint8 [h, w, 3].
        even_width: whether two neighbouring pixels share their chroma.
        min_side: minimum number of rows and of columns.
    """

    channels: int
    dtype: type
    to_rgb: Callable[[np.ndarray], np.ndarray]
    even_width: bool = False
    min_side: int = 1


@dataclass(frozen=True)
class Planar:
    """An encoding with a luma plane, [h, w] bytes, followed by a plane of interleaved U and V.

    Attributes:
        chroma_rows: rows of U and V per two image rows: 1 (per 2 x 2 pixels) or 4 (per pixel).
        to_rgb: (Y [h, w], UV [h / 2, w] or [h, 2 w]) to uint8 [h, w, 3].
    """

    chroma_rows: int
    to_rgb: Callable[[np.ndarray, np.ndarray], np.ndarray]


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Scale uint16 to uint8 of the same shape, 65535 to 255, rounded."""
    return cv2.convertScaleAbs(pixels, alpha=255 / 65535)


def demosaic(mosaic: np.ndarray, pattern: str) -> np.ndarray:
    """Convert a Bayer mosaic to RGB by bilinear interpolation.

    Args:
        mosaic: uint8 or uint16 [h, w], at least 4 x 4.
        pattern: a key of `BAYER`.

    Returns:
        uint8 [h, w, 3].
    """
    return cv2.cvtColor(mosaic if mosaic.dtype == np.uint8 else to_8_bits(mosaic), BAYER[pattern])


def is_mosaic(grey: np.ndarray) -> bool:
    """Return whether a one-channel image is a Bayer mosaic of a coloured scene.

    In a mosaic a pixel differs more from its neighbour, of another colour, than from the pixel after that.

    Args:
        grey: [h, w].
    """
    sample = grey[::3].astype(np.int32)  # an odd step samples both kinds of rows
    if sample.shape[1] < 4:
        return False
    near = np.abs(np.diff(sample, axis=1)).mean()
    far = np.abs(sample[:, 2:] - sample[:, :-2]).mean()
    return bool(near > far)


def _converted(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: cv2.cvtColor(pixels, code)


def _of_16_bits(code: int | None) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: to_8_bits(pixels) if code is None else cv2.cvtColor(to_8_bits(pixels), code)


def _bayer(pattern: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda mosaic: demosaic(mosaic, pattern)


def _two_planes(code: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda y, uv: cv2.cvtColorTwoPlane(y, uv.reshape(len(uv), -1, 2), code)


def _full_chroma(y: np.ndarray, uv: np.ndarray) -> np.ndarray:
    yuv = np.dstack([y, uv.reshape(*y.shape, 2)])
    return cv2.transform(yuv, _LIMITED_RANGE)


_UYVY = Packed(2, np.uint8, _converted(cv2.COLOR_YUV2RGB_UYVY), even_width=True)
_YUY2 = Packed(2, np.uint8, _converted(cv2.COLOR_YUV2RGB_YUY2), even_width=True)

PACKED: dict[str, Packed] = {
    **{f"{name}8": Packed(1, np.uint8, _bayer(name), min_side=4) for name in BAYER},
    **{f"{name}16": Packed(1, np.uint16, _bayer(name), min_side=4) for name in BAYER},
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUY2,
    "yuyv": _YUY2,
    "rgb16": Packed(3, np.uint16, _of_16_bits(None)),
    "bgr16": Packed(3, np.uint16, _of_16_bits(cv2.COLOR_BGR2RGB)),
    "16UC3": Packed(3, np.uint16, _of_16_bits(cv2.COLOR_BGR2RGB)),
    "rgba16": Packed(4, np.uint16, _of_16_bits(cv2.COLOR_RGBA2RGB)),
    "bgra16": Packed(4, np.uint16, _of_16_bits(cv2.COLOR_BGRA2RGB)),
    "16UC4": Packed(4, np.uint16, _of_16_bits(cv2.COLOR_BGRA2RGB)),
}
"""Layouts by encoding, with the old and new names of `sensor_msgs/image_encodings.hpp`."""

PLANAR: dict[str, Planar] = {
    "nv12": Planar(1, _two_planes(cv2.COLOR_YUV2RGB_NV12)),
    "nv21": Planar(1, _two_planes(cv2.COLOR_YUV2RGB_NV21)),
    "nv24": Planar(4, _full_chroma),
}
