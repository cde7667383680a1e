"""Decode raw image messages to arrays, without cv_bridge or ROS.

A message is any object with the fields of `sensor_msgs/Image`: height, width, encoding, is_bigendian, step, data. The
encodings of common drivers are supported (`READ_AS_RGB`, `READ_AS_INFRARED`); others need an injected converter (the
node injects cv_bridge if it can be imported). Any fault of a message raises a `DecodeError`, whose `cause` names a drop
counter.

`open_rgb` and `open_infrared` check a message at once and convert its pixels on demand, because most frames of a camera
that is faster than the model are dropped.

Encodings without a defined channel order (8UC3, 8UC4, 16UC3) are read in OpenCV's order, BGR.

Letters: h height, w width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from spectradino_core.streams.encodings import PACKED, PLANAR, Packed
from spectradino_core.streams.image_message import (
    MAX_SIDE,
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
from spectradino_core.streams.infrared import DecodeOptions, check_crop, check_grey, counts_of, cropped, grey_of

__all__ = [
    "INFRARED_ENCODINGS",
    "MAX_SIDE",
    "READ_AS_INFRARED",
    "READ_AS_RGB",
    "RGB_ENCODINGS",
    "Converter",
    "DecodeError",
    "DecodeOptions",
    "ImageMessage",
    "OpenImage",
    "decode_infrared",
    "decode_rgb",
    "open_infrared",
    "open_rgb",
]

_TO_RGB: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
}
"""Number of channels and OpenCV conversion to RGB, by encoding."""

_COUNTS = {
    "mono8": np.uint8,
    "8UC1": np.uint8,
    "mono16": np.uint16,
    "16UC1": np.uint16,
    "16SC1": np.int16,
    "32FC1": np.float32,
    "64FC1": np.float64,
}
_COLOUR_CHANNELS = {name: channels for name, (channels, _) in _TO_RGB.items() if channels > 1}
_WIDE_CHANNELS = {name: layout.channels for name, layout in PACKED.items() if "16" in name and layout.channels > 1}

RGB_ENCODINGS = (*_TO_RGB, *PACKED, *PLANAR)
INFRARED_ENCODINGS = (*_COUNTS, *_COLOUR_CHANNELS, *PACKED, *PLANAR)

READ_AS_RGB = (
    "rgb8, bgr8, rgba8, bgra8, mono8, 8UC1, 8UC3, 8UC4, the same with 16 bits per channel, bayer_*8, bayer_*16, yuv422 "
    "(uyvy), yuv422_yuy2 (yuyv), nv12, nv21, nv24"
)
"""`RGB_ENCODINGS` for messages."""
READ_AS_INFRARED = "mono8, 8UC1, mono16, 16UC1, 16SC1, 32FC1, 64FC1, and grey images in the RGB camera's encodings"
"""`INFRARED_ENCODINGS` for messages."""

_REMEDY = "set the camera driver to one of them, or republish the topic in one (image_proc, a node with cv_bridge)"

Converter = Callable[[Any, str], np.ndarray]
"""(message, wanted encoding) to an array, as cv_bridge's `imgmsg_to_cv2`; may raise any exception."""


@dataclass(frozen=True)
class OpenImage:
    """An image that passed all checks that need no decoding.

    Attributes:
        unpack: decodes the pixels, see `decode_rgb` and `decode_infrared`; raises `DecodeError` for damage found only
            then. The array may be a read-only view of the message's data.
        look: array of any shape that differs between different images, to recognise a camera that repeats one image.
        packed: number of compressed pixels, which take milliseconds per 100,000 to decode; 0: none.
    """

    unpack: Callable[[], np.ndarray]
    look: np.ndarray
    packed: int = 0


def decode_rgb(message: ImageMessage, converter: Converter | None = None) -> np.ndarray:
    """Decode an RGB image message.

    Args:
        message: the message, see the module docstring.
        converter: converts encodings that are not in `RGB_ENCODINGS`.

    Returns:
        uint8 [h, w, 3] in RGB order, C-contiguous; grey is repeated over the channels. It may be a read-only view of
        the message's data, which it keeps alive: copy it before drawing on it.

    Raises:
        DecodeError: the message is inconsistent, or its encoding is not supported.
    """
    return open_rgb(message, converter).unpack()


def open_rgb(message: ImageMessage, converter: Converter | None = None) -> OpenImage:
    """Check an RGB image message now and convert its pixels on demand, see `decode_rgb`.

    Raises:
        DecodeError: the message is inconsistent, or its encoding is not supported.
    """
    encoding = encoding_field(message)
    if encoding in _TO_RGB:
        channels, conversion = _TO_RGB[encoding]
        view = pixel_view(message, encoding, channels, np.dtype(np.uint8))
        return OpenImage(lambda: _to_rgb(native(view), conversion), view)
    if encoding in PACKED or encoding in PLANAR:
        return _open_colour(message, encoding)
    hint = " (are the RGB and infrared topics exchanged?)" if encoding in _COUNTS else ""
    return _converted(message, encoding, "rgb8", converter, READ_AS_RGB, hint)


def decode_infrared(
    message: ImageMessage, converter: Converter | None = None, options: DecodeOptions | None = None
) -> np.ndarray:
    """Decode an IR image message to raw counts.

    Grey sent as three equal channels or as YUV (rgb8, bgr8, yuv422, ...) is accepted. A coloured image is refused: it
    has the camera's palette, whose colours are not counts, or comes from the RGB camera. Signed 16-bit values are
    raised by 32768. Floating-point temperatures become counts of 0.01 K, NaN becomes 0.

    Args:
        message: the message, see the module docstring.
        converter: converts encodings that are not in `INFRARED_ENCODINGS`.
        options: part of the image to use, and the unit of its values.

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
    """Check an IR image message now and convert its pixels on demand, see `decode_infrared`.

    Raises:
        DecodeError: the message is inconsistent, or its encoding is not supported.
    """
    options = options or DecodeOptions()
    encoding = options.ir_encoding or encoding_field(message)
    if encoding in _COUNTS:
        dtype = np.dtype(_COUNTS[encoding])
        if dtype.itemsize > 1:
            dtype = dtype.newbyteorder(">" if message.is_bigendian else "<")
        view = cropped(pixel_view(message, encoding, 1, dtype), options.ir_crop)
        return OpenImage(lambda: counts_of(native(view), options.ir_float_unit), view)
    if encoding in _COLOUR_CHANNELS or encoding in _WIDE_CHANNELS:
        wide = encoding in _WIDE_CHANNELS
        channels = _WIDE_CHANNELS[encoding] if wide else _COLOUR_CHANNELS[encoding]
        dtype = np.dtype((">u2" if message.is_bigendian else "<u2") if wide else np.uint8)
        view = cropped(pixel_view(message, encoding, channels, dtype), options.ir_crop)
        check_grey(view, encoding)
        return OpenImage(lambda: np.ascontiguousarray(native(view)[..., 1]), view)
    if encoding in PACKED or encoding in PLANAR:
        opened = _open_colour(message, encoding)
        check_crop(integer_field(message, "height"), integer_field(message, "width"), options.ir_crop)
        look = cropped(opened.look, options.ir_crop)  # cropped: a counter in a telemetry row would hide a frozen image
        return OpenImage(lambda: grey_of(cropped(opened.unpack(), options.ir_crop), encoding), look)
    wanted = "mono16" if "16" in encoding else "mono8"
    opened = _converted(message, encoding, wanted, converter, READ_AS_INFRARED, "")
    return OpenImage(lambda: np.ascontiguousarray(cropped(opened.unpack(), options.ir_crop)), opened.look)


def _to_rgb(pixels: np.ndarray, conversion: int | None) -> np.ndarray:
    if conversion is None:
        return pixels
    if pixels.shape[:2] == (1, 1):  # OpenCV 4.5 refuses a single pixel of three channels
        return np.ascontiguousarray(cv2.cvtColor(np.repeat(pixels, 2, axis=1), conversion)[:, :1])
    return cv2.cvtColor(pixels, conversion)


def _open_colour(message: ImageMessage, encoding: str) -> OpenImage:
    """Open an image of an encoding in `PACKED` or `PLANAR`."""
    if encoding in PLANAR:
        return _open_planar(message, encoding)
    layout: Packed = PACKED[encoding]
    dtype = np.dtype(layout.dtype)
    if dtype.itemsize > 1:
        dtype = dtype.newbyteorder(">" if message.is_bigendian else "<")
    height, width = size_fields(message, encoding)
    if min(height, width) < layout.min_side:
        raise DecodeError(
            "wrong_size",
            f"the image ({encoding}) is {width}x{height} pixels, but a mosaic has at least {layout.min_side} "
            "rows and columns: set another size in the camera driver",
        )
    if layout.even_width and width % 2:
        raise DecodeError(
            "wrong_size",
            f"the image ({encoding}) is {width} pixels wide, but two pixels share their chroma in this encoding, so "
            "the width must be even: set another size in the camera driver",
        )
    view = pixel_view(message, encoding, layout.channels, dtype)
    return OpenImage(lambda: layout.to_rgb(native(view)), view)


def _open_planar(message: ImageMessage, encoding: str) -> OpenImage:
    """Open an image such as NV12; dense data is read with any `step`, on which drivers disagree."""
    layout = PLANAR[encoding]
    height, width = size_fields(message, encoding)
    shared = layout.chroma_rows == 1
    if shared and (height % 2 or width % 2):
        raise DecodeError(
            "wrong_size",
            f"the image ({encoding}) is {width}x{height} pixels, but 2x2 pixels share their chroma in this encoding, "
            "so both must be even: set another size in the camera driver",
        )
    step, data = integer_field(message, "step"), flat_bytes(message)
    rows = height + height * layout.chroma_rows // 2
    stride = width if data.size == width * rows else step
    if stride < width:
        raise wrong_step(step, width, encoding, width)
    if data.size != stride * rows:
        raise wrong_length(data.size, step, rows, width, height, encoding)
    y: np.ndarray = np.ndarray((height, width), np.uint8, buffer=data, strides=(stride, 1))
    shape, chroma_stride = ((height // 2, width), stride) if shared else ((height, 2 * width), 2 * stride)
    uv: np.ndarray = np.ndarray(shape, np.uint8, buffer=data, offset=stride * height, strides=(chroma_stride, 1))
    return OpenImage(lambda: layout.to_rgb(y, np.ascontiguousarray(uv)), y)


def _converted(
    message: ImageMessage, encoding: str, wanted: str, converter: Converter | None, readable: str, hint: str
) -> OpenImage:
    """Open an image by the injected converter."""
    known = f"supported are {readable}: {_REMEDY}"
    if converter is None:
        raise DecodeError("unknown_encoding", f"image encoding {shortened(encoding)} is not supported{hint}; {known}")
    size_fields(message, shortened(encoding))
    flat_bytes(message)
    try:
        image = np.asarray(converter(message, wanted))
    except Exception as error:  # cv_bridge and OpenCV raise any class
        raise DecodeError(
            "unknown_encoding",
            f"image encoding {shortened(encoding)} can't be converted to {wanted} "
            f"({shortened(str(error), 160)}){hint}; {known}",
        ) from error
    good_rgb = wanted == "rgb8" and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    good_grey = wanted != "rgb8" and image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
    if not (good_rgb or good_grey) or image.size == 0:
        raise DecodeError(
            "converter_failed",
            f"image encoding {shortened(encoding)} was converted to {image.dtype} {tuple(image.shape)}, "
            f"not to {wanted}{hint}; {known}",
        )
    return OpenImage(lambda: np.ascontiguousarray(image), image)
