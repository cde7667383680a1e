"""Strict decoding of JPEG images: damage that decoders conceal is an error.

JPEG has no checksum. libjpeg fills in missing data (the half-grey frames of USB cameras), prints a warning and reports
success. Here the markers are checked before decoding (size, number of scans, restart markers, end of image), and the
decoder's warnings count as errors: simplejpeg raises them; without it OpenCV decodes and its output on stderr is parsed
(`stderr.py`). Bytes after the end of the image, as in whole buffers sent by USB cameras, are ignored.
"""

from __future__ import annotations

import re
import struct
from contextlib import suppress

import cv2
import numpy as np

from spectradino_core.streams.image_files import ImageFile
from spectradino_core.streams.image_message import DecodeError, check_size, corrupt
from spectradino_core.streams.stderr import diverted_stderr

try:
    import simplejpeg
except Exception:  # optional; a broken build raises anything
    simplejpeg = None

STRICT_DECODER = simplejpeg is not None
"""Whether simplejpeg decodes; else OpenCV, whose warnings are parsed from stderr."""

MAX_SCANS = 20
"""Maximum number of scans. Encoders write up to 12; each scan costs a pass over all pixels for a few bytes."""

_MAX_SEGMENTS = 4096
_DHT, _EOI, _SOS, _DRI = 0xC4, 0xD9, 0xDA, 0xDD
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), (0xC2, 0xCA)
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODED = (*_SEQUENTIAL, *_PROGRESSIVE, 0xC3, 0xC9)
"""Frame types that libjpeg-turbo decodes; the others are differential."""
_ALL_COEFFICIENTS = (1 << 64) - 1
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_WARNING = re.compile(r"(?:Corrupt|Premature end of) JPEG|Invalid SOS|Inconsistent|Unsupported|Bogus", re.IGNORECASE)
_SLACK = 2
"""Padding bytes before a marker, from cameras that align data to words."""
_MAX_PADDING = 64
_ZEROS = bytes(32)
"""More bytes than a block of 64 coefficients takes if zero bits are the code of one coefficient."""


def jpeg_header(data: np.ndarray) -> ImageFile:
    """Check the markers of a JPEG image, uint8 [N] from its first marker, without decoding it.

    Raises:
        DecodeError: cause "corrupt_data" (truncated, or markers missing), "unknown_format", "implausible_size" or
            "too_many_scans".
        struct.error, IndexError: the file is truncated.
    """
    return _MarkerParser(data).file()


class _MarkerParser:
    """One pass over the markers."""

    def __init__(self, data: np.ndarray) -> None:
        self._data = data
        ff = np.flatnonzero(data[:-1] == 0xFF)
        following = data[ff + 1]
        # In entropy-coded data 0xFF is followed by 0; 0xFF before a marker is fill.
        is_marker = (following != 0) & (following != 0xFF)
        self._at, self._code = ff[is_marker], following[is_marker]
        self._stops = np.flatnonzero((self._code & 0xF8) != 0xD0)  # markers that are not restart markers
        self._restart_interval = 0
        self._size: tuple[int, int] | None = None
        self._frame_code = 0
        self._sampling: list[int] = []
        self._incomplete: dict[int, int] = {}  # coefficients not yet completed by a scan, as bits, by component
        self._first_symbols: dict[int, int] = {}
        self._ac_table = 0

    def _corrupt(self, reason: str) -> DecodeError:
        return corrupt("jpeg", self._data.size, reason)

    def file(self) -> ImageFile:
        view = self._data.data
        offset, scans, first_scan, restarts = 2, 0, 0, slice(0)
        for _ in range(_MAX_SEGMENTS):
            offset, code = self._marker(offset)
            if code == _EOI:
                return self._finished(offset, scans, first_scan, restarts)
            (length,) = struct.unpack_from(">H", view, offset + 2)
            if length < 2 or offset + 2 + length > self._data.size:
                raise self._corrupt("its header is truncated")
            if code in _FRAME_MARKERS:
                self._frame(offset, code)
            elif code == _DRI:
                (self._restart_interval,) = struct.unpack_from(">H", view, offset + 4)
            elif code == _DHT:
                self._tables(offset + 4, offset + 2 + length)
            elif code == _SOS:
                self._scan(offset)
            offset += 2 + length
            if code == _SOS:
                scans += 1
                if scans > MAX_SCANS:
                    raise DecodeError(
                        "too_many_scans",
                        f"the jpeg image of {self._data.size} bytes has over {MAX_SCANS} scans, which take seconds "
                        "to decode: set the camera to baseline JPEG",
                    )
                first_scan = first_scan or offset
                offset, restarts = self._end_of_scan(offset)
        raise self._corrupt(f"its header has more than {_MAX_SEGMENTS} segments")

    def _marker(self, offset: int) -> tuple[int, int]:
        """Return offset and code of the marker at `offset`, after fill bytes."""
        data = self._data
        if data[offset] != 0xFF:
            raise self._corrupt("its header is damaged")
        index = int(np.searchsorted(self._at, offset))
        if index == self._at.size:
            raise self._corrupt("its end is missing")
        found = int(self._at[index])
        if found - offset > 64 or not (data[offset:found] == 0xFF).all():
            raise self._corrupt("its header is damaged")
        return found, int(self._code[index])

    def _end_of_scan(self, offset: int) -> tuple[int, slice]:
        """Return the offset of the next marker that is not a restart marker, and the indices of those before it."""
        begin = int(np.searchsorted(self._at, offset))
        stop = int(np.searchsorted(self._stops, begin))
        if stop == self._stops.size:
            raise self._corrupt("its end is missing")
        end = int(self._stops[stop])
        return int(self._at[end]), slice(begin, end)

    def _frame(self, offset: int, code: int) -> None:
        if code not in _DECODED:
            raise DecodeError(
                "unknown_format",
                f"the jpeg image is not supported (marker 0xff{code:02x}): set the camera to baseline JPEG",
            )
        data = self._data
        precision, height, width, components = struct.unpack_from(">BHHB", data.data, offset + 4)
        if self._size is not None:
            raise self._corrupt("its header is damaged")
        if precision != 8 or components not in (1, 3, 4):
            raise DecodeError(
                "unknown_format",
                f"the jpeg image has {components} channels of {precision} bits, supported are 1, 3 or 4 of 8 bits: "
                "set the camera or its publisher to one of these, or to png",
            )
        self._size = check_size(height, width, "the jpeg image")
        self._frame_code = code
        self._sampling = [int(data[offset + 11 + 3 * n]) for n in range(components)]
        self._incomplete = {int(data[offset + 10 + 3 * n]): _ALL_COEFFICIENTS for n in range(components)}

    def _scan(self, offset: int) -> None:
        """Record which coefficients a scan completes, because decoders read missing ones as zeros."""
        (length, count) = struct.unpack_from(">HB", self._data.data, offset + 2)
        self._ac_table = int(self._data[offset + 6]) & 15
        if length != 6 + 2 * count:
            raise self._corrupt("its header is damaged")
        first, last, bits = struct.unpack_from(">BBB", self._data.data, offset + 5 + 2 * count)
        done = _ALL_COEFFICIENTS
        if self._frame_code in _PROGRESSIVE:
            done = 0 if bits & 15 else (_ALL_COEFFICIENTS >> (63 - last % 64)) & (_ALL_COEFFICIENTS << first % 64)
        for index in range(offset + 5, offset + 5 + 2 * count, 2):
            component = int(self._data[index])
            self._incomplete[component] = self._incomplete.get(component, 0) & ~done

    def _finished(self, offset: int, scans: int, first_scan: int, restarts: slice) -> ImageFile:
        if self._size is None or not scans:
            raise self._corrupt("it has no image")
        if any(self._incomplete.values()):
            raise self._corrupt(f"it ends after scan {scans} and further ones are missing")
        height, width = self._size
        if scans == 1:
            self._check_restarts(height, width, self._code[restarts] & 7)
            if self._frame_code in _SEQUENTIAL:
                self._check_zeros(first_scan, offset)
        data = self._data[: offset + 2]
        content = data[first_scan:]  # without metadata, which may contain the time
        return ImageFile("jpeg", width, height, 8, len(self._sampling), content, data)

    def _check_restarts(self, height: int, width: int, found: np.ndarray) -> None:
        """Check that restart markers count 0 to 7 cyclically, one per `restart_interval` blocks."""
        if not self._restart_interval:
            return
        across = down = 1
        if len(self._sampling) > 1:
            across, down = max(s >> 4 for s in self._sampling), max(s & 15 for s in self._sampling)
        if not across or not down:
            raise self._corrupt("its header is damaged")
        blocks = -(-width // (8 * across)) * -(-height // (8 * down))
        expected = -(-blocks // self._restart_interval) - 1
        if found.size != expected or (found != np.arange(expected) % 8).any():
            raise self._corrupt(f"it has {found.size} of {expected} restart markers, or in wrong order")

    def _tables(self, offset: int, end: int) -> None:
        """Record the symbol whose code is zero bits in each Huffman table of AC coefficients."""
        while offset + 17 < end:
            name, counts = int(self._data[offset]), int(self._data[offset + 1 : offset + 17].sum())
            if name >> 4:
                self._first_symbols[name & 15] = int(self._data[offset + 17])
            offset += 17 + counts

    def _check_zeros(self, begin: int, end: int) -> None:
        """Refuse a gap of zeros, as of lost packets, which may decode to the right number of blocks.

        If zero bits mean "end of block", as in tables optimised for one image, zeros are valid flat areas.
        """
        if self._first_symbols.get(self._ac_table, 1) == 0:
            return
        stored = self._data[begin:end].tobytes()
        image = stored.rstrip(b"\0")
        if _ZEROS in image or len(stored) - len(image) > _MAX_PADDING:
            raise self._corrupt(f"it has {len(_ZEROS)} zero bytes in the middle of the image")


def decode_jpeg(file: ImageFile, as_is: bool) -> np.ndarray:
    """Decode a JPEG image that `jpeg_header` checked.

    Returns:
        uint8 [h, w] of a grey image if `as_is`, else uint8 [h, w, 3] in RGB order.

    Raises:
        DecodeError: cause "corrupt_data".
    """
    is_grey = as_is and file.channels == 1
    if simplejpeg is None or file.channels == 4:
        return _by_opencv(file, is_grey)
    colours = "GRAY" if is_grey else "RGB"
    try:
        image = simplejpeg.decode_jpeg(file.data, colours)
    except (ValueError, MemoryError, RuntimeError) as error:
        reason = str(error)
        if "subsampling" in reason:  # also raised for damaged headers
            return _by_opencv(file, is_grey)
        if not _is_harmless(reason, file.data):
            raise file.corrupt(_reason(reason)) from None
        try:
            image = simplejpeg.decode_jpeg(file.data, colours, strict=False)
        except (ValueError, MemoryError, RuntimeError) as again:
            raise file.corrupt(_reason(str(again))) from None
    if image.shape[:2] != (file.height, file.width):
        raise file.corrupt("its size differs from its header")
    return image[..., 0] if is_grey else image


def _by_opencv(file: ImageFile, is_grey: bool) -> np.ndarray:
    flags = cv2.IMREAD_GRAYSCALE if is_grey else cv2.IMREAD_COLOR
    image = None
    with diverted_stderr(_WARNING) as warnings, suppress(cv2.error):
        image = cv2.imdecode(file.data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if damage := [line for line in warnings if not _is_harmless(line, file.data)]:
        raise file.corrupt(_reason(damage[0]))
    return file.checked(image)


def _is_harmless(warning: str, data: np.ndarray) -> bool:
    """Return whether a warning is about padding before a marker, as many cameras write it.

    `jpeg_header` counted the restart markers, so no data is missing before the one in the warning; the end-of-image
    marker is the last, so the decoder had no further warning.
    """
    found = _EXTRANEOUS.search(warning)
    if found is None:
        return False
    count, marker = int(found[1]), int(found[2], 16)
    if marker != _EOI and not 0xD0 <= marker <= 0xD7:
        return False
    if count <= _SLACK:
        return True
    raw = data.tobytes()
    return count <= _MAX_PADDING and any(bytes([fill]) * count + bytes([0xFF, marker]) in raw for fill in (0, 0xFF))


def _reason(message: str) -> str:
    text = message.strip().removeprefix("Corrupt JPEG data: ")
    return text[:120] if text.isprintable() else "the decoder can't decode it"
