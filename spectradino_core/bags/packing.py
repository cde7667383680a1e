"""Messages and files packed by zstd, and what bytes that are no message may be.

rosbag2's message mode packs each message by zstd and notes so in metadata.yaml only. A message in CDR begins with a
zero byte and no zstd frame does, so that the bytes themselves say which it is, message by message.
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
"""How a zstd frame begins."""

_LARGEST_MESSAGE = 1 << 28
_BLOCK = 1 << 20
_OTHERS = {
    b"\x04\x22\x4d\x18": "packed by LZ4, and only zstd is unpacked here",
    b"\x1f\x8b": "packed by gzip, and only zstd is unpacked here",
    b"BZh": "packed by bzip2, and only zstd is unpacked here",
    b"{": "text, such as JSON, and not CDR",
    b"[": "text, such as JSON, and not CDR",
}


def unpacked_message(data: bytes) -> bytes:
    """A message as it was published; unchanged where it is not packed, or can't be unpacked.

    Args:
        data: as it is stored.
    """
    if bytes(data[:4]) != ZSTD:
        return data
    try:
        unpacker = zstd.ZstdDecompressor()
        message = unpacker.decompress(data, _LARGEST_MESSAGE)
    except (zstd.ZstdError, MemoryError):
        return data
    return message if unpacker.eof else data


def unpack_file(source: BinaryIO, target: BinaryIO) -> bool:
    """Unpacks a file as far as it goes, or copies it where it is not packed; gives whether it is whole.

    Raises:
        OSError: one of them can't be read or written.
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
                unpacker = zstd.ZstdDecompressor()  # several frames may follow one another
            elif unpacker.needs_input:
                block = source.read(_BLOCK)
    except zstd.ZstdError:
        pass
    return False


def why_no_cdr(raw: bytes) -> str:
    """What a message is in place of one in CDR; "" where it may be one."""
    start = bytes(raw[:4])
    if len(raw) < 4:
        return f"a message of {len(raw)} bytes is too short for any"
    if start == ZSTD:
        return f"packed by zstd and cut or damaged, or of more than {_LARGEST_MESSAGE >> 20} MiB"
    if start[0] == 0 and start[1] <= 1:
        return ""
    if start[0] == 0 and start[1] <= 0x0B:
        return "in another representation than plain CDR (XCDR2 or a parameter list), which is not read here"
    said = next((said for magic, said in _OTHERS.items() if start.startswith(magic)), "")
    return said or f"not in CDR, as it begins with the bytes {start.hex(' ')}"
