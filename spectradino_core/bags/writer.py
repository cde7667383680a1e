"""Bags written: whole or not there, in MCAP or SQLite, the same bytes for the same messages.

A name that ends in .mcap becomes one file, which Foxglove, `ros2 bag play` and this package open as it is; any other
becomes a rosbag2 folder with its metadata.yaml.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError

from spectradino_core.bags.errors import BagError
from spectradino_core.bags.message_types import writing_types

__all__ = ["COMPRESSIONS", "STORAGES", "BagWriter"]

STORAGES = ("mcap", "sqlite3")
COMPRESSIONS = {
    "none": CompressionMode.NONE,
    "message": CompressionMode.MESSAGE,
    "file": CompressionMode.FILE,
    "chunk": CompressionMode.STORAGE,
}
"""How zstd packs: each message, the whole file, or (MCAP only) chunks of messages, which every tool reads."""

_PLUGINS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_VERSION: Literal[8] = 8
"""Of rosbag2's metadata: what Iron and Jazzy read; Humble reads the .mcap or .db3 file itself."""
_OF_A_BAG = re.compile(r"metadata\.yaml|.*\.(mcap|db3)(\.zstd|-wal|-shm)?")
"""Names of files in a rosbag2 folder."""
_FOREVER = QosTime(9223372036, 854775807)


class BagWriter:
    """A bag being written. A context manager: on leaving it the bag appears, or after an exception nothing does.

    Attributes:
        path: where the bag will be.
        count: messages written so far.
    """

    def __init__(
        self, path: str | Path, storage: str | None = None, compression: str = "none", overwrite: bool = False
    ) -> None:
        """
        Args:
            path: a folder to be, or a file that ends in .mcap.
            storage: one of `STORAGES`; None: MCAP for .mcap, else SQLite.
            compression: one of `COMPRESSIONS`.
            overwrite: whether the bag at `path` is replaced, once the new one is whole.

        Raises:
            BagError: `path` exists, or is a folder that is no bag, or the arguments contradict each other.
        """
        self.path = Path(path)
        self.count = 0
        self._is_file = self.path.suffix == ".mcap"
        storage = storage or ("mcap" if self._is_file else "sqlite3")
        if storage not in STORAGES or compression not in COMPRESSIONS:
            raise BagError(f"storage is one of {', '.join(STORAGES)}, compression one of {', '.join(COMPRESSIONS)}")
        if self.path.suffix in (".db3", ".bag", ".yaml"):
            raise BagError(f"{self.path}: a bag is written as a folder, or as one file that ends in .mcap")
        if self._is_file and (storage != "mcap" or compression in ("file", "message")):
            raise BagError(
                f"{self.path}: a single .mcap file is MCAP, packed by chunk if at all; without that ending a folder is "
                "written"
            )
        if storage == "sqlite3" and compression == "chunk":
            raise BagError("SQLite has no chunks to be packed: use compression message or file")
        if self.path.exists() and not overwrite:
            raise BagError(f"{self.path} exists already: remove it, choose another name, or ask for it to be replaced")
        if self.path.is_dir() and (others := [p.name for p in self.path.iterdir() if not _OF_A_BAG.fullmatch(p.name)]):
            raise BagError(
                f"{self.path} is a folder with other things than a bag in it ({', '.join(sorted(others)[:3])}): it is "
                "not replaced by one"
            )
        self._storage, self._compression = storage, compression
        self._scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._writer: Writer | None = None
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        self._discard()
        try:
            self._scratch.mkdir(parents=True)
            # rosbags names the file after the folder, and metadata.yaml names the file
            name = self.path.stem if self._is_file else self.path.name
            writer = Writer(self._scratch / name, version=_VERSION, storage_plugin=_PLUGINS[self._storage])
            if self._compression != "none":
                writer.set_compression(COMPRESSIONS[self._compression], CompressionFormat.ZSTD)
            writer.open()
        except (OSError, sqlite3.Error, WriterError) as error:
            self._discard()
            raise self._trouble(error) from error
        self._writer = writer
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        writer, self._writer = self._writer, None
        assert writer is not None
        try:
            if kind is None:
                writer.close()
                self._settle(writer.path)
            else:
                with suppress(Exception):
                    writer.abort()
        except (OSError, sqlite3.Error, WriterError) as trouble:
            with suppress(Exception):
                writer.abort()
            raise self._trouble(trouble) from trouble
        finally:
            self._discard()

    def add(self, topic: str, kind: str, latched: bool = False) -> None:
        """Declares a topic of a type such as "sensor_msgs/msg/Image"; `latched`: played back for late listeners too.

        Raises:
            BagError: the topic is there with another type, or the type is unknown.
        """
        there = self._connections.get(topic)
        if there is not None:
            if there.msgtype != kind:
                raise BagError(f"{self.path}: topic {topic} can't hold both {there.msgtype} and {kind}")
            return
        assert self._writer is not None, "the bag is not open"
        if kind not in writing_types().fielddefs:
            raise BagError(f"{self.path}: the type {kind} of topic {topic} is not known here")
        try:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=writing_types(), offered_qos_profiles=[_qos(latched)]
            )
        except (OSError, sqlite3.Error, WriterError) as error:
            raise self._trouble(error) from error

    def write(self, topic: str, message: Any, time_ns: int) -> None:
        """Writes one message of a topic that was declared, as if received at `time_ns`.

        Raises:
            BagError: no such topic.
            OSError: the disk is full, or the like; names the bag.
        """
        connection = self._connection(topic)
        self.write_raw(topic, writing_types().serialize_cdr(message, connection.msgtype), time_ns)

    def write_raw(self, topic: str, data: bytes | memoryview, time_ns: int) -> None:
        """The same of a message that is in CDR already."""
        assert self._writer is not None, "the bag is not open"
        try:
            self._writer.write(self._connection(topic), time_ns, data)
        except (OSError, sqlite3.Error, WriterError) as error:
            raise self._trouble(error) from error
        self.count += 1

    def _connection(self, topic: str) -> Connection:
        if topic not in self._connections:
            raise BagError(f"{self.path}: topic {topic} was not declared")
        return self._connections[topic]

    def _settle(self, written: Path) -> None:
        """Puts the whole bag into its place."""
        whole = written / f"{written.name}.mcap" if self._is_file else written
        for file in [whole] if self._is_file else list(whole.iterdir()):
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        if self.path.is_dir():  # which no other takes the place of in one step: it stands by until that is done
            before = self._scratch / "before"
            os.replace(self.path, before)
            try:
                os.replace(whole, self.path)
            except BaseException:
                os.replace(before, self.path)
                raise
        else:
            os.replace(whole, self.path)

    def _discard(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _trouble(self, error: Exception) -> OSError:
        text = getattr(error, "strerror", None) or str(error)
        return OSError(getattr(error, "errno", None) or 0, f"{self.path} could not be written: {text}")


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
