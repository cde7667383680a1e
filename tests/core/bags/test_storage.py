"""Bags with intact files but wrong metadata: nothing is lost silently, and memory stays bounded."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import struct
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from lz4.frame import compress as pack_lz4

from spectradino_core.bags import BagError
from spectradino_core.bags.messages import MessageTypes
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.salvage import salvage
from spectradino_core.bags.storage import Storage, zstd
from tests.core.bags.recorded import IR, RGB, pairs, record

MAGIC = b"\x89MCAP0\r\n"


def frames(path: Path) -> int:
    with BagReader(path) as reader:
        return sum(1 for _ in reader.frames())


def change(bag: Path, old: str, new: str) -> None:
    file = bag / "metadata.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("compression", ["none", "file", "message"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_qos_changed_in_the_metadata_hides_no_messages(tmp_path, storage, compression):
    """Users edit it to play a bag with another quality of service."""
    bag = record(tmp_path / "bag", pairs(5), storage, compression)
    change(bag, "depth: 10", "depth: 7")
    assert frames(bag) == 10
    with Storage(bag) as opened:
        assert {name: topic.count for name, topic in opened.topics.items()} == {IR: 5, RGB: 5}
        assert sum(1 for _ in opened.messages({RGB})) == 5
        assert not opened.damage


def test_fewer_messages_than_in_the_metadata_are_reported(tmp_path):
    bag = record(tmp_path / "bag", pairs(5))
    change(bag, "message_count: 5", "message_count: 50")
    with Storage(bag) as opened:
        assert sum(1 for _ in opened.messages({RGB})) == 5
        assert len(opened.damage) == 1
        assert "50 of /rgb/image_raw" in opened.damage[0]
        assert "5 were found" in opened.damage[0]
        assert "reindex" in opened.damage[0]


def test_a_topic_of_two_types_in_one_file_is_refused(tmp_path):
    bag = record(tmp_path / "bag", pairs(2), "sqlite3")
    with closing(sqlite3.connect(bag / "bag.db3")) as database, database:
        row = dict.fromkeys(column[1] for column in database.execute("PRAGMA table_info(topics)"))
        row |= {"id": 9, "name": RGB, "type": "std_msgs/msg/String", "serialization_format": "cdr"}
        row |= {"offered_qos_profiles": "", "type_description_hash": ""}
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        database.execute(f"INSERT INTO topics ({names}) VALUES ({marks})", tuple(row.values()))
    with pytest.raises(BagError, match="two types"):
        Storage(bag / "bag.db3")


def test_lack_of_space_for_decompression_is_reported_as_such(tmp_path, monkeypatch):
    """It is not reported as a damaged bag."""
    bag = record(tmp_path / "bag", pairs(2), "sqlite3", "file")

    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", no_room)
    with pytest.raises(BagError, match="TMPDIR"):
        Storage(bag)


def chunk(packed: bytes, size: int, compression: str) -> bytes:
    name = compression.encode()
    content = struct.pack("<QQQII", 0, 0, size, 0, len(name)) + name + struct.pack("<Q", len(packed)) + packed
    return struct.pack("<BQ", 0x06, len(content)) + content


def channel(number: int, topic: str) -> bytes:
    content = struct.pack("<HHI", number, 0, len(topic)) + topic.encode() + struct.pack("<I", 3) + b"cdr" + bytes(4)
    return struct.pack("<BQ", 0x04, len(content)) + content


@pytest.mark.parametrize(
    "record_",
    [
        chunk(zstd.compress(bytes(200 << 20)), 100, "zstd"),
        chunk(pack_lz4(bytes(200 << 20)), 100, "lz4"),
        chunk(zstd.compress(bytes(1000)), 1 << 60, "zstd"),
        struct.pack("<BQ", 0x06, 3 << 30),
    ],
    ids=["zstd", "lz4", "a size beyond belief", "a length beyond the file"],
)
def test_salvaging_takes_no_more_memory_than_a_file_may_hold(tmp_path, record_):
    file = tmp_path / "cut.mcap"
    file.write_bytes(MAGIC + channel(1, "/a") + record_ + channel(2, "/b"))
    tracemalloc.start()
    try:
        found = salvage(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "/a" in found.topics
    assert peak < 16 << 20


@pytest.mark.parametrize("raw", [b"", b"\0\1\0\0", b"\0\1\0\0" + b"\xff" * 16, b"\0\1\0\0" + bytes(8) + b"\xff" * 40])
@pytest.mark.parametrize("kind", ["sensor_msgs/msg/Image", "vision_msgs/msg/Detection2DArray"])
def test_a_message_that_claims_more_than_it_holds_takes_no_memory(raw, kind):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=kind):
            MessageTypes().read(raw, kind)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
