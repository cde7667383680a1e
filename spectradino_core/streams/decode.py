"""Decode raw image messages to arrays, without cv_bridge or ROS.

A message is any object with the fields of `sensor_msgs/Image`. The encodings of common drivers are supported
(`READ_AS_RGB`, `READ_AS_INFRARED`); others need an injected converter (the node injects cv_bridge if it can be
imported). Any fault of a message raises a `DecodeError`, whose `cause` names a drop counter.

`open_rgb` and `open_infrared` check a message at once and convert its pixels on demand, because most frames of a camera
that is faster than the model are dropped.

Encodings without a defined channel order (8UC3, 8UC4, 16UC3) are read in OpenCV's order, BGR. ROS names a Bayer pattern
by the first two pixels of its first row, OpenCV by the second and third of its second row, so `bayer_rggb` is OpenCV's
BayerBG. YUV is BT.601 with limited range (16 to 235), as in OpenCV and in cameras.

Letters: h height, w width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from spectradino_core.streams.image_message import (
    DecodeError,
    ImageMessage,
    encoding_field,
    flat_bytes,
    integer_field,
    native,
    pixel_view,
    shortened,
    size_fields,
    wrong_length,
    wrong_step,
)


@dataclass(frozen=True)
class _Layout:
    """An encoding with interleaved channels.

    Attributes:
        channels: values per pixel.
        dtype: type of a value, in native byte order.
        code: OpenCV's conversion to RGB of 8-bit values; None: they are in RGB order.
        min_side: minimum number of rows and of columns.
        even_width: whether two neighbouring pixels share their chroma.
    """

    channels: int
    dtype: type
    code: int | None
    min_side: int = 1
    even_width: bool = False


BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}
"""OpenCV conversion by the ROS name of a mosaic without its depth."""

_DEPTHS = {"8": np.uint8, "16": np.uint16}
_COLOURS = {
    "rgb{}": (3, None),
    "bgr{}": (3, cv2.COLOR_BGR2RGB),
    "{}UC3": (3, cv2.COLOR_BGR2RGB),
    "rgba{}": (4, cv2.COLOR_RGBA2RGB),
    "bgra{}": (4, cv2.COLOR_BGRA2RGB),
    "{}UC4": (4, cv2.COLOR_BGRA2RGB),
}
"""Number of channels and OpenCV conversion to RGB, by the name with {} for the depth."""

_UYVY = _Layout(2, np.uint8, cv2.COLOR_YUV2RGB_UYVY, even_width=True)
_YUY2 = _Layout(2, np.uint8, cv2.COLOR_YUV2RGB_YUY2, even_width=True)
_GREY = _Layout(1, np.uint8, cv2.COLOR_GRAY2RGB)

_PACKED = {
    "mono8": _GREY,
    "8UC1": _GREY,
    **{name.format(b): _Layout(n, dtype, code) for name, (n, code) in _COLOURS.items() for b, dtype in _DEPTHS.items()},
    **{name + b: _Layout(1, dtype, code, min_side=4) for name, code in BAYER.items() for b, dtype in _DEPTHS.items()},
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUY2,
    "yuyv": _YUY2,
}
"""Encodings that are read as RGB, with the old and new names of `sensor_msgs/image_encodings.hpp`."""

PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21, "nv24": None}
"""Encodings with a plane of luma, then one of interleaved U and V: OpenCV's conversion, for chroma per 2 x 2 pixels."""

_LIMITED_RANGE = np.array(
    [
        [1.164383, 0.0, 1.596027, -1.164383 * 16 - 1.596027 * 128],
        [1.164383, -0.391762, -0.812968, -1.164383 * 16 + (0.391762 + 0.812968) * 128],
        [1.164383, 2.017232, 0.0, -1.164383 * 16 - 2.017232 * 128],
    ],
    np.float32,
)
"""BT.601, from (Y, U, V, 1) to (R, G, B), for chroma per pixel."""

_COUNTS = {
    "mono8": np.uint8,
    "8UC1": np.uint8,
    "mono16": np.uint16,
    "16UC1": np.uint16,
    "16SC1": np.int16,
    "32FC1": np.float32,
    "64FC1": np.float64,
}

RGB_ENCODINGS = (*_PACKED, *PLANAR)
INFRARED_ENCODINGS = tuple(dict.fromkeys((*_COUNTS, *RGB_ENCODINGS)))

READ_AS_RGB = (
    "rgb8, bgr8, rgba8, bgra8, mono8, 8UC1, 8UC3, 8UC4, the same with 16 bits per channel, bayer_*8, bayer_*16, yuv422 "
    "(uyvy), yuv422_yuy2 (yuyv), nv12, nv21, nv24"
)
"""`RGB_ENCODINGS` for messages."""
READ_AS_INFRARED = "mono8, 8UC1, mono16, 16UC1, 16SC1, 32FC1, 64FC1, and grey images in the RGB camera's encodings"
"""`INFRARED_ENCODINGS` for messages."""

_REMEDY = "set the camera driver to one of them, or republish the topic in one (image_proc, a node with cv_bridge)"

FLOAT_UNITS = ("auto", "kelvin", "celsius", "counts")
"""Units of floating-point IR images."""

_MAX_COLOUR_DIFFERENCE = 12
"""Maximum difference between the channels of a grey 8-bit image after JPEG, in levels."""

_COUNTS_PER_KELVIN = 100.0
_ZERO_CELSIUS = 273.15
_MIN_KELVIN = 150.0
"""A median above is in kelvin, because no scene is as cold; below it is in Celsius."""
_MAX_KELVIN = 2000.0
"""A median above is in raw counts."""
_MAX_COUNTS = 65534
"""65535 is reserved for saturated pixels, 0 for those without a value."""

Converter = Callable[[Any, str], np.ndarray]
"""(message, wanted encoding) to an array, as cv_bridge's `imgmsg_to_cv2`; may raise any exception."""

Crop = tuple[int, int, int, int]


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
    ir_crop: Crop = (0, 0, 0, 0)
    ir_encoding: str = ""
    ir_float_unit: str = "auto"


@dataclass(frozen=True)
class OpenImage:
    """An image that passed all checks that need no decoding.

    Attributes:
        unpack: decodes the pixels, see `decode_rgb` and `decode_infrared`; raises `DecodeError` for damage found only
            then. The array may be a read-only view of the message's data.
        fingerprint: array of any shape that differs between different images, to recognise a camera that repeats one
            image.
        packed: number of compressed pixels, which take milliseconds per 100,000 to decode; 0: none.
    """

    unpack: Callable[[], np.ndarray]
    fingerprint: np.ndarray
    packed: int = 0


# ---- messages ------------------------------------------------------------------------------------------------------


def decode_rgb(message: ImageMessage, converter: Converter | None = None) -> np.ndarray:
    """Decode an RGB image message; `converter` is for encodings that are not in `RGB_ENCODINGS`.

    Returns:
        uint8 [h, w, 3] in RGB order, C-contiguous; grey is repeated over the channels. It may be a read-only view of
        the message's data, which it keeps alive: copy it before drawing on it.

    Raises:
        DecodeError: the message is inconsistent, or its encoding is not supported.
    """
    return open_rgb(message, converter).unpack()


def open_rgb(message: ImageMessage, converter: Converter | None = None) -> OpenImage:
    """Check an RGB image message now and convert its pixels on demand, see `decode_rgb`."""
    encoding = encoding_field(message)
    if encoding in RGB_ENCODINGS:
        return _open_colour(message, encoding)
    hint = " (are the RGB and infrared topics exchanged?)" if encoding in _COUNTS else ""
    return _converted(message, encoding, "rgb8", converter, READ_AS_RGB, hint)


def decode_infrared(
    message: ImageMessage, converter: Converter | None = None, options: DecodeOptions | None = None
) -> np.ndarray:
    """Decode an IR image message to raw counts; `converter` is for encodings that are not in `INFRARED_ENCODINGS`.

    Grey sent as three equal channels or as YUV (rgb8, bgr8, yuv422, ...) is accepted. A coloured image is refused: it
    has the camera's palette, whose colours are not counts, or comes from the RGB camera. See also `counts_of`.

    Returns:
        uint8 or uint16 [h, w], native byte order, C-contiguous. It may be a read-only view of the message's data, which
        it keeps alive.

    Raises:
        DecodeError: the message is inconsistent, its encoding is not supported, or the image is coloured.
    """
    return open_infrared(message, converter, options).unpack()


def open_infrared(
    message: ImageMessage, converter: Converter | None = None, options: DecodeOptions | None = None
) -> OpenImage:
    """Check an IR image message now and convert its pixels on demand, see `decode_infrared`."""
    options = options or DecodeOptions()
    encoding, crop = options.ir_encoding or encoding_field(message), options.ir_crop
    if encoding in _COUNTS:
        view = cropped(pixel_view(message, encoding, 1, _COUNTS[encoding]), crop)
        return OpenImage(lambda: counts_of(native(view), options.ir_float_unit), view)
    if encoding in _PACKED and _PACKED[encoding].channels > 2:
        view = cropped(_packed_view(message, encoding), crop)
        _check_grey(view, encoding)
        return OpenImage(lambda: np.ascontiguousarray(native(view)[..., 1]), view)
    if encoding in RGB_ENCODINGS:
        opened = _open_colour(message, encoding)
        # Cropped, since a counter in a telemetry row would hide a frozen image.
        fingerprint = cropped(opened.fingerprint, crop)
        return OpenImage(lambda: grey_of(cropped(opened.unpack(), crop), encoding), fingerprint)
    wanted = "mono16" if "16" in encoding else "mono8"
    opened = _converted(message, encoding, wanted, converter, READ_AS_INFRARED, "")
    return OpenImage(lambda: np.ascontiguousarray(cropped(opened.unpack(), crop)), opened.fingerprint)


def _open_colour(message: ImageMessage, encoding: str) -> OpenImage:
    if encoding in PLANAR:
        return _open_planar(message, encoding)
    view = _packed_view(message, encoding)
    return OpenImage(lambda: to_rgb(native(view), _PACKED[encoding].code), view)


def _packed_view(message: ImageMessage, encoding: str) -> np.ndarray:
    layout = _PACKED[encoding]
    if layout.min_side > 1 or layout.even_width:
        height, width = size_fields(message, encoding)
        if min(height, width) < layout.min_side:
            raise _wrong_size(encoding, height, width, f"a mosaic has at least {layout.min_side} rows and columns")
        if layout.even_width and width % 2:
            reason = "two pixels share their chroma in this encoding, so the width must be even"
            raise _wrong_size(encoding, height, width, reason)
    return pixel_view(message, encoding, layout.channels, layout.dtype)


def _open_planar(message: ImageMessage, encoding: str) -> OpenImage:
    """Open an image such as NV12; dense data is read with any `step`, on which drivers disagree."""
    code = PLANAR[encoding]
    height, width = size_fields(message, encoding)
    shared = code is not None
    if shared and (height % 2 or width % 2):
        reason = "2x2 pixels share their chroma in this encoding, so both must be even"
        raise _wrong_size(encoding, height, width, reason)
    step, data = integer_field(message, "step"), flat_bytes(message)
    rows = 3 * height // 2 if shared else 3 * height
    stride = width if data.size == width * rows else step
    if stride < width:
        raise wrong_step(step, width, encoding, width)
    if data.size != stride * rows:
        raise wrong_length(data.size, step, rows, width, height, encoding)
    y: np.ndarray = np.ndarray((height, width), np.uint8, buffer=data, strides=(stride, 1))
    shape, chroma_stride = ((height // 2, width), stride) if shared else ((height, 2 * width), 2 * stride)
    uv: np.ndarray = np.ndarray(shape, np.uint8, buffer=data, offset=stride * height, strides=(chroma_stride, 1))

    def unpack() -> np.ndarray:
        chroma = np.ascontiguousarray(uv).reshape(len(uv), -1, 2)
        if code is None:
            return cv2.transform(np.dstack([y, chroma]), _LIMITED_RANGE)
        return cv2.cvtColorTwoPlane(y, chroma, code)

    return OpenImage(unpack, y)


def _wrong_size(encoding: str, height: int, width: int, reason: str) -> DecodeError:
    size = f"the image ({encoding}) is {width}x{height} pixels, but {reason}"
    return DecodeError("wrong_size", f"{size}: set another size in the camera driver")


def _converted(
    message: ImageMessage, encoding: str, wanted: str, converter: Converter | None, readable: str, hint: str
) -> OpenImage:
    """Open an image by the injected converter."""
    known, name = f"supported are {readable}: {_REMEDY}", f"image encoding {shortened(encoding)}"
    if converter is None:
        raise DecodeError("unknown_encoding", f"{name} is not supported{hint}; {known}")
    size_fields(message, shortened(encoding))
    flat_bytes(message)
    try:
        image = np.asarray(converter(message, wanted))
    except Exception as error:  # cv_bridge and OpenCV raise any class
        reason = shortened(str(error), 160)
        raise DecodeError(
            "unknown_encoding", f"{name} can't be converted to {wanted} ({reason}){hint}; {known}"
        ) from error
    good_rgb = wanted == "rgb8" and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    good_grey = wanted != "rgb8" and image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
    if not (good_rgb or good_grey) or image.size == 0:
        found = f"{image.dtype} {tuple(image.shape)}"
        raise DecodeError("converter_failed", f"{name} was converted to {found}, not to {wanted}{hint}; {known}")
    return OpenImage(lambda: np.ascontiguousarray(image), image)


# ---- pixels --------------------------------------------------------------------------------------------------------


def to_rgb(pixels: np.ndarray, code: int | None) -> np.ndarray:
    """Convert an image [h, w, ...] of 8 bits, or of 16 whose 65535 becomes 255, to uint8 [h, w, 3].

    `code` is OpenCV's conversion; None: the image is in RGB order.
    """
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    if code is None:
        return pixels
    if pixels.shape[:2] == (1, 1):  # OpenCV 4.5 refuses a single pixel of three channels
        return np.ascontiguousarray(cv2.cvtColor(np.repeat(pixels, 2, axis=1), code)[:, :1])
    return cv2.cvtColor(pixels, code)


def is_mosaic(grey: np.ndarray) -> bool:
    """Return whether an image [h, w] is a Bayer mosaic of a coloured scene.

    In a mosaic a pixel differs more from its neighbour, of another colour, than from the pixel after that.
    """
    sample = grey[::3].astype(np.int32)  # an odd step samples both kinds of rows
    if sample.shape[1] < 4:
        return False
    near = np.abs(np.diff(sample, axis=1)).mean()
    far = np.abs(sample[:, 2:] - sample[:, :-2]).mean()
    return bool(near > far)


def cropped(image: np.ndarray, crop: Crop) -> np.ndarray:
    """Return the part of an image [h, w, ...] given by `DecodeOptions.ir_crop`, as a view; see `check_crop`."""
    top, bottom, left, right = check_crop(image.shape[0], image.shape[1], crop)
    return image[top:bottom, left:right]


def check_crop(height: int, width: int, crop: Crop) -> tuple[int, int, int, int]:
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
    """Convert an IR image [h, w] to counts uint8 or uint16 [h, w], C-contiguous.

    Args:
        image: uint8, uint16, int16 (raised by 32768) or floating point. Temperatures become counts of 0.01 K, rounded
            and clipped to 0.01 .. 655.34 K; NaN and infinities become 0.
        unit: unit of floating point, one of `FLOAT_UNITS`. auto: by the median, up to 150 Celsius, up to 2000 kelvin,
            above counts; images within 0 to 1 are scaled to all counts.

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
    return _COUNTS_PER_KELVIN, _ZERO_CELSIUS if unit == "celsius" else 0.0


def grey_of(image: np.ndarray, encoding: str) -> np.ndarray:
    """Return the channel [h, w] of a grey image of three or four channels, C-contiguous.

    Raises:
        DecodeError: the image is coloured.
    """
    _check_grey(image, encoding)
    return np.ascontiguousarray(image[..., 1])


def _check_grey(image: np.ndarray, encoding: str) -> None:
    """Check that the channels of an image [h, w, 3 or 4] are equal, at every 8th pixel; else it has no counts."""
    sample = image[::8, ::8, :3].astype(np.int32)
    difference = int((sample.max(axis=2) - sample.min(axis=2)).max())
    if difference > (_MAX_COLOUR_DIFFERENCE if image.dtype == np.uint8 else 0):
        raise DecodeError(
            "colour_infrared",
            f"the infrared image ({encoding}) is coloured (channels differ by up to {difference} levels): disable the "
            "camera's palette (white-hot, mono8, mono16), or check whether the RGB and infrared topics are exchanged",
        )
