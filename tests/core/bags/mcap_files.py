"""MCAP files of any profile and encoding, written record by record (https://mcap.dev/spec)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

__all__ = ["MAGIC", "Channel", "write_mcap"]

MAGIC = b"\x89MCAP0\r\n"
Channel = tuple[str, str, str, str]
"""Topic, message encoding, name of the schema, encoding of the schema."""


def write_mcap(
    path: Path,
    profile: str,
    channels: Iterable[Channel],
    messages: Iterable[tuple[int, int, bytes]],
    chunked: bool = True,
    definition: str = "",
) -> Path:
    """Writes a file without an index, as is allowed.

    Args:
        path: the file.
        profile: the header's.
        channels: numbered from 1 on.
        messages: number of the channel, time in nanoseconds, bytes.
        chunked: whether channels and messages lie in one chunk.
        definition: text of every schema.
    """
    body = b""
    for number, (topic, encoding, name, form) in enumerate(channels, 1):
        if name:
            body += _record(0x03, struct.pack("<H", number) + _text(name) + _text(form) + _text(definition))
        schema = number if name else 0
        body += _record(0x04, struct.pack("<HH", number, schema) + _text(topic) + _text(encoding) + bytes(4))
    times = [0]
    for count, (number, time_ns, data) in enumerate(messages):
        times.append(time_ns)
        body += _record(0x05, struct.pack("<HIQQ", number, count, time_ns, time_ns) + data)
    if chunked:
        head = struct.pack("<QQQI", min(times), max(times), len(body), crc32(body))
        body = _record(0x06, head + _text("") + struct.pack("<Q", len(body)) + body)
    whole = _record(0x01, _text(profile) + _text("a test")) + body
    whole += _record(0x0F, bytes(4)) + _record(0x02, bytes(20))
    path.write_bytes(MAGIC + whole + MAGIC)
    return path


def _record(code: int, content: bytes) -> bytes:
    return struct.pack("<BQ", code, len(content)) + content


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data
