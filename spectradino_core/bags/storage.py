"""Read raw messages from rosbag2 folders and bare .mcap and .db3 files, compressed or not, intact or damaged.

Intact bags are read by `rosbags`; of damaged bags the readable part is read (`salvage.py`), and the loss is reported.
Compression is detected from the bytes: metadata.yaml may be missing, edited, or of another bag.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import apsw
from rosbags.interfaces import Connection, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import Reader, ReaderError

from spectradino_core.bags import BagError
from spectradino_core.bags.packing import ZSTD, unpack_file, unpacked_message
from spectradino_core.bags.salvage import CDR, ForeignBagError, Salvaged, salvage, unread_encodings
from spectradino_core.files import FileError, check_file

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["DATA_FILE", "Raw", "Storage", "StoredTopic"]

_UNREADABLE = (
    ReaderError, apsw.Error, zstd.ZstdError, struct.error, OSError, EOFError, RuntimeError, ValueError, TypeError,
    KeyError, IndexError, MemoryError, AssertionError,
)  # fmt: skip
"""Exceptions of rosbags and the libraries below it on damaged files."""

DATA_FILE = re.compile(r"\.(mcap|db3)(\.zstd)?$")
"""Suffix of a file with messages."""
_REMEDY = {
    ".mcap": "repair it with 'mcap recover'",
    ".db3": "repair it with 'sqlite3 FILE .recover'",
}
_BY_MESSAGE = "each message"
"""A compression mode that rosbags does not know, so that it returns messages as stored."""


@dataclass(frozen=True)
class Raw:
    """A raw message.

    Attributes:
        topic: topic name.
        received_ns: time of recording.
        data: CDR; still compressed if it cannot be decompressed.
    """

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


class Storage:
    """Files of one bag, opened for reading; a context manager.

    Attributes:
        path: the bag.
        topics: by name.
        damage: descriptions of unreadable parts, with remedies; may grow while messages are read.
        format: "mcap" or "sqlite3", with the compression.
    """

    def __init__(self, path: str | Path) -> None:
        """
        Args:
            path: a rosbag2 folder, or a .mcap or .db3 file.

        Raises:
            BagError: there is no bag, or nothing in it can be read; names the remedy.
        """
        self.path = Path(path)
        self.topics: dict[str, StoredTopic] = {}
        self.damage: list[str] = []
        self.format = ""
        self._parts: list[Reader | Salvaged] = []
        self._scratch: TemporaryDirectory[str] | None = None
        self._copies: dict[Path, Path] = {}
        try:
            self._open()
            if not self._parts:
                raise BagError("; ".join(self.damage))
            self._list_topics()
            self.format = self._described_format()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            if isinstance(part, Reader) and part.is_open:
                part.close()
        self._parts = []
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        """Yield the messages of some topics in order of arrival (within each file of a split bag)."""
        for part in self._parts:
            if isinstance(part, Salvaged):
                for topic, received_ns, data in part.messages(topics):
                    yield Raw(topic, received_ns, unpacked_message(data))
            else:
                yield from self._of_reader(part, topics)

    def _of_reader(self, reader: Reader, topics: Collection[str]) -> Iterator[Raw]:
        wanted = [connection for connection in _cdr_connections(reader) if connection.topic in topics]
        if not wanted:
            return
        count, last_ns = 0, 0
        try:
            for connection, received_ns, data in reader.messages(wanted):
                yield Raw(connection.topic, received_ns, unpacked_message(data))
                count, last_ns = count + 1, received_ns
            promised = sum(connection.msgcount for connection in wanted)
            if count < promised:
                path = self._copies.get(Path(str(reader.path)), reader.path)
                self._report(
                    f"{path} lacks messages: its metadata lists {promised} of "
                    f"{', '.join(sorted({c.topic for c in wanted}))}, {count} are there; recount them with "
                    "'ros2 bag reindex'"
                )
        except _UNREADABLE as error:
            at_s = (last_ns - reader.start_time) / 1e9
            where = f"after {count} messages at {at_s:.1f} s" if count else "at the first message"
            path = Path(str(reader.path))
            remedy = _REMEDY.get(path.suffix) or next((_REMEDY[f.suffix] for f in _data_files(path)), "")
            path = self._copies.get(path, path)
            self._report(f"{path} is damaged: reading stopped {where} ({_short(error)}); {remedy}")

    def _report(self, text: str) -> None:
        if text not in self.damage:
            self.damage.append(text)

    # ---- opening -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        path = self.path
        if not os.path.lexists(path):
            raise BagError(f"{path} does not exist: check the path of the bag")
        if not path.is_dir() and not DATA_FILE.search(path.name):
            raise BagError(f"{path}: not a rosbag2 folder, .mcap or .db3 file{_hint(path)}")
        _check(path)
        files = _data_files(path)
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            if not files:
                raise BagError(f"{path}: not a rosbag2 folder: it has neither metadata.yaml nor .mcap or .db3 files")
            self.damage.append(
                f"{path} has no metadata.yaml, as after an interrupted recording: create it with 'ros2 bag reindex'"
            )
            for file in files:
                self._open_file(file)
        elif path.is_file() and path.suffix == ".zstd":
            self._open_file(path)
        else:
            self._open_whole(files)
        journal = next((f for f in files if f.with_name(f.name + "-wal").is_file()), None)
        if journal is not None:
            self.damage.append(
                f"{journal} has a journal (-wal) that is not read: merge it with 'sqlite3 {journal.name} "
                '"pragma wal_checkpoint"\''
            )

    def _open_whole(self, files: list[Path]) -> None:
        try:
            reader = _open_reader(self.path)
        except BagError:
            raise
        except _UNREADABLE as error:
            why = _short(error)
        else:
            self._parts.append(reader)
            self._report_unlisted(reader, files)
            return
        if not files:
            raise BagError(f"{self.path} cannot be read ({why}): copy it again, or record it again")
        are_foreign = [self._open_file(file) for file in files]
        if not all(are_foreign) and not any(str(self.path) in text for text in self.damage):
            self.damage.append(f"{self.path}: metadata.yaml is not used ({why}); recreate it with 'ros2 bag reindex'")

    def _report_unlisted(self, reader: Reader, files: list[Path]) -> None:
        """Report data files that metadata.yaml does not list; like rosbag2, they are not read."""
        listed = {Path(str(storage.path)).name for storage in getattr(reader.storage, "storages", ())}
        others = [f.name for f in files if listed and not {f.name, f.name.removesuffix(".zstd")} & listed]
        if others:
            self._report(
                f"{self.path}: {', '.join(others)} not read, as metadata.yaml does not list them; add them with "
                "'ros2 bag reindex'"
            )

    def _open_file(self, file: Path) -> bool:
        """Open a single file; return whether it is intact but of another profile than rosbag2's."""
        named = file
        if file.suffix == ".zstd":
            try:
                file = self._unpacked_file(file)
            except OSError as error:
                self._report(f"{named} cannot be decompressed ({_short(error)}): copy it again")
                return False
        try:
            self._parts.append(_open_reader(file))
            return False
        except _UNREADABLE as error:
            why = _short(error)
        try:
            left = salvage(file)
        except ForeignBagError as error:
            self._report(str(error).replace(str(file), str(named)))
            return True
        except BagError as error:
            self._report(f"{error} ({why})".replace(str(file), str(named)))
            return False
        self._parts.append(left)
        if left.is_whole:
            return True
        count = sum(number for _, _, number in left.topics.values())
        self._report(f"{named} is damaged or truncated ({why}): {count} messages can be read; {_REMEDY[file.suffix]}")
        return False

    def _unpacked_file(self, file: Path) -> Path:
        """Decompress a file as far as possible into a temporary copy, deleted when the bag is closed."""
        if self._scratch is None:
            self._scratch = TemporaryDirectory(prefix="spectradino_bag_")
        copy = Path(self._scratch.name) / file.name.removesuffix(".zstd")
        self._copies[copy] = file
        try:
            with file.open("rb") as source, copy.open("wb") as target:
                is_whole = unpack_file(source, target)
        except OSError as error:
            raise _no_room(file, error) from None
        if not is_whole:
            self._report(f"{file} is truncated or damaged: it could be decompressed in part only; copy it again")
        return copy

    def _described_format(self) -> str:
        """Storage and compression, detected from the first message's bytes, not from metadata.yaml."""
        form = "mcap" if any(".mcap" in f.suffixes for f in _data_files(self.path)) else "sqlite3"
        modes = [part.compression_mode for part in self._parts if isinstance(part, Reader)]
        if self._scratch is not None or "file" in modes:
            return f"{form}, zstd by file"
        first = next((raw for part in self._parts for raw in self._first_stored(part)), b"")
        if not first.startswith(ZSTD):
            return form
        if any(modes) or not (self.path / "metadata.yaml").is_file():
            return f"{form}, zstd by message"
        self._report(
            f"{self.path}: its messages are compressed with zstd, but metadata.yaml does not say so; they are read "
            "here, but 'ros2 bag play' needs the lines 'compression_format: zstd' and 'compression_mode: MESSAGE' there"
        )
        return f"{form}, zstd by message"

    def _first_stored(self, part: Reader | Salvaged) -> Iterator[bytes]:
        """Yield the first raw message of a part; nothing if it is empty, or damaged, which reading reports."""
        try:
            if isinstance(part, Salvaged):
                yield from (data for _, _, data in islice(part.messages(set(part.topics)), 1))
            elif wanted := [c for c in _cdr_connections(part) if c.msgcount]:
                yield from (data for _, _, data in islice(part.messages(wanted), 1))
        except _UNREADABLE:
            return

    def _list_topics(self) -> None:
        found: dict[str, tuple[str, MessageDefinition, int]] = {}
        for part in self._parts:
            if isinstance(part, Salvaged):
                listed = list(part.topics.items())
                unread, file = part.unread, part.path
            else:
                stored = _uncounted(part)
                listed = [
                    (c.topic, (c.msgtype, c.msgdef, c.msgcount + stored.pop(c.topic, 0)))
                    for c in _cdr_connections(part)
                ]
                unread = {c.topic: _encoding_of(c) for c in part.connections if _encoding_of(c) not in CDR}
                file = Path(str(part.path))
            file = self._copies.get(file, file)
            if text := unread_encodings(unread, file):
                self._report(text)
            for name, (kind, definition, count) in listed:
                if name in found and found[name][0] != kind:
                    raise BagError(
                        f"{self.path}: topic {name} has messages of two types, {found[name][0]} and {kind}: split "
                        "the bag with 'ros2 bag convert'"
                    )
                before = found.get(name, (kind, definition, 0))
                best = definition if definition.format != MessageDefinitionFormat.NONE else before[1]
                found[name] = (kind, best, before[2] + count)
        if not found and self.damage:
            raise BagError("; ".join(self.damage))
        self.topics = {name: StoredTopic(name, *found[name]) for name in sorted(found)}


def _check(path: Path) -> None:
    """Check the bag's files before a library opens them.

    Raises:
        BagError: one is not a regular file, or a placeholder such as a Git LFS pointer.
    """
    names = [path] if not path.is_dir() else [f for f in path.iterdir() if DATA_FILE.search(f.name)]
    try:
        for file in names:
            check_file(file, "bag file")
        if path.is_dir() and os.path.lexists(path / "metadata.yaml"):
            check_file(path / "metadata.yaml", "bag metadata")
    except FileError as error:
        raise BagError(str(error)) from None


def _data_files(path: Path) -> list[Path]:
    """Return the files with messages, sorted by their numbers."""
    if path.is_file():
        return [path]
    files = [f for f in path.iterdir() if f.is_file() and DATA_FILE.search(f.name)]
    names = {f.name for f in files}  # of a file with its decompressed copy beside it, only the copy counts
    files = [f for f in files if f.suffix != ".zstd" or f.stem not in names]
    return sorted(files, key=lambda f: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", f.name)])


def _hint(path: Path) -> str:
    if path.suffix == ".bag":
        return ". Convert a ROS 1 bag with 'rosbags-convert --src FILE.bag --dst FOLDER'"
    if path.name == "metadata.yaml":
        return ". Give the folder that contains it"
    if path.suffix in (".zstd", ".zst", ".gz", ".xz", ".bz2", ".zip", ".tar"):
        return ". Decompress it first"
    return ""


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:200]


def _open_reader(path: Path) -> Reader:
    """Open a reader of a bag. A damaged bag raises the exceptions of rosbags and the libraries below it.

    Raises:
        BagError: no disk space to decompress it.
    """
    reader = Reader(path)
    try:
        reader.open()
    except OSError as error:
        raise _no_room(path, error) from None
    metadata = reader.storage.metadata
    if metadata.compression_mode == "message":  # rosbags stops at an uncompressed message: see `packing.py`
        reader.storage.metadata = metadata._replace(compression_mode=_BY_MESSAGE)
    _take_as_stored(reader)
    return reader


def _no_room(path: Path, error: OSError) -> Exception:
    """Return the error to raise for a failed decompression, which writes to the folder for temporary files."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return BagError(
        f"{path} cannot be decompressed: no space is left in {gettempdir()}; free some, or set the environment "
        "variable TMPDIR to another folder"
    )


def _cdr_connections(reader: Reader) -> list[Connection]:
    """Return a reader's topics with messages in CDR."""
    return [connection for connection in reader.connections if _encoding_of(connection) in CDR]


def _uncounted(reader: Reader) -> Counter[str]:
    """Count messages per topic that are in the files but not listed in metadata.yaml."""
    counts: Counter[str] = Counter()
    for storage in getattr(reader.storage, "storages", ()):
        for stored in storage.connections:
            counts[stored.topic] += stored.msgcount
    for listed in reader.connections if counts else ():
        counts[listed.topic] -= listed.msgcount
    return +counts


def _encoding_of(connection: Connection) -> str:
    return str(getattr(connection.ext, "serialization_format", "")).strip().lower()


def _take_as_stored(reader: Reader) -> None:
    """Add the topics of the files as connections if their QoS or hash differs from metadata.yaml.

    rosbags silently skips the messages of such topics otherwise. They differ if somebody edited the QoS for playback,
    or between recorder versions.
    """
    listed = reader.connections
    for storage in getattr(reader.storage, "storages", ()):
        for stored in storage.connections:
            if not any(_same(stored, known) for known in listed):
                listed.append(stored._replace(id=1 + len(listed), msgcount=0, owner=reader.storage))


def _same(stored: Connection, listed: Connection) -> bool:
    """Return whether rosbags maps a file's topic to a listed one and returns its messages."""
    return (stored.topic, stored.msgtype, stored.ext) == (listed.topic, listed.msgtype, listed.ext) and (
        not stored.digest or not listed.digest or stored.digest == listed.digest
    )
