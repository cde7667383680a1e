"""Decode compressed image messages: JPEG, PNG, TIFF, and raw images in `zstd`.

A message is any object with the fields of `sensor_msgs/CompressedImage`: format and data. The file type is taken from
the data; the format string ("jpeg", "rgb8; jpeg compressed bgr8", "mono16; png compressed", "zstd") describes the
source image, and a contradiction is refused. Size and decoding cost are checked in the file's header before decoding,
so that a few bytes can't cost gigabytes or minutes. Stored data is verified as far as its format allows: PNG checksums,
JPEG markers and decoder warnings (`jpeg.py`), TIFF strips, the zlib checksum.

Both functions check a message now and decode it on demand: decoding takes milliseconds and is not needed for a frame
that a newer one replaces. They raise `DecodeError` for what is visible without decoding; `OpenImage.unpack` raises it
for all other damage.

Letters: h height, w width.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol

import cv2
import numpy as np

from spectradino_core.streams.decode import (
    BAYER,
    PLANAR,
    DecodeOptions,
    OpenImage,
    check_crop,
    counts_of,
    cropped,
    grey_of,
    is_mosaic,
    open_infrared,
    open_rgb,
    to_rgb,
)
from spectradino_core.streams.image_files import ImageFile, decode_file, png_header, tiff_header
from spectradino_core.streams.image_message import DecodeError, check_size, corrupt, flat_bytes
from spectradino_core.streams.jpeg import decode_jpeg, jpeg_header

_READERS = (
    (b"\xff\xd8\xff", "jpeg", jpeg_header),
    (b"\x89PNG\r\n\x1a\n", "png", png_header),
    (b"II*\x00", "tiff", tiff_header),
    (b"MM\x00*", "tiff", tiff_header),
)
_ZSTD_HEADER = struct.Struct("<IIBII")
_MAX_ENCODING = 64
_MAX_PIXEL_BYTES, _MAX_PADDING = 8, 4 << 20
"""Limits of the raw image inside `zstd`: bytes per pixel, and padding of all rows in bytes."""

_NO_FINGERPRINT = np.empty((0, 0), np.uint8)
"""`OpenImage.fingerprint` of an RGB image: only IR cameras are checked for repeated images."""


class CompressedImageMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage that are read."""

    format: str
    data: Any


def open_compressed_rgb(message: CompressedImageMessage, options: DecodeOptions | None = None) -> OpenImage:
    """Open a compressed RGB image: unpacked uint8 [h, w, 3], grey repeated, a Bayer mosaic converted.

    Raises:
        DecodeError: not JPEG, PNG, TIFF or `zstd`; damaged; or larger than `DecodeOptions.max_pixels`.
    """
    options = options or DecodeOptions()
    text = _format(message)
    if _is_zstd(text):
        return _open_zstd(message, options, open_rgb, has_fingerprint=False)
    file = _open(message, text, options)
    source = text.lower().strip()
    pattern = (re.match("|".join(BAYER), source) or [""])[0]
    if file.bits == 16 and file.channels == 1 and not pattern:
        raise DecodeError(
            "unknown_encoding",
            f"the RGB image is 16-bit grey ({text!r}): check whether the RGB and infrared topics are exchanged",
        )

    def unpack() -> np.ndarray:
        image = _decode(file, bool(pattern))
        if image.ndim == 3:
            return image
        if pattern and (not source.endswith("mono8") or is_mosaic(image)):
            return to_rgb(image, BAYER[pattern])
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)

    return OpenImage(unpack, _NO_FINGERPRINT, file.width * file.height)


def open_compressed_infrared(message: CompressedImageMessage, options: DecodeOptions | None = None) -> OpenImage:
    """Open a compressed IR image: unpacked raw counts uint8 or uint16 [h, w].

    Grey stored as three equal channels is accepted; coloured images are refused (see `decode.decode_infrared`).

    Raises:
        DecodeError: not JPEG, PNG, TIFF or `zstd`; damaged; too large; coloured; a JPEG made from 16-bit counts; or 8
            bits where the format string says 16.
    """
    options = options or DecodeOptions()
    text = _format(message)
    if _is_zstd(text):
        return _open_zstd(message, options, lambda inner: open_infrared(inner, options=options), has_fingerprint=True)
    file = _open(message, text, options)
    made_from_16_bits = "16" in text.split(";")[0]
    if made_from_16_bits and file.kind == "jpeg":
        raise DecodeError(
            "lossy_16bit",
            f"the 16-bit infrared image ({text!r}) was sent as JPEG, which keeps 8 bits: set the publisher's "
            "compressed format to png or tiff",
        )
    if made_from_16_bits and file.bits < 16:
        raise DecodeError(
            "depth_mismatch",
            f"the infrared image's format states 16 bits ({text!r}), its {file.kind} data has 8: correct the "
            "publisher's format",
        )
    check_crop(file.height, file.width, options.ir_crop)

    def unpack() -> np.ndarray:
        image = cropped(_decode(file, True), options.ir_crop)
        return counts_of(image, options.ir_float_unit) if image.ndim == 2 else grey_of(image, file.kind)

    return OpenImage(unpack, _digest(file.content), file.width * file.height)


def encoding_of(message: Any) -> str:
    """Return the stated encoding or format of an image message; for `zstd` with the inner encoding."""
    text = str(getattr(message, "encoding", "") or getattr(message, "format", "")).strip()
    if hasattr(message, "format") and _is_zstd(text):
        try:
            inner, _ = _zstd_header(message)
        except DecodeError:
            return text
        return f"{inner.encoding}; zstd"
    return text


def _format(message: CompressedImageMessage) -> str:
    text = getattr(message, "format", None)
    if not isinstance(text, str):
        raise DecodeError(
            "bad_field",
            f"the compressed image's format is a {type(text).__name__}, not a string: correct the publisher",
        )
    return text[:80]


def _open(message: CompressedImageMessage, text: str, options: DecodeOptions) -> ImageFile:
    data = flat_bytes(message)
    magic = data[:8].tobytes()
    for start, kind, read_header in _READERS:
        if magic.startswith(start):
            try:
                file = read_header(data)
            except (struct.error, IndexError, KeyError, OverflowError):
                raise corrupt(kind, data.size, "it is truncated, or its header is damaged") from None
            check_size(file.height, file.width, f"the {kind} image", options.max_pixels)
            return file
    hint = "set the publisher's compressed format to jpeg or png"
    if "compressedDepth" in text:
        hint = "subscribe to the plain compressed topic, not compressedDepth"
    raise DecodeError(
        "unknown_format",
        f"the compressed image ({text!r}, {data.size} bytes from {magic.hex()}) is not JPEG, PNG or TIFF: {hint}",
    )


def _decode(file: ImageFile, as_is: bool) -> np.ndarray:
    return decode_jpeg(file, as_is) if file.kind == "jpeg" else decode_file(file, as_is)


def _digest(content: np.ndarray) -> np.ndarray:
    """Return a checksum for `OpenImage.fingerprint`: a repeated image has the same compressed bytes.

    It is a single number because the detection of frozen images samples every 8th pixel.
    """
    return np.array([[content.size << 32 | zlib.crc32(content.data)]], np.uint64)


def _is_zstd(text: str) -> bool:
    return text.strip().lower() == "zstd"


def _zstd_header(message: CompressedImageMessage) -> tuple[SimpleNamespace, np.ndarray]:
    """Return the raw image message without data, and the compressed data."""
    data = flat_bytes(message)
    try:
        height, width, is_bigendian, step, length = _ZSTD_HEADER.unpack_from(data.data)
    except struct.error:
        raise corrupt("zstd", data.size, "its header is truncated") from None
    begin = _ZSTD_HEADER.size
    if length > _MAX_ENCODING or begin + length >= data.size:
        raise corrupt("zstd", data.size, "its header is damaged")
    encoding = data[begin : begin + length].tobytes().decode("ascii", "replace")
    inner = SimpleNamespace(height=height, width=width, encoding=encoding, is_bigendian=is_bigendian, step=step)
    return inner, data[begin + length :]


def _open_zstd(
    message: CompressedImageMessage,
    options: DecodeOptions,
    open_raw: Callable[[Any], OpenImage],
    has_fingerprint: bool,
) -> OpenImage:
    """Open an image of zstd_image_transport, whose data is in zlib format despite the name."""
    inner, packed = _zstd_header(message)
    height, width = check_size(inner.height, inner.width, "the zstd image", options.max_pixels)
    size = inner.step * height
    if inner.encoding in PLANAR:  # chroma rows add to the image rows
        size *= 3
    if size > _MAX_PIXEL_BYTES * width * height + _MAX_PADDING:
        raise DecodeError(
            "wrong_step",
            f"the zstd image of {width}x{height} pixels states rows of {inner.step} bytes: the publisher must set step "
            "to the length of a row in bytes",
        )

    def unpack() -> np.ndarray:
        stream = zlib.decompressobj(47)  # zlib or gzip, as the header says
        try:
            raw = stream.decompress(packed.data, size + 1)
        except zlib.error as error:
            raise corrupt("zstd", packed.size, f"{error}") from None
        if len(raw) > size:
            raise DecodeError(
                "long_data",
                f"the zstd image has more than the {size} bytes stated in its header: correct the publisher",
            )
        if not stream.eof:
            raise corrupt("zstd", packed.size, "it is truncated")
        inner.data = raw
        return open_raw(inner).unpack()

    return OpenImage(unpack, _digest(packed) if has_fingerprint else _NO_FINGERPRINT, width * height)
