"""Decompress messages and files, and describe bytes that are not a CDR message.

rosbag2's message mode compresses each message with zstd and notes it in metadata.yaml only. A message in CDR begins
with a zero byte and a zstd frame does not, so each message's own bytes are conclusive.
"""

from __future__ import annotations

import sys
from typing import BinaryIO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["ZSTD", "unpack_file", "unpacked_message", "why_no_cdr"]

ZSTD = b"\x28\xb5\x2f\xfd"
"""Magic number of a zstd frame."""

_MAX_MESSAGE = 1 << 28
_BLOCK = 1 << 20
_OTHERS = {
    b"\x04\x22\x4d\x18": "compressed with LZ4, and only zstd is supported",
    b"\x1f\x8b": "compressed with gzip, and only zstd is supported",
    b"BZh": "compressed with bzip2, and only zstd is supported",
    b"{": "text such as JSON, not CDR",
    b"[": "text such as JSON, not CDR",
}


def unpacked_message(data: bytes) -> bytes:
    """Decompress a stored message; unchanged if it is not compressed, or cannot be decompressed."""
    if bytes(data[:4]) != ZSTD:
        return data
    try:
        unpacker = zstd.ZstdDecompressor()
        message = unpacker.decompress(data, _MAX_MESSAGE)
    except (zstd.ZstdError, MemoryError):
        return data
    return message if unpacker.eof else data


def unpack_file(source: BinaryIO, target: BinaryIO) -> bool:
    """Decompress a file as far as possible, or copy it if it is not compressed; return whether it is complete.

    Raises:
        OSError: reading or writing failed.
    """
    block = source.read(_BLOCK)
    if block[:4] != ZSTD:
        while block:
            target.write(block)
            block = source.read(_BLOCK)
        return True
    unpacker = zstd.ZstdDecompressor()
    try:
        while block or not unpacker.needs_input:
            target.write(unpacker.decompress(block, _BLOCK))
            block = b""
            if unpacker.eof:
                block = unpacker.unused_data or source.read(_BLOCK)
                if not block:
                    return True
                unpacker = zstd.ZstdDecompressor()  # a file may contain several frames
            elif unpacker.needs_input:
                block = source.read(_BLOCK)
    except zstd.ZstdError:
        pass
    return False


def why_no_cdr(raw: bytes) -> str:
    """Describe bytes that are not a CDR message; "" if they may be one."""
    start = bytes(raw[:4])
    if len(raw) < 4:
        return f"a message of {len(raw)} bytes is too short"
    if start == ZSTD:
        return f"compressed with zstd and truncated or damaged, or larger than {_MAX_MESSAGE >> 20} MiB"
    if start[0] == 0 and start[1] <= 1:
        return ""
    if start[0] == 0 and start[1] <= 0x0B:
        return "in another representation than plain CDR (XCDR2 or a parameter list), which is not supported"
    known = next((text for magic, text in _OTHERS.items() if start.startswith(magic)), "")
    return known or f"not in CDR, as it begins with the bytes {start.hex(' ')}"
