"""A bag's files to raw messages: rosbag2 folders and bare .mcap and .db3 files, compressed or not, whole or damaged.

Whole bags are read by `rosbags`; of damaged ones what is left is read (`salvage.py`), and said. Whether messages or
files are packed is decided by their bytes: metadata.yaml may be missing, be of another bag or have been edited.
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import Reader, ReaderError

from spectradino_core.bags.errors import BagError
from spectradino_core.bags.opening import encoding_of, no_room, open_reader, read_connections, uncounted
from spectradino_core.bags.packing import ZSTD, unpack_file, unpacked_message
from spectradino_core.bags.salvage import CDR, ForeignBagError, Salvaged, salvage, unread_encodings
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

_DATA = re.compile(r"\.(mcap|db3)(\.zstd)?$")
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
        data: CDR; as it is stored where it was packed and can't be unpacked.
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
        """Lets go of the files."""
        for part in self._parts:
            if isinstance(part, Reader) and part.is_open:
                part.close()
        self._parts = []
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        """The messages of some topics in the order in which they were received (within each file of a split bag)."""
        for part in self._parts:
            if isinstance(part, Salvaged):
                for topic, received_ns, data in part.messages(topics):
                    yield Raw(topic, received_ns, unpacked_message(data))
            else:
                yield from self._of_reader(part, topics)

    def _of_reader(self, reader: Reader, topics: Collection[str]) -> Iterator[Raw]:
        wanted = [connection for connection in read_connections(reader) if connection.topic in topics]
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
                    f"{path} lacks messages: {promised} of {', '.join(sorted({c.topic for c in wanted}))} were "
                    f"recorded by its own account, {count} are there; 'ros2 bag reindex' counts anew"
                )
        except _UNREADABLE as error:
            where = f"after {count} messages, {(last_ns - reader.start_time) / 1e9:.1f} s in" if count else "at once"
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
            raise BagError(f"{path}: there is no such bag")
        if not path.is_dir() and not _DATA.search(path.name):
            raise BagError(f"{path}: not a rosbag2 folder, .mcap or .db3 file{_hint(path)}")
        _check(path)
        files = _data_files(path)
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            if not files:
                raise BagError(f"{path}: no rosbag2 folder: it holds neither metadata.yaml nor .mcap or .db3 files")
            self.damage.append(f"{path} has no metadata.yaml, as when recording was cut off: 'ros2 bag reindex'")
            for file in files:
                self._open_file(file)
        elif path.is_file() and path.suffix == ".zstd":
            self._open_file(path)
        else:
            self._open_whole(files)
        journal = next((f for f in files if f.with_name(f.name + "-wal").is_file()), None)
        if journal is not None:
            self.damage.append(
                f"{journal} has a journal beside it (-wal) that is not read: open it once with 'sqlite3 {journal.name} "
                '"pragma wal_checkpoint"\''
            )

    def _open_whole(self, files: list[Path]) -> None:
        try:
            reader = open_reader(self.path)
        except BagError:
            raise
        except _UNREADABLE as error:
            why = _short(error)
        else:
            self._parts.append(reader)
            self._tell_of_others(reader, files)
            return
        if not files:
            raise BagError(f"{self.path} can't be read ({why}): record it again, or copy it again from where it was")
        are_foreign = [self._open_file(file) for file in files]
        if not all(are_foreign) and not any(str(self.path) in text for text in self.damage):
            self.damage.append(f"{self.path}: metadata.yaml is not used ({why}); 'ros2 bag reindex' makes it anew")

    def _tell_of_others(self, reader: Reader, files: list[Path]) -> None:
        """Data files in the folder that metadata.yaml does not list are not read: rosbag2 does not play them either."""
        listed = {Path(str(storage.path)).name for storage in getattr(reader.storage, "storages", ())}
        others = [f.name for f in files if listed and not {f.name, f.name.removesuffix(".zstd")} & listed]
        if others:
            self._report(
                f"{self.path}: {', '.join(others)} not read, as metadata.yaml does not list them; 'ros2 bag reindex' "
                "lists all files of the folder"
            )

    def _open_file(self, file: Path) -> bool:
        """Opens one file by itself; gives whether it is whole, but of another profile than rosbag2's."""
        named = file
        if file.suffix == ".zstd":
            try:
                file = self._unpacked_file(file)
            except OSError as error:
                self._report(f"{named} can't be unpacked ({_short(error)}): copy it again from where it was recorded")
                return False
        try:
            self._parts.append(open_reader(file))
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
        self._report(f"{named} is damaged or was cut off ({why}): {count} messages can be read; {_REMEDY[file.suffix]}")
        return False

    def _unpacked_file(self, file: Path) -> Path:
        """A copy of a packed file, unpacked as far as it goes; it is gone when the bag is closed."""
        if self._scratch is None:
            self._scratch = TemporaryDirectory(prefix="spectradino_bag_")
        copy = Path(self._scratch.name) / file.name.removesuffix(".zstd")
        self._copies[copy] = file
        try:
            with file.open("rb") as source, copy.open("wb") as target:
                is_whole = unpack_file(source, target)
        except OSError as error:
            raise no_room(file, error) from None
        if not is_whole:
            self._report(f"{file} is cut off or damaged: it could be unpacked in part only; copy it again")
        return copy

    def _described_format(self) -> str:
        """The storage, and how it is packed: by the bytes of a first message, not by metadata.yaml."""
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
            f"{self.path}: its messages are packed by zstd, which metadata.yaml does not say; they are read here, but "
            "'ros2 bag play' needs the lines 'compression_format: zstd' and 'compression_mode: MESSAGE' there"
        )
        return f"{form}, zstd by message"

    def _first_stored(self, part: Reader | Salvaged) -> Iterator[bytes]:
        """The first message of a part as it is stored; nothing of an empty or damaged one, which reading reports."""
        try:
            if isinstance(part, Salvaged):
                yield from (data for _, _, data in islice(part.messages(set(part.topics)), 1))
            elif wanted := [c for c in read_connections(part) if c.msgcount]:
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
                stored = uncounted(part)
                listed = [
                    (c.topic, (c.msgtype, c.msgdef, c.msgcount + stored.pop(c.topic, 0)))
                    for c in read_connections(part)
                ]
                unread = {c.topic: encoding_of(c) for c in part.connections if encoding_of(c) not in CDR}
                file = Path(str(part.path))
            file = self._copies.get(file, file)
            if text := unread_encodings(unread, file):
                self._report(text)
            for name, (kind, definition, count) in listed:
                if name in found and found[name][0] != kind:
                    raise BagError(
                        f"{self.path}: topic {name} holds messages of two types, {found[name][0]} and {kind}: split "
                        "the bag ('ros2 bag convert')"
                    )
                before = found.get(name, (kind, definition, 0))
                best = definition if definition.format != MessageDefinitionFormat.NONE else before[1]
                found[name] = (kind, best, before[2] + count)
        if not found and self.damage:
            raise BagError("; ".join(self.damage))
        self.topics = {name: StoredTopic(name, *found[name]) for name in sorted(found)}


def _check(path: Path) -> None:
    """Looks at the bag's files before a library opens them.

    Raises:
        BagError: one is no regular file, or a placeholder such as a Git LFS pointer.
    """
    names = [path] if not path.is_dir() else [f for f in path.iterdir() if _DATA.search(f.name)]
    try:
        for file in names:
            check_file(file, "bag file")
        if path.is_dir() and os.path.lexists(path / "metadata.yaml"):
            check_file(path / "metadata.yaml", "bag metadata")
    except FileError as error:
        raise BagError(str(error)) from None


def _data_files(path: Path) -> list[Path]:
    """The files with messages, in the order of their numbers."""
    if path.is_file():
        return [path]
    files = [f for f in path.iterdir() if f.is_file() and _DATA.search(f.name)]
    names = {f.name for f in files}  # of a file that somebody unpacked beside itself the unpacked one counts
    files = [f for f in files if f.suffix != ".zstd" or f.stem not in names]
    return sorted(files, key=lambda f: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", f.name)])


def _hint(path: Path) -> str:
    if path.suffix == ".bag":
        return ". A bag of ROS 1 is made one of ROS 2 by 'rosbags-convert --src FILE.bag --dst FOLDER'"
    if path.name == "metadata.yaml":
        return ". Give the folder that it lies in"
    if path.suffix in (".zstd", ".zst", ".gz", ".xz", ".bz2", ".zip", ".tar"):
        return ". Unpack it first"
    return ""


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:200]
