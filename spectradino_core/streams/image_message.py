"""The fields of an image message, checked: every size agrees with every other before a pixel is looked at.

Letters: h height, w width.
"""

from __future__ import annotations

import operator
from typing import Any, Protocol

import numpy as np

from spectradino_core.runtime.image_size import MAX_SIDE, size_fault
from spectradino_core.text import printable

__all__ = [
    "MAX_SIDE",
    "DecodeError",
    "ImageMessage",
    "check_size",
    "corrupt",
    "encoding_field",
    "flat_bytes",
    "native",
    "pixel_view",
    "shortened",
    "size_fields",
    "whole_field",
    "wrong_length",
    "wrong_step",
]


class DecodeError(ValueError):
    """An image message cannot be read.

    Attributes:
        cause: a short code, the name of the drop counter: "bad_field", "empty_image", "implausible_size",
            "unknown_encoding", "wrong_step", "wrong_size", "short_data", "long_data", "crop_outside",
            "colour_infrared", "converter_failed"; for compressed images also "unknown_format", "lossy_16bit",
            "depth_mismatch", "corrupt_data", "too_many_scans".
        camera: "rgb" or "ir", where it is known.
    """

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause
        self.camera = ""


def corrupt(kind: str, size: int, why: str) -> DecodeError:
    """The error for a damaged image file of `size` bytes."""
    return DecodeError("corrupt_data", f"the {kind} image of {size} bytes is damaged: {why}")


class ImageMessage(Protocol):
    """The fields of sensor_msgs/Image that are read."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


def encoding_field(message: ImageMessage) -> str:
    encoding = getattr(message, "encoding", None)
    if not isinstance(encoding, str):
        raise DecodeError("bad_field", f"the image's encoding is {shortened(encoding)}, not a text")
    return encoding.strip()


def pixel_view(message: ImageMessage, encoding: str, channels: int, dtype: np.dtype) -> np.ndarray:
    """The message's pixels as a read-only view, [h, w] or [h, w, channels], of any stride and byte order."""
    height, width, step, data = _checked(message, encoding, channels * dtype.itemsize)
    shape: tuple[int, ...] = (height, width) if channels == 1 else (height, width, channels)
    strides = (step, channels * dtype.itemsize, dtype.itemsize)[: len(shape)]
    view: np.ndarray = np.ndarray(shape, dtype, buffer=data, strides=strides)
    view.flags.writeable = False
    return view


def native(view: np.ndarray) -> np.ndarray:
    """The same in native byte order and C-contiguous; the view itself where it is so already."""
    native = view.dtype.newbyteorder("=")
    if view.dtype != native or not (view.flags.c_contiguous and view.flags.aligned):
        return np.ascontiguousarray(view.astype(native))
    return view


def _checked(message: ImageMessage, encoding: str, pixel_bytes: int) -> tuple[int, int, int, np.ndarray]:
    """Height, width, step and the data as uint8 [step * height], after every check of size."""
    height, width = size_fields(message, encoding)
    step = whole_field(message, "step")
    if step < width * pixel_bytes:
        raise wrong_step(step, width, encoding, width * pixel_bytes)
    data = flat_bytes(message)
    if data.size != step * height:
        raise wrong_length(data.size, step, height, width, height, encoding)
    return height, width, step, data


def size_fields(message: ImageMessage, encoding: str) -> tuple[int, int]:
    return check_size(whole_field(message, "height"), whole_field(message, "width"), f"the image ({encoding})")


def wrong_step(step: int, width: int, encoding: str, row: int) -> DecodeError:
    return DecodeError(
        "wrong_step",
        f"the image's step is {step} bytes, but a row of {width} {encoding} pixels takes {row}: the publisher must set "
        "step to the length of a row in bytes",
    )


def wrong_length(size: int, step: int, rows: int, width: int, height: int, encoding: str) -> DecodeError:
    short = size < step * rows
    return DecodeError(
        "short_data" if short else "long_data",
        f"the image's data has {size} bytes, {'fewer' if short else 'more'} than step x rows = {step} x {rows} = "
        f"{step * rows} ({width}x{height} {encoding}): the publisher's fields do not agree, or the message was cut",
    )


def check_size(height: int, width: int, what: str, most_pixels: int = MAX_SIDE * MAX_SIDE) -> tuple[int, int]:
    """`height` and `width` in pixels, if a camera can have them.

    Raises:
        DecodeError: zero, negative, more than `MAX_SIDE`, or more than `most_pixels` together.
    """
    if height <= 0 or width <= 0:
        fault = size_fault(width, height, most_pixels)
        raise DecodeError("empty_image", f"{what} {fault}: look at what the publisher sends")
    if fault := size_fault(width, height, most_pixels):
        remedy = "" if max(height, width) > MAX_SIDE else ": raise max_image_megapixels if the camera is so large"
        raise DecodeError("implausible_size", f"{what} {fault}{remedy}")
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
        raise DecodeError("bad_field", f"the image's data is {shortened(data)}, not a sequence of bytes") from None


def whole_field(message: ImageMessage, name: str) -> int:
    value = getattr(message, name, None)
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise DecodeError("bad_field", f"the image's {name} is {shortened(value)}, not a whole number") from None


def shortened(value: object, most: int = 60) -> str:
    """A value for a message, however long it is."""
    try:
        text = value if isinstance(value, str) and most > 60 else repr(value)
    except Exception:  # a foreign object's repr may fail; the error to report is another
        text = f"<{type(value).__name__}>"
    return printable(text if len(text) <= most else text[:most] + "…", most + 60)
