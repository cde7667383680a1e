"""Open intact bags with `rosbags` so that it returns every message as stored."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path
from tempfile import gettempdir

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from spectradino_core.bags.errors import BagError
from spectradino_core.bags.salvage import CDR

__all__ = ["encoding_of", "no_room", "open_reader", "read_connections", "uncounted"]

_BY_MESSAGE = "each message"
"""A compression mode that rosbags does not know, so that it returns messages as stored."""


def open_reader(path: Path) -> Reader:
    """Open a reader of a bag. A damaged bag raises the exceptions of rosbags and the libraries below it.

    Raises:
        BagError: no disk space to decompress it.
    """
    reader = Reader(path)
    try:
        reader.open()
    except OSError as error:
        raise no_room(path, error) from None
    metadata = reader.storage.metadata
    if metadata.compression_mode == "message":  # rosbags stops at an uncompressed message: see `packing.py`
        reader.storage.metadata = metadata._replace(compression_mode=_BY_MESSAGE)
    _take_as_stored(reader)
    return reader


def no_room(path: Path, error: OSError) -> Exception:
    """Return the error to raise for a failed decompression, which writes to the folder for temporary files."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return BagError(
        f"{path} cannot be decompressed: no space is left in {gettempdir()}; free some, or set the environment "
        "variable TMPDIR to another folder"
    )


def read_connections(reader: Reader) -> list[Connection]:
    """Return a reader's topics with messages in CDR."""
    return [connection for connection in reader.connections if encoding_of(connection) in CDR]


def uncounted(reader: Reader) -> Counter[str]:
    """Count messages per topic that are in the files but not listed in metadata.yaml."""
    counts: Counter[str] = Counter()
    for storage in getattr(reader.storage, "storages", ()):
        for stored in storage.connections:
            counts[stored.topic] += stored.msgcount
    for listed in reader.connections if counts else ():
        counts[listed.topic] -= listed.msgcount
    return +counts


def encoding_of(connection: Connection) -> str:
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
    """Whether rosbags takes a file's topic for a listed one and returns its messages."""
    return (stored.topic, stored.msgtype, stored.ext) == (listed.topic, listed.msgtype, listed.ext) and (
        not stored.digest or not listed.digest or stored.digest == listed.digest
    )
