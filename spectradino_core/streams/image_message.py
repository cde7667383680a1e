"""Check the fields of an image message: all sizes must be consistent before pixels are read.

Letters: h height, w width.
"""

from __future__ import annotations

import operator
from typing import Any, Protocol

import numpy as np

from spectradino_core.runtime.image_size import MAX_SIDE, size_fault
from spectradino_core.text import printable


class DecodeError(ValueError):
    """An image message can't be decoded.

    Attributes:
        cause: name of the drop counter: "bad_field", "empty_image", "implausible_size",
            "unknown_encoding", "wrong_step", "wrong_size", "short_data", "long_data", "crop_outside",
            "colour_infrared", "converter_failed"; for compressed images also "unknown_format", "lossy_16bit",
            "depth_mismatch", "corrupt_data", "too_many_scans".
        camera: "rgb" or "ir", "" if unknown.
        counted: whether the frame is counted as dropped: a frame that is used again raises the same error again.
    """

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause
        self.camera = ""
        self.counted = False


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
        raise DecodeError("bad_field", f"the image's encoding is {shortened(encoding)}, not a string")
    return encoding.strip()


def integer_field(message: ImageMessage, name: str) -> int:
    value = getattr(message, name, None)
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise DecodeError("bad_field", f"the image's {name} is {shortened(value)}, not an integer") from None


def size_fields(message: ImageMessage, encoding: str) -> tuple[int, int]:
    return check_size(integer_field(message, "height"), integer_field(message, "width"), f"the image ({encoding})")


def check_size(height: int, width: int, what: str, max_pixels: int = MAX_SIDE * MAX_SIDE) -> tuple[int, int]:
    """Return (height, width) in pixels if they are plausible.

    Raises:
        DecodeError: a side is zero, negative or above `MAX_SIDE`, or the image has more than `max_pixels`.
    """
    fault = size_fault(width, height, max_pixels)
    if height <= 0 or width <= 0:
        raise DecodeError("empty_image", f"{what} {fault}: check the publisher")
    if fault:
        remedy = "" if max(height, width) > MAX_SIDE else ": raise max_image_megapixels if the camera has this size"
        raise DecodeError("implausible_size", f"{what} {fault}{remedy}")
    return height, width


def flat_bytes(message: Any) -> np.ndarray:
    """Return the message's data as uint8 [N], without a copy if it supports the buffer protocol.

    Raises:
        DecodeError: the data is empty, or not a sequence of bytes.
    """
    data = getattr(message, "data", None)
    try:
        flat = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):
        flat = _from_sequence(data)
    if flat.size == 0:
        raise DecodeError("empty_image", "the image's data is empty: check the publisher")
    return flat


def _from_sequence(data: Any) -> np.ndarray:
    """Convert data without the buffer protocol, such as a list of integers."""
    try:
        return np.frombuffer(bytes(data) if isinstance(data, (list, tuple)) else b"".join([data]), np.uint8)
    except (TypeError, ValueError, OverflowError):
        raise DecodeError("bad_field", f"the image's data is {shortened(data)}, not a sequence of bytes") from None


def pixel_view(message: ImageMessage, encoding: str, channels: int, dtype: type) -> np.ndarray:
    """Return the pixels as a read-only view [h, w] or [h, w, channels] of the message's data, after all size checks."""
    height, width = size_fields(message, encoding)
    step = integer_field(message, "step")
    stored = np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")
    pixel_bytes = channels * stored.itemsize
    if step < width * pixel_bytes:
        raise wrong_step(step, width, encoding, width * pixel_bytes)
    data = flat_bytes(message)
    if data.size != step * height:
        raise wrong_length(data.size, step, height, width, height, encoding)
    shape: tuple[int, ...] = (height, width) if channels == 1 else (height, width, channels)
    strides = (step, pixel_bytes, stored.itemsize)[: len(shape)]
    view: np.ndarray = np.ndarray(shape, stored, buffer=data, strides=strides)
    view.flags.writeable = False
    return view


def native(view: np.ndarray) -> np.ndarray:
    """Return the view in native byte order and C-contiguous, without a copy if it already is."""
    native = view.dtype.newbyteorder("=")
    if view.dtype != native or not (view.flags.c_contiguous and view.flags.aligned):
        return np.ascontiguousarray(view.astype(native))
    return view


def corrupt(kind: str, size: int, reason: str) -> DecodeError:
    """Make the error for a damaged image file of `size` bytes."""
    return DecodeError("corrupt_data", f"the {kind} image of {size} bytes is damaged: {reason}")


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
        f"{step * rows} ({width}x{height} {encoding}): correct the publisher's fields, or check for truncated messages",
    )


def shortened(value: object, limit: int = 60) -> str:
    """Return a value as text of limited length for a message."""
    try:
        text = value if isinstance(value, str) and limit > 60 else repr(value)
    except Exception:  # the repr of any object may fail
        text = f"<{type(value).__name__}>"
    return printable(text if len(text) <= limit else text[:limit] + "…", limit + 60)
