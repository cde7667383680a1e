"""Raw image messages to arrays, without cv_bridge and without ROS.

A message is anything with the fields of `sensor_msgs/Image`: height, width, encoding, is_bigendian, step, data. Plain
encodings are read here; for others a converter may be injected (the node injects cv_bridge where it can be imported).
Whatever is wrong with a message becomes one `DecodeError` whose `cause` serves as the name of a drop counter.

Encodings that leave the channel order open (8UC3, 8UC4) are read as OpenCV's own order, BGR.

Letters: h height, w width.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np

__all__ = [
    "INFRARED_ENCODINGS",
    "MAX_SIDE",
    "RGB_ENCODINGS",
    "Converter",
    "DecodeError",
    "ImageMessage",
    "decode_infrared",
    "decode_rgb",
]

MAX_SIDE = 1 << 16
"""No camera has more rows or columns; a header that says so is damaged."""

MAX_COLOUR_DIFFERENCE = 12
"""Levels by which the channels of a grey picture may differ after JPEG."""

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
"""Encoding to its channels and OpenCV's conversion to RGB."""

_GREY_BYTES = {"mono8": 1, "8UC1": 1, "mono16": 2, "16UC1": 2}
_COLOUR_CHANNELS = {name: channels for name, (channels, _) in _TO_RGB.items() if channels > 1}

RGB_ENCODINGS = tuple(_TO_RGB)
INFRARED_ENCODINGS = (*_GREY_BYTES, *_COLOUR_CHANNELS)


class DecodeError(ValueError):
    """An image message cannot be read.

    Attributes:
        cause: a short code, the name of the drop counter: "bad_field", "empty_image", "implausible_size",
            "unknown_encoding", "wrong_step", "short_data", "long_data", "colour_infrared", "converter_failed"; for
            compressed images also "unknown_format", "lossy_16bit", "depth_mismatch", "corrupt_data".
    """

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class ImageMessage(Protocol):
    """The fields of sensor_msgs/Image that are read."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


Converter = Callable[[Any, str], np.ndarray]
"""(message, wanted encoding) to an array, as cv_bridge's `imgmsg_to_cv2`; raises what it likes."""


def decode_rgb(message: ImageMessage, converter: Converter | None = None) -> np.ndarray:
    """A colour image message to uint8 [h, w, 3] in RGB order, C-contiguous.

    The array may be a read-only view of the message's data, which it keeps alive: copy it before drawing on it.

    Args:
        message: see the module's head; grey images are repeated over the three channels.
        converter: reads the encodings that are not in `RGB_ENCODINGS`.

    Raises:
        DecodeError: the message is inconsistent, or nothing here reads its encoding.
    """
    encoding = _encoding(message)
    if encoding not in _TO_RGB:
        hint = "; are the colour and infrared topics exchanged?" if encoding in _GREY_BYTES else ""
        return _converted(message, encoding, "rgb8", converter, RGB_ENCODINGS, hint)
    channels, conversion = _TO_RGB[encoding]
    pixels = _pixels(message, encoding, channels, np.dtype(np.uint8))
    if conversion is None:
        return pixels
    if pixels.shape[:2] == (1, 1):  # with three channels OpenCV 4.5 refuses it
        return np.ascontiguousarray(cv2.cvtColor(np.repeat(pixels, 2, axis=1), conversion)[:, :1])
    return cv2.cvtColor(pixels, conversion)


def decode_infrared(message: ImageMessage, converter: Converter | None = None) -> np.ndarray:
    """An infrared image message to raw counts, uint8 or uint16 [h, w], native byte order, C-contiguous.

    Cameras that send grey as three equal channels (rgb8, bgr8, ...) are read too. A picture with real colours is
    refused: either a palette was applied in the camera, and its colours are no counts, or it is the colour camera.

    The array may be a read-only view of the message's data, which it keeps alive.

    Args:
        message: see the module's head.
        converter: reads the encodings that are not in `INFRARED_ENCODINGS`.

    Raises:
        DecodeError: the message is inconsistent, nothing here reads its encoding, or the picture is coloured.
    """
    encoding = _encoding(message)
    if encoding in _GREY_BYTES:
        dtype: np.dtype = np.dtype(np.uint8)
        if _GREY_BYTES[encoding] == 2:
            dtype = np.dtype(">u2" if message.is_bigendian else "<u2")
        return _pixels(message, encoding, 1, dtype)
    if encoding in _COLOUR_CHANNELS:
        return grey_of(_pixels(message, encoding, _COLOUR_CHANNELS[encoding], np.dtype(np.uint8)), encoding)
    wanted = "mono16" if "16" in encoding else "mono8"
    return _converted(message, encoding, wanted, converter, INFRARED_ENCODINGS, "")


def grey_of(image: np.ndarray, encoding: str) -> np.ndarray:
    """The one channel of a grey picture that came as three or four: [h, w] of the same type.

    Raises:
        DecodeError: the channels differ (checked on every 8th pixel of every 8th row), so it is no grey picture.
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
    return np.ascontiguousarray(image[..., 1])


def _encoding(message: ImageMessage) -> str:
    encoding = getattr(message, "encoding", None)
    if not isinstance(encoding, str):
        raise DecodeError("bad_field", f"the image's encoding is {_short(encoding)}, not a text")
    return encoding.strip()


def _pixels(message: ImageMessage, encoding: str, channels: int, dtype: np.dtype) -> np.ndarray:
    """The message's pixels, [h, w] or [h, w, channels], native byte order, C-contiguous; a view where that can be."""
    height, width, step, data = _checked(message, encoding, channels * dtype.itemsize)
    shape: tuple[int, ...] = (height, width) if channels == 1 else (height, width, channels)
    strides = (step, channels * dtype.itemsize, dtype.itemsize)[: len(shape)]
    view: np.ndarray = np.ndarray(shape, dtype, buffer=data, strides=strides)
    native = dtype.newbyteorder("=")
    if dtype != native or not (view.flags.c_contiguous and view.flags.aligned):
        return np.ascontiguousarray(view.astype(native))
    view.flags.writeable = False
    return view


def _checked(message: ImageMessage, encoding: str, pixel_bytes: int) -> tuple[int, int, int, np.ndarray]:
    """Height, width, step and the data as uint8 [step * height], after every check of size."""
    height, width = check_size(_whole(message, "height"), _whole(message, "width"), f"the image ({encoding})")
    step = _whole(message, "step")
    if step < width * pixel_bytes:
        raise DecodeError(
            "wrong_step",
            f"the image's step is {step} bytes, but a row of {width} {encoding} pixels takes {width * pixel_bytes}: "
            "the publisher must set step to the length of a row in bytes",
        )
    data = flat_bytes(message)
    if data.size != step * height:
        short = data.size < step * height
        raise DecodeError(
            "short_data" if short else "long_data",
            f"the image's data has {data.size} bytes, {'fewer' if short else 'more'} than step x height = {step} x "
            f"{height} = {step * height} ({width}x{height} {encoding}): the publisher's fields do not agree, or the "
            "message was cut",
        )
    return height, width, step, data


def check_size(height: int, width: int, what: str) -> tuple[int, int]:
    """`height` and `width` in pixels, if a camera can have them.

    Raises:
        DecodeError: zero, negative, or more than `MAX_SIDE`.
    """
    if height <= 0 or width <= 0:
        raise DecodeError(
            "empty_image", f"{what} is {width}x{height} pixels, so it is empty: look at what the publisher sends"
        )
    if height > MAX_SIDE or width > MAX_SIDE:
        raise DecodeError("implausible_size", f"{what} claims {width}x{height} pixels, more than {MAX_SIDE} on a side")
    return height, width


def flat_bytes(message: Any) -> np.ndarray:
    """The message's data as uint8 [N], without a copy for anything that gives a buffer (array.array, bytes, NumPy).

    Raises:
        DecodeError: empty, or no sequence of bytes.
    """
    data = getattr(message, "data", None)
    try:
        flat = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):
        flat = _from_sequence(data)
    if flat.size == 0:
        raise DecodeError("empty_image", "the image's data is empty: look at what the publisher sends")
    return flat


def _from_sequence(data: Any) -> np.ndarray:
    """Data that gives no buffer, as a list of integers."""
    try:
        return np.frombuffer(bytes(data) if isinstance(data, (list, tuple)) else b"".join([data]), np.uint8)
    except (TypeError, ValueError, OverflowError):
        raise DecodeError("bad_field", f"the image's data is {_short(data)}, not a sequence of bytes") from None


def _whole(message: ImageMessage, name: str) -> int:
    value = getattr(message, name, None)
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise DecodeError("bad_field", f"the image's {name} is {_short(value)}, not a whole number") from None


def _converted(
    message: ImageMessage,
    encoding: str,
    wanted: str,
    converter: Converter | None,
    supported: tuple[str, ...],
    hint: str,
) -> np.ndarray:
    """What the injected converter makes of an encoding that is not read here."""
    known = f"read without cv_bridge are {', '.join(supported)}"
    if converter is None:
        raise DecodeError("unknown_encoding", f"image encoding {_short(encoding)} is not read here{hint}; {known}")
    check_size(_whole(message, "height"), _whole(message, "width"), f"the image ({_short(encoding)})")
    flat_bytes(message)
    try:
        image = np.asarray(converter(message, wanted))
    except Exception as error:  # the converter is foreign code (cv_bridge, OpenCV): its errors are of any class
        raise DecodeError(
            "unknown_encoding",
            f"image encoding {_short(encoding)} could not be converted to {wanted} "
            f"({_short(str(error), 160)}){hint}; {known}",
        ) from error
    good_rgb = wanted == "rgb8" and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    good_grey = wanted != "rgb8" and image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
    if not (good_rgb or good_grey) or image.size == 0:
        raise DecodeError(
            "converter_failed",
            f"image encoding {_short(encoding)} was converted to {image.dtype} {tuple(image.shape)}, "
            f"not to {wanted}{hint}; {known}",
        )
    return np.ascontiguousarray(image)


def _short(value: object, most: int = 60) -> str:
    """A value for a message, however long it is."""
    try:
        text = value if isinstance(value, str) and most > 60 else repr(value)
    except Exception:  # a foreign object's repr may fail; the error to tell is another
        text = f"<{type(value).__name__}>"
    return text if len(text) <= most else text[:most] + "…"
