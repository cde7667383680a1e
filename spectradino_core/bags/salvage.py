"""Read bag files sequentially: damaged files up to the damage, and MCAP files not written by ROS.

A file is truncated if the recorder was killed, the disk was full or a copy was interrupted. MCAP
(https://mcap.dev/spec) is a sequence of records (opcode, length, content), and chunks contain records: everything up to
the first truncated record is readable. SQLite: the message table is read in order of writing until an error.

MCAP is also written by other recorders. The header's profile and each channel's message encoding describe the messages:
CDR is read whatever the profile; for other encodings the error names a tool that converts them.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zlib import crc32

from lz4.frame import LZ4FrameDecompressor
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from spectradino_core.bags import BagError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD = b"\x28\xb5\x2f\xfd"
"""Magic number of a zstd frame."""
MAX_MESSAGE = 1 << 28
"""Maximum size of a decompressed message."""
_BLOCK = 1 << 20

_MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
_FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
_MAX_CHUNK = 1 << 30
"""Decompressed size. Recorders write chunks of some megabytes; a larger claim is taken for damage."""
_NO_DEFINITION = MessageDefinition(MessageDefinitionFormat.NONE, "")

CDR = ("cdr", "")
"""Supported message encodings; recorders that support no other leave the field empty."""
_TOOLS = {
    "ros1": "convert the original ROS 1 bag with 'rosbags-convert --src FILE.bag --dst FOLDER', or the MCAP file "
    "itself with 'kappe'",
}
_ANY_TOOL = (
    "'mcap info FILE' lists its channels; write their images as sensor_msgs/msg/Image or CompressedImage in CDR, for "
    "example with the Python package mcap-ros2-support"
)


class Raw(NamedTuple):
    """A message as stored: topic, time of recording in nanoseconds, and CDR, perhaps compressed or damaged."""

    topic: str
    received_ns: int
    data: bytes


@dataclass(frozen=True)
class StoredTopic:
    """A topic of a bag: type ("sensor_msgs/msg/Image"), stored type definition, number of messages."""

    name: str
    kind: str
    definition: MessageDefinition
    count: int


def unpacked_message(data: bytes) -> bytes:
    """Decompress a stored message; unchanged if it is not compressed, or cannot be decompressed."""
    if bytes(data[:4]) != ZSTD:
        return data
    try:
        unpacker = zstd.ZstdDecompressor()
        message = unpacker.decompress(data, MAX_MESSAGE)
    except (zstd.ZstdError, MemoryError):
        return data
    return message if unpacker.eof else data


def unpack_file(source: BinaryIO, target: BinaryIO) -> bool:
    """Decompress a file as far as possible, or copy it if it is not compressed; return whether it is complete."""
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


class ForeignBagError(BagError):
    """An MCAP file without any topic in ROS 2's encoding; the message names its encoding and a conversion tool."""


def unread_encodings(topics: Mapping[str, str], path: Path) -> str:
    """Describe topics that are not read because of their message encoding, by topic; "" if there are none."""
    if not topics:
        return ""
    encodings = sorted(set(topics.values()))
    listed = " and ".join("ROS 1" if encoding == "ros1" else encoding for encoding in encodings)
    names = ", ".join(sorted(topics)[:8]) + (f" and {len(topics) - 8} more" if len(topics) > 8 else "")
    tool = next((_TOOLS[encoding] for encoding in encodings if encoding in _TOOLS), _ANY_TOOL)
    return f"{path}: {names} have messages encoded as {listed}, only CDR, the encoding of ROS 2, is supported: {tool}"


def add_topic(topics: dict[str, StoredTopic], topic: StoredTopic, path: Path, remedy: str) -> None:
    """Add a topic, or its count and definition to the known one; raises BagError if that has another type."""
    known = topics.get(topic.name, replace(topic, count=0))
    if known.kind != topic.kind:
        raise BagError(f"{path}: topic {topic.name} has messages of two types, {known.kind} and {topic.kind}: {remedy}")
    stored = known if topic.definition.format == MessageDefinitionFormat.NONE else topic
    topics[topic.name] = replace(stored, count=known.count + topic.count)


class Part:
    """A file of a bag, or a whole bag.

    Attributes:
        path: the file.
        shown: its path in messages; another one for a decompressed copy.
        topics: those in CDR by name, with the number of readable messages.
        unread: message encoding by topic, of topics not in CDR.
        is_complete: the file is intact but of another profile than rosbag2's.
    """

    def __init__(self, path: Path, shown: Path | None = None) -> None:
        self.path, self.shown = path, shown or path
        self.topics: dict[str, StoredTopic] = {}
        self.unread: dict[str, str] = {}
        self.is_complete = False

    def listed(self) -> Iterable[StoredTopic]:
        """Return the topics in CDR; one may be listed several times."""
        return self.topics.values()

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        """Yield the readable messages of some topics, as stored."""
        raise NotImplementedError

    def first(self) -> bytes:
        """Return the first message of any topic, as stored; b"" if there is none."""
        return next((raw.data for raw in self.messages(set(self.topics))), b"")


def salvage(path: Path, shown: Path | None = None) -> Part:
    """Scan an .mcap or .db3 file for its readable part; raises ForeignBagError or BagError, which names `shown`."""
    return _Mcap(path, shown) if path.suffix == ".mcap" else _Sqlite(path, shown)


class _Mcap(Part):
    def __init__(self, path: Path, shown: Path | None) -> None:
        super().__init__(path, shown)
        self._schemas: dict[int, tuple[str, MessageDefinition]] = {}
        self._channels: dict[int, tuple[str, int]] = {}
        self._profile = ""
        self._ended = False
        self._damaged = 0
        counts: Counter[int] = Counter(channel for channel, _, _ in self._scan())
        # A rosbag2 file that rosbags refuses is damaged somewhere, if only in its index.
        is_foreign = self._profile != "ros2" or bool(self.unread)
        is_intact = self._ended and not self._damaged
        self.is_complete = is_foreign and is_intact
        for channel, (topic, schema) in self._channels.items():
            kind, definition = self._schemas.get(schema, ("", _NO_DEFINITION))
            add_topic(self.topics, StoredTopic(topic, kind, definition, counts[channel]), self.shown, "split the file")
        if self._channels:
            return
        if self.unread:
            cut = "" if self.is_complete else "; the file is also damaged or truncated"
            raise ForeignBagError(unread_encodings(self.unread, self.shown) + cut)
        if is_intact:
            raise BagError(f"{self.shown}: this MCAP file has no topics: nothing was recorded into it")
        raise BagError(
            f"{self.shown}: nothing in this file can be read, because it is cut off before its first topic or "
            "is not MCAP: copy or record it again"
        )

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        for channel, received_ns, data in self._scan():
            topic = self._channels[channel][0] if channel in self._channels else ""
            if topic in topics:
                yield Raw(topic, received_ns, data)

    def _scan(self) -> Iterator[tuple[int, int, bytes]]:
        with self.path.open("rb") as file:
            if file.read(8) != _MAGIC:
                return
            yield from self._records(file)

    def _records(self, file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
        end = os.fstat(file.fileno()).st_size
        while (record := _next_record(file, end)) is not None:
            code, content = record
            try:
                if code == _MESSAGE:
                    yield _message(content)
                elif code == _CHUNK:
                    yield from self._chunk(content)
                elif code in (_DATA_END, _FOOTER):
                    self._ended = True
                    return
                else:
                    self._describe(code, content)
            except (struct.error, ValueError, KeyError, RuntimeError, EOFError, OSError, zstd.ZstdError):
                self._damaged += 1
                continue  # the next record may be intact

    def _chunk(self, content: bytes) -> Iterator[tuple[int, int, bytes]]:
        size, crc, length = struct.unpack_from("<QII", content, 16)
        compression = content[32 : 32 + length].decode()
        packed = content[40 + length :]
        if size > _MAX_CHUNK:
            raise ValueError(f"a chunk of {size} bytes")
        records = _UNPACK[compression](packed, size)
        if len(records) != size or (crc and crc32(records) != crc):
            raise ValueError("checksum")
        found = []
        offset = 0
        while offset + 9 <= len(records):
            code, length = struct.unpack_from("<BQ", records, offset)
            body = records[offset + 9 : offset + 9 + length]
            if code == _MESSAGE:
                found.append(_message(body))
            else:
                self._describe(code, body)
            offset += 9 + length
        yield from sorted(found, key=lambda message: message[1])  # stable: in order of writing at equal times

    def _describe(self, code: int, content: bytes) -> None:
        if code == _HEADER:
            self._profile = _text(content, 0)[0]
        elif code == _SCHEMA:
            number = struct.unpack_from("<H", content)[0]
            name, offset = _text(content, 2)
            encoding, offset = _text(content, offset)
            text, _ = _text(content, offset)
            form = _FORMATS.get(encoding)
            self._schemas[number] = (name, _NO_DEFINITION if form is None else MessageDefinition(form, text))
        elif code == _CHANNEL:
            number, schema = struct.unpack_from("<HH", content)
            topic, offset = _text(content, 4)
            encoding = _text(content, offset)[0].strip().lower()
            if encoding in CDR and not (encoding == "" and self._profile == "ros1"):
                self._channels[number] = (topic, schema)
            else:
                self.unread[topic] = encoding or self._profile


_UNPACK = {
    "": lambda packed, size: packed[: size + 1],
    "zstd": lambda packed, size: zstd.ZstdDecompressor().decompress(packed, size + 1),
    "lz4": lambda packed, size: LZ4FrameDecompressor().decompress(packed, size + 1),
}
"""Decompression by name; limited to one byte more than the size that the chunk claims."""


def _next_record(file: BinaryIO, end: int) -> tuple[int, bytes] | None:
    """Read opcode and content; None where the file ends (at `end`) or is truncated."""
    head = file.read(9)
    if len(head) < 9:
        return None
    code, length = struct.unpack("<BQ", head)
    if length > end - file.tell():  # checked first: reading would allocate what a damaged length claims
        return None
    content = file.read(length)
    return (code, content) if len(content) == length else None


def _message(content: bytes) -> tuple[int, int, bytes]:
    channel, _, received_ns, _ = struct.unpack_from("<HIQQ", content)
    return channel, received_ns, content[22:]


def _text(content: bytes, offset: int) -> tuple[str, int]:
    length = struct.unpack_from("<I", content, offset)[0]
    if offset + 4 + length > len(content):
        raise ValueError("a text is cut")
    return content[offset + 4 : offset + 4 + length].decode(), offset + 4 + length


class _Sqlite(Part):
    def __init__(self, path: Path, shown: Path | None) -> None:
        super().__init__(path, shown)
        try:
            topics = self._rows("SELECT id, name, type FROM topics")
        except (sqlite3.Error, OSError) as error:
            raise BagError(
                f"{self.shown}: nothing in this file can be read ({error}): copy or record it again"
            ) from None
        topics = [row for row in topics if all(isinstance(name, str) for name in row[1:])]
        self._ids = {number: name for number, name, _ in topics}
        definitions = self._definitions()
        counts = Counter(raw.topic for raw in self.messages(set(self._ids.values())))
        for _, name, kind in topics:
            self.topics[name] = StoredTopic(name, kind, definitions.get(kind, _NO_DEFINITION), counts[name])

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        try:
            with closing(self._connect()) as database:
                for number, received_ns, data in database.execute("SELECT topic_id, timestamp, data FROM messages"):
                    topic = self._ids.get(number, "")
                    if topic in topics and isinstance(received_ns, int) and isinstance(data, bytes):
                        yield Raw(topic, received_ns, data)
        except sqlite3.Error:
            return  # truncated here

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(f"{self.path.absolute().as_uri()}?immutable=1", uri=True)
        database.text_factory = lambda text: text.decode(errors="replace")
        database.execute("PRAGMA writable_schema=ON")  # otherwise SQLite refuses a truncated file altogether
        return database

    def _rows(self, query: str) -> list[tuple]:
        with closing(self._connect()) as database:
            return database.execute(query).fetchall()

    def _definitions(self) -> dict[str, MessageDefinition]:
        columns = "topic_type, encoding, encoded_message_definition"
        try:
            rows = self._rows(f"SELECT {columns} FROM message_definitions")
        except sqlite3.Error:
            return {}
        return {
            kind: MessageDefinition(_FORMATS[form], text)
            for kind, form, text in rows
            if form in _FORMATS and isinstance(text, str)
        }
