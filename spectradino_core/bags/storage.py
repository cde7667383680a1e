"""Read raw messages from rosbag2 folders and bare .mcap and .db3 files, compressed or not, intact or damaged.

Intact bags are read by `rosbags`; of damaged bags the readable part is read (`salvage.py`), and the loss is reported.
Compression is detected from the bytes: metadata.yaml may be missing, edited, or of another bag.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import apsw
from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError

from spectradino_core.bags import BagError
from spectradino_core.bags.rosbag2 import Reader
from spectradino_core.bags.salvage import (
    CDR,
    ZSTD,
    ForeignBagError,
    Part,
    Raw,
    StoredTopic,
    add_topic,
    salvage,
    unpack_file,
    unpacked_message,
    unread_encodings,
    zstd,
)
from spectradino_core.files import check_file, errors_as
from spectradino_core.text import counted

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


class Storage:
    """Files of one bag (a rosbag2 folder, or a .mcap or .db3 file), opened for reading; a context manager.

    Attributes:
        path, topics: the bag, and its topics by name.
        damage: descriptions of unreadable parts, with remedies; may grow while messages are read.
        format: "mcap" or "sqlite3", with the compression.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises BagError if there is no bag, or nothing in it can be read; the message names the remedy."""
        self.path = Path(path)
        self.topics: dict[str, StoredTopic] = {}
        self.damage: list[str] = []
        self.format = ""
        self._parts: list[Part] = []
        self._scratch: TemporaryDirectory[str] | None = None
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
            if isinstance(part, _Intact):
                part.close()
        self._parts = []
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        """Yield the messages of some topics in order of arrival (within each file of a split bag)."""
        for part in self._parts:
            for raw in part.messages(topics):
                yield raw._replace(data=unpacked_message(raw.data))

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
                raise BagError(
                    f"{path}: not a rosbag2 folder: it has neither metadata.yaml nor .mcap or .db3 files; give a "
                    "recording"
                )
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
            part = _Intact(self.path, self.path, self._report)
        except BagError:
            raise
        except _UNREADABLE as error:
            reason = _short(error)
        else:
            self._parts.append(part)
            self._report_unlisted(part.files, files)
            return
        if not files:
            raise BagError(f"{self.path} cannot be read ({reason}): copy it again, or record it again")
        are_foreign = [self._open_file(file) for file in files]
        if not all(are_foreign) and not any(str(self.path) in text for text in self.damage):
            self.damage.append(
                f"{self.path}: metadata.yaml is not used ({reason}); recreate it with 'ros2 bag reindex'"
            )

    def _report_unlisted(self, listed: set[str], files: list[Path]) -> None:
        """Report data files that metadata.yaml does not list; like rosbag2, they are not read."""
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
            self._parts.append(_Intact(file, named, self._report))
            return False
        except _UNREADABLE as error:
            reason = _short(error).replace(str(file), str(named))
        try:
            left = salvage(file, named)
        except ForeignBagError as error:
            self._report(str(error))
            return True
        except BagError as error:
            self._report(f"{error} ({reason})")
            return False
        self._parts.append(left)
        if left.is_complete:
            return True
        count = sum(topic.count for topic in left.topics.values())
        self._report(
            f"{named} is damaged or truncated ({reason}): {counted(count, 'message')} can be read; "
            f"{_REMEDY[file.suffix]}"
        )
        return False

    def _unpacked_file(self, file: Path) -> Path:
        """Decompress a file as far as possible into a temporary copy, deleted when the bag is closed."""
        if self._scratch is None:
            self._scratch = TemporaryDirectory(prefix="spectradino_bag_")
        copy = Path(self._scratch.name) / file.name.removesuffix(".zstd")
        try:
            with file.open("rb") as source, copy.open("wb") as target:
                is_complete = unpack_file(source, target)
        except OSError as error:
            raise _no_room(file, error) from None
        if not is_complete:
            self._report(f"{file} is truncated or damaged: it could be decompressed in part only; copy it again")
        return copy

    def _described_format(self) -> str:
        """Storage and compression, detected from the first message's bytes, not from metadata.yaml."""
        form = "mcap" if any(".mcap" in f.suffixes for f in _data_files(self.path)) else "sqlite3"
        modes = [part.compression_mode for part in self._parts if isinstance(part, _Intact)]
        if self._scratch is not None or "file" in modes:
            return f"{form}, zstd by file"
        first = next((data for part in self._parts if (data := part.first())), b"")
        if not first.startswith(ZSTD):
            return form
        if any(modes) or not (self.path / "metadata.yaml").is_file():
            return f"{form}, zstd by message"
        self._report(
            f"{self.path}: its messages are compressed with zstd, but metadata.yaml does not say so; they are read "
            "here, but 'ros2 bag play' needs the lines 'compression_format: zstd' and 'compression_mode: MESSAGE' there"
        )
        return f"{form}, zstd by message"

    def _list_topics(self) -> None:
        found: dict[str, StoredTopic] = {}
        for part in self._parts:
            if text := unread_encodings(part.unread, part.shown):
                self._report(text)
            for topic in part.listed():
                add_topic(found, topic, self.path, "split the bag with 'ros2 bag convert'")
        if not found and self.damage:
            raise BagError("; ".join(self.damage))
        self.topics = dict(sorted(found.items()))


class _Intact(Part):
    """A bag, or one file of it, that rosbags opens.

    Attributes:
        files: names of the files that its metadata.yaml lists; empty for a single file.
    """

    def __init__(self, path: Path, shown: Path, report: Callable[[str], None]) -> None:
        """Raises the exceptions of rosbags for a damaged bag, and BagError without disk space to decompress it."""
        super().__init__(path, shown)
        self._report = report
        self._reader = Reader(path)
        try:
            self._reader.open()
        except OSError as error:
            raise _no_room(path, error) from None
        storage = self._reader.storage
        self.compression_mode = storage.metadata.compression_mode
        if self.compression_mode == "message":  # rosbags stops at an uncompressed message: see `salvage.py`
            storage.metadata = storage.metadata._replace(compression_mode=_BY_MESSAGE)
        # Those of the files, by which rosbags reads a folder.
        storages = getattr(storage, "storages", ())
        self.files = {Path(str(file.path)).name for file in storages}
        self._stored: list[Connection] = [connection for file in storages for connection in file.connections]
        self._take_as_stored()
        self._connections = [c for c in self._reader.connections if _encoding_of(c) in CDR]
        self.unread = {c.topic: _encoding_of(c) for c in self._reader.connections if _encoding_of(c) not in CDR}

    def close(self) -> None:
        if self._reader.is_open:
            self._reader.close()

    def listed(self) -> Iterable[StoredTopic]:
        uncounted: Counter[str] = Counter()  # messages in the files that metadata.yaml does not list
        for stored in self._stored:
            uncounted[stored.topic] += stored.msgcount
        for known in self._reader.connections if uncounted else ():
            uncounted[known.topic] -= known.msgcount
        uncounted = +uncounted
        for c in self._connections:
            yield StoredTopic(c.topic, c.msgtype, c.msgdef, c.msgcount + uncounted.pop(c.topic, 0))

    def first(self) -> bytes:
        wanted = [connection for connection in self._connections if connection.msgcount]
        try:
            return next((data for _, _, data in self._reader.messages(wanted)), b"") if wanted else b""
        except _UNREADABLE:
            return b""  # reading reports it

    def messages(self, topics: Collection[str]) -> Iterator[Raw]:
        wanted = [connection for connection in self._connections if connection.topic in topics]
        if not wanted:
            return
        count, last_ns = 0, 0
        try:
            for connection, received_ns, data in self._reader.messages(wanted):
                yield Raw(connection.topic, received_ns, data)
                count, last_ns = count + 1, received_ns
            promised = sum(connection.msgcount for connection in wanted)
            if count < promised:
                self._report(
                    f"{self.shown} lacks messages: its metadata lists {promised} of "
                    f"{', '.join(sorted({c.topic for c in wanted}))}, {count} were found; recount them with "
                    "'ros2 bag reindex'"
                )
        except _UNREADABLE as error:
            at_s = (last_ns - self._reader.start_time) / 1e9
            where = f"after {counted(count, 'message')} at {at_s:.1f} s" if count else "at the first message"
            remedy = _REMEDY.get(self.path.suffix) or next((_REMEDY[f.suffix] for f in _data_files(self.path)), "")
            self._report(f"{self.shown} is damaged: reading stopped {where} ({_short(error)}); {remedy}")

    def _take_as_stored(self) -> None:
        """Add the topics of the files as connections if their QoS or hash differs from metadata.yaml.

        rosbags silently skips the messages of such topics otherwise. They differ if somebody edited the QoS for
        playback, or between recorder versions.
        """
        listed = self._reader.connections
        for stored in self._stored:
            if not any(_same(stored, known) for known in listed):
                listed.append(stored._replace(id=1 + len(listed), msgcount=0, owner=self._reader.storage))


def _check(path: Path) -> None:
    """Check the bag's files before a library opens them.

    Raises:
        BagError: one is not a regular file, or a placeholder such as a Git LFS pointer.
    """
    names = [path] if not path.is_dir() else [f for f in path.iterdir() if DATA_FILE.search(f.name)]
    with errors_as(BagError):
        for file in names:
            check_file(file, "bag file")
        if path.is_dir() and os.path.lexists(path / "metadata.yaml"):
            check_file(path / "metadata.yaml", "bag metadata")


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
    return "; give a recording"


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:200]


def _no_room(path: Path, error: OSError) -> Exception:
    """Return the error to raise for a failed decompression, which writes to the folder for temporary files."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return BagError(
        f"{path} cannot be decompressed: no space is left in {gettempdir()}; free some, or set the environment "
        "variable TMPDIR to another folder"
    )


def _encoding_of(connection: Connection) -> str:
    return str(getattr(connection.ext, "serialization_format", "")).strip().lower()


def _same(stored: Connection, listed: Connection) -> bool:
    """Return whether rosbags maps a file's topic to a listed one and returns its messages."""
    return (stored.topic, stored.msgtype, stored.ext) == (listed.topic, listed.msgtype, listed.ext) and (
        not stored.digest or not listed.digest or stored.digest == listed.digest
    )
