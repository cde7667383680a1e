"""Strict decoding of JPEG images: damage that decoders conceal is an error.

JPEG has no checksum. libjpeg fills in missing data (the half-grey frames of USB cameras), prints a warning and reports
success. Here the markers are checked before decoding (size, number of scans, restart markers, end of image), and the
decoder's warnings count as errors: simplejpeg raises them; without it OpenCV decodes and its output on stderr is parsed
(`stderr.py`). Bytes after the end of the image, as in whole buffers sent by USB cameras, are ignored.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.streams.image_message import DecodeError, check_size, corrupt
from spectradino_core.streams.stderr import diverted_stderr

try:
    import simplejpeg
except Exception:  # optional; a broken build raises anything
    simplejpeg = None

__all__ = ["MAX_SCANS", "STRICT_DECODER", "JpegFile", "decode_jpeg", "inspect_jpeg"]

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


@dataclass(frozen=True)
class JpegFile:
    """A JPEG image whose markers have been checked.

    Attributes:
        data: uint8 [N], from the first marker to the end-of-image marker, without padding after it.
        width, height: size in pixels.
        components: 1 (grey), 3 (colour) or 4.
        scan: offset of the first scan's data, after all metadata.
    """

    data: np.ndarray
    width: int
    height: int
    components: int
    scan: int


def inspect_jpeg(data: np.ndarray) -> JpegFile:
    """Check the markers of a JPEG image without decoding it.

    Args:
        data: uint8 [N], starting with the first marker of a JPEG.

    Raises:
        DecodeError: cause "corrupt_data" (truncated, or markers missing), "unknown_format", "implausible_size" or
            "too_many_scans".
    """
    try:
        return _MarkerParser(data).file()
    except (struct.error, IndexError):
        raise corrupt("jpeg", data.size, "its header is truncated") from None


class _MarkerParser:
    """One pass over the markers."""

    def __init__(self, data: np.ndarray) -> None:
        self._data = data
        ff = np.flatnonzero(data[:-1] == 0xFF)
        following = data[ff + 1]
        # In entropy-coded data 0xFF is followed by 0; 0xFF before a marker is fill.
        is_marker = (following != 0) & (following != 0xFF)
        self._at, self._code = ff[is_marker], following[is_marker]
        self._is_restart = (self._code & 0xF8) == 0xD0
        self._stops = np.flatnonzero(~self._is_restart)
        self._restart_interval = 0
        self._size: tuple[int, int] | None = None
        self._sampling: list[int] = []
        self._is_sequential = self._is_progressive = False
        self._incomplete: dict[int, int] = {}  # coefficients not yet completed by a scan, as bits, by component
        self._first_symbols: dict[int, int] = {}
        self._ac_table = 0

    def file(self) -> JpegFile:
        at, scans, first_scan = 2, 0, 0
        restarts: tuple[int, int] = (0, 0)
        for _ in range(_MAX_SEGMENTS):
            at, code = self._marker(at)
            if code == _EOI:
                return self._finished(at, scans, first_scan, restarts)
            (length,) = struct.unpack_from(">H", self._data.data, at + 2)
            if length < 2 or at + 2 + length > self._data.size:
                raise corrupt("jpeg", self._data.size, "its header is truncated")
            if code in _FRAME_MARKERS:
                if code not in _DECODED:
                    raise DecodeError(
                        "unknown_format",
                        f"the jpeg image is not supported (marker 0xff{code:02x}): set the camera to baseline JPEG",
                    )
                self._frame(at)
                self._is_sequential, self._is_progressive = code in _SEQUENTIAL, code in _PROGRESSIVE
            elif code == _DRI:
                (self._restart_interval,) = struct.unpack_from(">H", self._data.data, at + 4)
            elif code == _DHT:
                self._tables(at + 4, at + 2 + length)
            elif code == _SOS:
                self._ac_table = int(self._data[at + 6]) & 15
                self._scan(at)
            at += 2 + length
            if code == _SOS:
                scans += 1
                if scans > MAX_SCANS:
                    raise DecodeError(
                        "too_many_scans",
                        f"the jpeg image of {self._data.size} bytes has over {MAX_SCANS} scans, which take seconds "
                        "to decode: set the camera to baseline JPEG",
                    )
                first_scan = first_scan or at
                begin = int(np.searchsorted(self._at, at))
                at, end = self._end_of_scan(at)
                restarts = (begin, end)
        raise corrupt("jpeg", self._data.size, f"its header has more than {_MAX_SEGMENTS} segments")

    def _marker(self, at: int) -> tuple[int, int]:
        """Return offset and code of the marker at `at`, after fill bytes."""
        data = self._data
        if data[at] != 0xFF:
            raise corrupt("jpeg", data.size, "its header is damaged")
        index = int(np.searchsorted(self._at, at))
        if index == self._at.size:
            raise corrupt("jpeg", data.size, "its end is missing")
        found = int(self._at[index])
        if found - at > 64 or not (data[at:found] == 0xFF).all():
            raise corrupt("jpeg", data.size, "its header is damaged")
        return found, int(self._code[index])

    def _end_of_scan(self, at: int) -> tuple[int, int]:
        """Return offset and index of the next marker that is not a restart marker."""
        index = int(np.searchsorted(self._at, at))
        stop = int(np.searchsorted(self._stops, index))
        if stop == self._stops.size:
            raise corrupt("jpeg", self._data.size, "its end is missing")
        end = int(self._stops[stop])
        return int(self._at[end]), end

    def _frame(self, at: int) -> None:
        data = self._data
        precision, height, width, components = struct.unpack_from(">BHHB", data.data, at + 4)
        if self._size is not None:
            raise corrupt("jpeg", data.size, "its header is damaged")
        if precision != 8 or components not in (1, 3, 4):
            raise DecodeError(
                "unknown_format",
                f"the jpeg image has {components} channels of {precision} bits, supported are 1, 3 or 4 of 8 bits: "
                "set the camera or its publisher to one of these, or to png",
            )
        check_size(height, width, "the jpeg image")
        self._size = (height, width)
        self._sampling = [int(data[at + 11 + 3 * n]) for n in range(components)]
        self._incomplete = {int(data[at + 10 + 3 * n]): _ALL_COEFFICIENTS for n in range(components)}

    def _scan(self, at: int) -> None:
        """Record which coefficients a scan completes, because decoders read missing ones as zeros."""
        (length, count) = struct.unpack_from(">HB", self._data.data, at + 2)
        if length != 6 + 2 * count:
            raise corrupt("jpeg", self._data.size, "its header is damaged")
        first, last, bits = struct.unpack_from(">BBB", self._data.data, at + 5 + 2 * count)
        done = _ALL_COEFFICIENTS
        if self._is_progressive:
            done = 0 if bits & 15 else (_ALL_COEFFICIENTS >> (63 - last % 64)) & (_ALL_COEFFICIENTS << first % 64)
        for index in range(at + 5, at + 5 + 2 * count, 2):
            component = int(self._data[index])
            self._incomplete[component] = self._incomplete.get(component, 0) & ~done

    def _finished(self, at: int, scans: int, first_scan: int, restarts: tuple[int, int]) -> JpegFile:
        if self._size is None or not scans:
            raise corrupt("jpeg", self._data.size, "it has no image")
        if any(self._incomplete.values()):
            raise corrupt("jpeg", self._data.size, f"it ends after scan {scans} and further ones are missing")
        if scans == 1:
            self._check_restarts(*restarts)
            if self._is_sequential:
                self._check_zeros(first_scan, at)
        height, width = self._size
        return JpegFile(self._data[: at + 2], width, height, len(self._sampling), first_scan)

    def _check_restarts(self, begin: int, end: int) -> None:
        """Check that restart markers count 0 to 7 cyclically, one per `restart_interval` blocks."""
        if not self._restart_interval or self._size is None:
            return
        across = max(s >> 4 for s in self._sampling) if len(self._sampling) > 1 else 1
        down = max(s & 15 for s in self._sampling) if len(self._sampling) > 1 else 1
        if not across or not down:
            raise corrupt("jpeg", self._data.size, "its header is damaged")
        height, width = self._size
        blocks = -(-width // (8 * across)) * -(-height // (8 * down))
        expected = -(-blocks // self._restart_interval) - 1
        found = self._code[begin:end] & 7
        if found.size != expected or (found != np.arange(expected) % 8).any():
            raise corrupt(
                "jpeg", self._data.size, f"it has {found.size} of {expected} restart markers, or in wrong order"
            )

    def _tables(self, at: int, end: int) -> None:
        """Record the symbol whose code is zero bits in each Huffman table of AC coefficients."""
        while at + 17 < end:
            name, counts = int(self._data[at]), int(self._data[at + 1 : at + 17].sum())
            if name >> 4:
                self._first_symbols[name & 15] = int(self._data[at + 17])
            at += 17 + counts

    def _check_zeros(self, begin: int, end: int) -> None:
        """Refuse a gap of zeros, as of lost packets, which may decode to the right number of blocks.

        If zero bits mean "end of block", as in tables optimised for one image, zeros are valid flat areas.
        """
        if self._first_symbols.get(self._ac_table, 1) == 0:
            return
        stored = self._data[begin:end].tobytes()
        image = stored.rstrip(b"\0")
        if _ZEROS in image or len(stored) - len(image) > _MAX_PADDING:
            raise corrupt("jpeg", self._data.size, f"it has {len(_ZEROS)} zero bytes in the middle of the image")


def decode_jpeg(file: JpegFile, grey: bool) -> np.ndarray:
    """Decode a JPEG image.

    Args:
        file: the result of `inspect_jpeg`.
        grey: return a grey image as one channel; else it is repeated over three.

    Returns:
        uint8 [h, w] of a grey image if `grey`, else uint8 [h, w, 3] in RGB order.

    Raises:
        DecodeError: cause "corrupt_data".
    """
    one_channel = grey and file.components == 1
    if simplejpeg is not None and file.components < 4:
        image = _by_simplejpeg(file, "GRAY" if one_channel else "RGB")
    else:
        image = _by_opencv(file, one_channel)
    if image.shape[:2] != (file.height, file.width):
        raise corrupt("jpeg", file.data.size, "its size differs from its header")
    return image


def _by_simplejpeg(file: JpegFile, colours: str) -> np.ndarray:
    try:
        image = simplejpeg.decode_jpeg(file.data, colours)
    except (ValueError, MemoryError, RuntimeError) as error:
        reason = str(error)
        if "subsampling" in reason:  # also raised for damaged headers
            return _by_opencv(file, colours == "GRAY")
        if not _is_harmless(reason, file.data):
            raise corrupt("jpeg", file.data.size, _reason(reason)) from None
        try:
            image = simplejpeg.decode_jpeg(file.data, colours, strict=False)
        except (ValueError, MemoryError, RuntimeError) as again:
            raise corrupt("jpeg", file.data.size, _reason(str(again))) from None
    return image[..., 0] if colours == "GRAY" else image


def _by_opencv(file: JpegFile, one_channel: bool) -> np.ndarray:
    flags = cv2.IMREAD_GRAYSCALE if one_channel else cv2.IMREAD_COLOR
    with diverted_stderr(_WARNING) as warnings:
        try:
            image = cv2.imdecode(file.data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            image = None
    damage = [line for line in warnings if not _is_harmless(line, file.data)]
    if image is None or image.size == 0 or damage:
        raise corrupt("jpeg", file.data.size, _reason(damage[0]) if damage else "OpenCV can't decode it")
    return image if one_channel else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _is_harmless(warning: str, data: np.ndarray) -> bool:
    """Return whether a warning is about padding before a marker, as many cameras write it.

    `inspect_jpeg` counted the restart markers, so no data is missing before the one in the warning; the end-of-image
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
