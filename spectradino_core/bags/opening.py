"""Whole bags opened by `rosbags`, such that it gives every message as it is stored."""

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
"""A compression mode that rosbags does not know, so that it gives messages as they are stored."""


def open_reader(path: Path) -> Reader:
    """An open reader of a bag; what rosbags and the libraries under it raise where it is damaged.

    Raises:
        BagError: there is no room to unpack it.
    """
    reader = Reader(path)
    try:
        reader.open()
    except OSError as error:
        raise no_room(path, error) from None
    metadata = reader.storage.metadata
    if metadata.compression_mode == "message":  # a message that is not packed would end the reading: see `packing.py`
        reader.storage.metadata = metadata._replace(compression_mode=_BY_MESSAGE)
    _take_as_stored(reader)
    return reader


def no_room(path: Path, error: OSError) -> Exception:
    """What is raised in place of an error of unpacking a file, which is done in the folder for temporary files."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return BagError(
        f"{path} can't be unpacked: no space is left in {gettempdir()}; make room there, or name another folder in the "
        "environment variable TMPDIR"
    )


def read_connections(reader: Reader) -> list[Connection]:
    """Those of a reader's topics whose messages are in CDR."""
    return [connection for connection in reader.connections if encoding_of(connection) in CDR]


def uncounted(reader: Reader) -> Counter[str]:
    """How many messages of each topic the files hold beyond those that metadata.yaml lists."""
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
