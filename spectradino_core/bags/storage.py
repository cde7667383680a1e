"""A bag's files to raw messages: rosbag2 folders and bare .mcap and .db3 files, compressed or not, whole or damaged.

Whole bags are read by `rosbags`; of damaged ones what is left is read (`salvage.py`), and said.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import apsw
from rosbags.interfaces import Connection, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import Reader, ReaderError

from spectradino_core.bags.errors import BagError
from spectradino_core.bags.salvage import Salvaged, salvage
from spectradino_core.files import FileError, check_file

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["Raw", "Storage", "StoredTopic"]

_UNREADABLE = (
    ReaderError, apsw.Error, zstd.ZstdError, struct.error, OSError, EOFError, RuntimeError, ValueError, TypeError,
    KeyError, IndexError, MemoryError, AssertionError,
)  # fmt: skip
"""What rosbags and the libraries under it raise on damaged files."""

_DATA_FILE = re.compile(r"\.(mcap|db3)(\.zstd)?$")
_REMEDY = {
    ".mcap": "'mcap recover' makes a whole file of it",
    ".db3": "'sqlite3 FILE .recover' makes a whole file of it",
}


@dataclass(frozen=True)
class Raw:
    """One message as it is stored.

    Attributes:
        topic: its topic.
        received_ns: when the recorder got it.
        data: CDR.
    """

    topic: str
    received_ns: int
    data: bytes


@dataclass(frozen=True)
class StoredTopic:
    """A topic of a bag: its type ("sensor_msgs/msg/Image"), the type's definition if stored, how many messages."""

    name: str
    kind: str
    definition: MessageDefinition
    count: int


class Storage:
    """The files of one bag, opened for reading. Close it, or use it as a context manager.

    Attributes:
        path: the bag.
        topics: by name.
        damage: what could not be read, in words with a remedy; more may come while messages are read.
        format: "mcap" or "sqlite3", with the compression.
    """

    def __init__(self, path: str | Path) -> None:
        """
        Args:
            path: a rosbag2 folder, or a .mcap or .db3 file.

        Raises:
            BagError: there is no bag, or nothing of it can be read; says what to do.
        """
        self.path = Path(path)
        self.topics: dict[str, StoredTopic] = {}
        self.damage: list[str] = []
        self.format = ""
        self._parts: list[Reader | Salvaged] = []
        self._open()
        if not self._parts:
            raise BagError("; ".join(self.damage))
        try:
            self._list_topics()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the files."""
        for part in self._parts:
            if isinstance(part, Reader) and part.is_open:
                part.close()
        self._parts = []

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        """The messages of some topics in the order in which they were received (within each file of a split bag)."""
        for part in self._parts:
            if isinstance(part, Salvaged):
                for topic, received_ns, data in part.messages(topics):
                    yield Raw(topic, received_ns, data)
            else:
                yield from self._of_reader(part, topics)

    def _of_reader(self, reader: Reader, topics: Collection[str]) -> Iterator[Raw]:
        wanted = [connection for connection in reader.connections if connection.topic in topics]
        if not wanted:
            return
        count, last_ns = 0, 0
        try:
            for connection, received_ns, data in reader.messages(wanted):
                yield Raw(connection.topic, received_ns, data)
                count, last_ns = count + 1, received_ns
            promised = sum(connection.msgcount for connection in wanted)
            if count < promised:
                self._tell(
                    f"{reader.path} lacks messages: {promised} of {', '.join(sorted({c.topic for c in wanted}))} were "
                    f"recorded by its own account, {count} are there; 'ros2 bag reindex' counts anew"
                )
        except _UNREADABLE as error:
            where = f"after {count} messages, {(last_ns - reader.start_time) / 1e9:.1f} s in" if count else "at once"
            path = Path(str(reader.path))
            remedy = _REMEDY.get(path.suffix) or next((_REMEDY[f.suffix] for f in _data_files(path)), "")
            self._tell(f"{path} is damaged: reading stopped {where} ({_short(error)}); {remedy}")

    def _tell(self, text: str) -> None:
        if text not in self.damage:
            self.damage.append(text)

    # ---- opening -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        path = self.path
        if not os.path.lexists(path):
            raise BagError(f"{path}: there is no such bag")
        if not path.is_dir() and path.suffix not in _REMEDY:
            raise BagError(f"{path}: not a rosbag2 folder, .mcap or .db3 file{_hint(path)}")
        _check(path)
        files = _data_files(path)
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            if not files:
                raise BagError(f"{path}: no rosbag2 folder: it holds neither metadata.yaml nor .mcap or .db3 files")
            self.damage.append(f"{path} has no metadata.yaml, as when recording was cut off: 'ros2 bag reindex'")
            for file in files:
                self._open_file(file)
        else:
            self._open_whole(files)
        journal = next((f for f in files if f.with_name(f.name + "-wal").is_file()), None)
        if journal is not None:
            self.damage.append(
                f"{journal} has a journal beside it (-wal) that is not read: open it once with 'sqlite3 {journal.name} "
                '"pragma wal_checkpoint"\''
            )
        form = "mcap" if any(".mcap" in f.suffixes for f in files) else "sqlite3"
        packed = [getattr(p, "compression_mode", None) for p in self._parts if isinstance(p, Reader)]
        self.format = f"{form}, zstd by {packed[0]}" if packed and packed[0] else form

    def _open_whole(self, files: list[Path]) -> None:
        try:
            self._parts.append(_opened(self.path))
            return
        except BagError:
            raise
        except _UNREADABLE as error:
            why = _short(error)
        plain = [file for file in files if file.suffix in _REMEDY]
        if not plain:
            raise BagError(f"{self.path} can't be read ({why}): record it again, or copy it again from where it was")
        for file in plain:
            self._open_file(file)
        if not any(str(self.path) in text for text in self.damage):
            self.damage.append(f"{self.path}: metadata.yaml is not used ({why}); 'ros2 bag reindex' makes it anew")

    def _open_file(self, file: Path) -> None:
        try:
            self._parts.append(_opened(file))
            return
        except _UNREADABLE as error:
            why = _short(error)
        try:
            left = salvage(file)
        except BagError as error:
            self.damage.append(f"{error} ({why})")
            return
        self._parts.append(left)
        count = sum(number for _, _, number in left.topics.values())
        self.damage.append(
            f"{file} is damaged or was cut off ({why}): {count} messages can be read; {_REMEDY[file.suffix]}"
        )

    def _list_topics(self) -> None:
        found: dict[str, tuple[str, MessageDefinition, int]] = {}
        for part in self._parts:
            if isinstance(part, Salvaged):
                listed = list(part.topics.items())
            else:
                listed = [(c.topic, (c.msgtype, c.msgdef, c.msgcount)) for c in part.connections]
            for name, (kind, definition, count) in listed:
                if name in found and found[name][0] != kind:
                    raise BagError(
                        f"{self.path}: topic {name} holds messages of two types, {found[name][0]} and {kind}: split "
                        "the bag ('ros2 bag convert')"
                    )
                before = found.get(name, (kind, definition, 0))
                best = definition if definition.format != MessageDefinitionFormat.NONE else before[1]
                found[name] = (kind, best, before[2] + count)
        self.topics = {name: StoredTopic(name, *found[name]) for name in sorted(found)}


def _check(path: Path) -> None:
    """Looks at the bag's files before a library opens them.

    Raises:
        BagError: one is no regular file, or a placeholder such as a Git LFS pointer.
    """
    names = [path] if not path.is_dir() else [f for f in path.iterdir() if _DATA_FILE.search(f.name)]
    try:
        for file in names:
            check_file(file, "bag file")
        if path.is_dir() and os.path.lexists(path / "metadata.yaml"):
            check_file(path / "metadata.yaml", "bag metadata")
    except FileError as error:
        raise BagError(str(error)) from None


def _opened(path: Path) -> Reader:
    reader = Reader(path)
    try:
        reader.open()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # a bag packed as a whole is unpacked there first
            raise BagError(
                f"{path} can't be unpacked: no space is left in {gettempdir()}; make room there, or name another "
                "folder in the environment variable TMPDIR"
            ) from None
        raise
    _take_as_stored(reader)
    return reader


def _take_as_stored(reader: Reader) -> None:
    """Topics whose QoS or hash in metadata.yaml is not the files' own (people edit it to change what is offered at
    replay; recorders of two versions spell it differently) get the files' beside it: rosbags passes over all of their
    messages otherwise, without a word."""
    listed = reader.connections
    for storage in getattr(reader.storage, "storages", ()):
        for stored in storage.connections:
            if not any(_same(stored, known) for known in listed):
                listed.append(stored._replace(id=1 + len(listed), msgcount=0, owner=reader.storage))


def _same(stored: Connection, listed: Connection) -> bool:
    """What rosbags asks before it gives the messages of a file's topic."""
    return (stored.topic, stored.msgtype, stored.ext) == (listed.topic, listed.msgtype, listed.ext) and (
        not stored.digest or not listed.digest or stored.digest == listed.digest
    )


def _data_files(path: Path) -> list[Path]:
    """The files with messages, in the order of their numbers."""
    if path.is_file():
        return [path]
    files = [f for f in path.iterdir() if f.is_file() and _DATA_FILE.search(f.name)]
    return sorted(files, key=lambda f: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", f.name)])


def _hint(path: Path) -> str:
    if path.suffix == ".bag":
        return ". A bag of ROS 1 is made one of ROS 2 by 'rosbags-convert --src FILE.bag --dst FOLDER'"
    if path.name == "metadata.yaml":
        return ". Give the folder that it lies in"
    if path.suffix in (".zstd", ".zst"):
        return ". Give the folder with its metadata.yaml, or unpack it ('zstd -d')"
    return ""


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:200]
