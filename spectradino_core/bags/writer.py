"""Write bags atomically, in MCAP or SQLite, with the same bytes for the same messages.

A name that ends in .mcap becomes a single file, which Foxglove, `ros2 bag play` and this package open directly; any
other name becomes a rosbag2 folder with metadata.yaml.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, WriterError

from spectradino_core.bags import BagError
from spectradino_core.bags.messages import writing_types
from spectradino_core.bags.rosbag2 import Writer
from spectradino_core.files import replaced_path, write_error

STORAGES = ("mcap", "sqlite3")
COMPRESSIONS = {
    "none": CompressionMode.NONE,
    "message": CompressionMode.MESSAGE,
    "file": CompressionMode.FILE,
    "chunk": CompressionMode.STORAGE,
}
"""zstd compression of each message, the whole file, or (MCAP only) chunks of messages, which every tool reads."""

_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_VERSION: Literal[8] = 8
"""Version of rosbag2's metadata that Iron and Jazzy read; Humble reads the .mcap or .db3 file itself."""
_OF_A_BAG = re.compile(r"metadata\.yaml|.*\.(mcap|db3)(\.zstd|-wal|-shm)?")
"""Names of files in a rosbag2 folder."""
_FOREVER = QosTime(9223372036, 854775807)


class BagWriter:
    """A bag being written; a context manager. The bag appears on exit, or nothing after an exception."""

    def __init__(
        self, path: str | Path, storage: str | None = None, compression: str = "none", overwrite: bool = False
    ) -> None:
        """
        Args:
            path: folder to create, or a file that ends in .mcap.
            storage: one of `STORAGES`; None: MCAP for .mcap, else SQLite.
            compression: one of `COMPRESSIONS`.
            overwrite: whether to replace the bag at `path`, once the new one is complete.

        Raises:
            BagError: `path` exists, or is a folder that is not a bag, or the arguments contradict each other.
        """
        self.path = Path(path)
        self._is_file = self.path.suffix == ".mcap"
        storage = storage or ("mcap" if self._is_file else "sqlite3")
        if storage not in STORAGES or compression not in COMPRESSIONS:
            raise BagError(
                f"storage must be one of {', '.join(STORAGES)}, compression one of {', '.join(COMPRESSIONS)}"
            )
        if self.path.suffix in (".db3", ".bag", ".yaml"):
            raise BagError(f"{self.path}: give a folder, or a file that ends in .mcap")
        if self._is_file and (storage != "mcap" or compression in ("file", "message")):
            raise BagError(
                f"{self.path}: a single .mcap file takes storage mcap and compression none or chunk; give a name "
                "without .mcap to write a folder"
            )
        if storage == "sqlite3" and compression == "chunk":
            raise BagError("SQLite has no chunks to compress: use compression message or file")
        if self.path.is_file() and not self._is_file:
            raise BagError(f"{self.path} is a file: give the name of a folder, or one that ends in .mcap")
        if self.path.exists() and not overwrite:
            raise BagError(f"{self.path} exists already: give --overwrite to replace it, or another name")
        if self.path.is_dir() and (others := [p.name for p in self.path.iterdir() if not _OF_A_BAG.fullmatch(p.name)]):
            raise BagError(
                f"{self.path} is a folder with other files than a bag ({', '.join(sorted(others)[:3])}), so it is not "
                "replaced: choose another name"
            )
        self._storage, self._compression = storage, compression
        self.path = replaced_path(self.path)
        self._scratch = scratch_folder(self.path)
        self._writer: Writer | None = None
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        try:
            with self._writing():
                self._scratch.mkdir(parents=True)
                writer = Writer(self._new, version=_VERSION, storage_plugin=_PLUGINS[self._storage])
                if self._compression != "none":
                    writer.set_compression(COMPRESSIONS[self._compression], CompressionFormat.ZSTD)
                writer.open()
        except BaseException:  # a signal may end the command here
            self._discard()
            raise
        self._writer = writer
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        writer, self._writer = self._writer, None
        assert writer is not None
        try:
            if kind is None:
                with self._writing():
                    writer.close()
                    self._settle(writer.path)
        finally:
            try:
                with suppress(Exception):  # also closes the file of a failed write; nothing, if it is closed
                    writer.abort()
            finally:  # a signal may end the command in abort
                self._discard()

    def add(self, topic: str, kind: str, latched: bool = False) -> None:
        """Declare a topic of a type such as "sensor_msgs/msg/Image"; `latched`: with transient-local QoS.

        Raises:
            BagError: the topic was declared with another type, or the type is unknown.
        """
        connection = self._connections.get(topic)
        if connection is not None:
            if connection.msgtype != kind:
                raise BagError(f"{self.path}: topic {topic} cannot have both types {connection.msgtype} and {kind}")
            return
        assert self._writer is not None, "the bag is not open"
        if kind not in writing_types().fielddefs:
            raise BagError(f"{self.path}: the type {kind} of topic {topic} is unknown")
        with self._writing():
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=writing_types(), offered_qos_profiles=[_qos(latched)]
            )

    def write(self, topic: str, message: Any, time_ns: int) -> None:
        """Write a message of a declared topic, as if received at `time_ns`.

        Raises BagError if the topic was not declared, and OSError with the bag's name if writing failed.
        """
        connection = self._connection(topic)
        self.write_raw(topic, writing_types().serialize_cdr(message, connection.msgtype), time_ns)

    def write_raw(self, topic: str, data: bytes | memoryview, time_ns: int) -> None:
        """Write a message that is already in CDR, see `write`."""
        assert self._writer is not None, "the bag is not open"
        with self._writing():
            self._writer.write(self._connection(topic), time_ns, data)

    def _connection(self, topic: str) -> Connection:
        if topic not in self._connections:
            raise BagError(f"{self.path}: topic {topic} was not declared")
        return self._connections[topic]

    def _settle(self, written: Path) -> None:
        """Move the complete bag to its final path."""
        whole = written / f"{written.name}.mcap" if self._is_file else written
        for file in [whole] if self._is_file else list(whole.iterdir()):
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        if self.path.is_dir():
            replace_folder(self.path, whole, self._before)
        else:
            os.replace(whole, self.path)

    @property
    def _new(self) -> Path:
        """Folder of the bag while it is written: rosbags names the file after it, and metadata.yaml names the file."""
        return self._scratch / (self.path.stem if self._is_file else self.path.name)

    @property
    def _before(self) -> Path:
        return self._scratch / ".before"

    def _discard(self) -> None:
        discard_scratch(self._scratch, self._new, self._before)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn the errors of rosbags and the libraries below it into OSError with the bag's name."""
        try:
            yield
        except (OSError, sqlite3.Error, WriterError) as error:
            raise write_error(self.path, error) from error


def replace_folder(path: Path, new: Path, backup: Path) -> None:
    """Move `new` to `path`, and the folder there to `backup`; or move it back if that fails."""
    try:
        path.rename(backup)
        new.rename(path)
    except BaseException:  # also a signal during either
        if backup.exists() and not path.exists():
            backup.rename(path)
        raise


def scratch_folder(path: Path) -> Path:
    """Return a name beside `path` that no other run has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def discard_scratch(scratch: Path, new: Path, backup: Path) -> None:
    """Remove a scratch folder, unless it holds both folders of `replace_folder`: then nothing is in their place."""
    if not (backup.exists() and new.exists()):
        shutil.rmtree(scratch, ignore_errors=True)


def _qos(latched: bool) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )
