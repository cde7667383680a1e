"""Compressed bags whose metadata is missing or wrong are read according to their bytes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from spectradino_core.bags import BagError
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.storage import zstd
from tests.core.bags.recorded import IR, RGB, pairs, record
from tests.core.bags.test_damage import stamps

MODES = ("message", "file")


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> dict[tuple[str, str], Path]:
    """The same six pairs in each storage, compressed by message and by file."""
    folder = tmp_path_factory.mktemp("packed")
    return {
        (storage, mode): record(folder / f"{storage}_{mode}", pairs(6), storage, mode)
        for storage in ("mcap", "sqlite3")
        for mode in MODES
    }


def edit(bag: Path, **fields: str | None) -> None:
    """Set fields of metadata.yaml; None removes one."""
    file, yaml = bag / "metadata.yaml", YAML(typ="safe")
    data = yaml.load(file.read_text(encoding="utf-8"))
    for name, value in fields.items():
        if value is None:
            del data["rosbag2_bagfile_information"][name]
        else:
            data["rosbag2_bagfile_information"][name] = value
    with file.open("w", encoding="utf-8") as out:
        yaml.dump(data, out)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize(
    "change",
    [
        None,
        {"compression_format": None, "compression_mode": None},
        {"compression_format": "", "compression_mode": ""},
        {"compression_format": "", "compression_mode": "NONE"},
        {"compression_mode": "MESSAGE"},
        {"compression_mode": "FILE"},
        {"compression_format": "lz4"},
    ],
    ids=["no metadata", "no fields", "empty fields", "none", "by message", "by file", "lz4"],
)
def test_compressed_bags_are_read_with_any_metadata(packed, tmp_path, storage, mode, change):
    expected, damage = stamps(packed[storage, mode])
    assert len(expected) == 12
    assert not damage
    bag = shutil.copytree(packed[storage, mode], tmp_path / "bag")
    if change is None:
        (bag / "metadata.yaml").unlink()
    else:
        edit(bag, **change)
    found, damage = stamps(bag)
    assert found == expected
    asked = (change or {}).get("compression_mode", "") if change and "compression_format" not in change else ""
    assert bool(damage) == (asked is None or asked.lower() != mode)
    with BagReader(bag) as reader:
        assert {name: topic.count for name, topic in reader.topics.items()} == {RGB: 6, IR: 6}
        assert reader.format == f"{storage}, zstd by {mode}"


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_uncompressed_messages_stated_as_compressed(tmp_path, storage):
    bag = record(tmp_path / "bag", pairs(3), storage)
    edit(bag, compression_format="zstd", compression_mode="MESSAGE")
    found, _ = stamps(bag)
    assert len(found) == 6


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bare_file_packed_by_message_or_as_a_whole_is_read(packed, storage):
    for mode in MODES:
        file = next(f for f in packed[storage, mode].iterdir() if f.name != "metadata.yaml")
        assert len(stamps(file)[0]) == 12


def test_a_packed_file_that_was_cut_is_read_up_to_there_and_named(tmp_path):
    bag = record(tmp_path / "bag", pairs(60), "mcap", "file")
    file = next(f for f in bag.iterdir() if f.suffix == ".zstd")
    expected, _ = stamps(bag)
    plain = zstd.decompress(file.read_bytes())
    file.write_bytes(zstd.compress(plain[:-200]))
    found, damage = stamps(bag)
    assert found == expected[: len(found)]
    assert found
    assert any(file.name in text for text in damage), damage
    assert not any("spectradino_bag_" in text for text in damage), "a scratch file is nobody's to look for"
    file.write_bytes(file.read_bytes()[:-20])
    found, damage = stamps(bag)
    assert found == expected[: len(found)]
    assert found
    assert any("decompressed in part" in text for text in damage)
    file.write_bytes(b"no zstd at all")
    with pytest.raises(BagError, match=file.name):
        BagReader(bag)


def test_one_packed_message_that_is_damaged_costs_itself_only(tmp_path):
    rows = pairs(5)
    rows[2].raw = zstd.compress(bytes(1000))[:-9]
    bag = record(tmp_path / "bag", rows)
    with BagReader(bag) as reader:
        assert sum(1 for _ in reader.frames()) == 9
        assert reader.events == {"rgb_bad_message": 1}
        assert "compressed with zstd" in str(reader.messages_of["rgb"])


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_files_that_the_metadata_does_not_list_are_named(tmp_path, storage):
    bag = record(tmp_path / "bag", pairs(3), storage)
    file = next(f for f in bag.iterdir() if f.name != "metadata.yaml")
    shutil.copy(file, bag / f"bag_1{file.suffix}")
    found, damage = stamps(bag)
    assert len(found) == 6
    assert len(damage) == 1
    assert f"bag_1{file.suffix}" in damage[0]
    assert "does not list" in damage[0]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("has_metadata", [True, False])
def test_a_split_bag_whose_last_file_was_cut_gives_the_others_whole(tmp_path, storage, has_metadata):
    bag = record(tmp_path / "bag", pairs(20), storage)
    later = record(tmp_path / "later", pairs(60, first=20), storage)
    suffix = ".mcap" if storage == "mcap" else ".db3"
    (bag / f"bag{suffix}").rename(bag / f"bag_0{suffix}")
    data = (later / f"later{suffix}").read_bytes()
    (bag / f"bag_1{suffix}").write_bytes(data[: len(data) * 7 // 10])
    edit(bag, relative_file_paths=[f"bag_0{suffix}", f"bag_1{suffix}"])
    if not has_metadata:
        (bag / "metadata.yaml").unlink()
    found, damage = stamps(bag)
    assert 40 < len(found) < 160
    assert found == sorted(found)
    assert any(f"bag_1{suffix} is damaged" in text for text in damage), damage


def test_messages_that_the_metadata_does_not_count_are_counted(tmp_path):
    """As left by a recorder that was killed before its last update of the metadata."""
    bag = record(tmp_path / "bag", pairs(4))
    text = (bag / "metadata.yaml").read_text(encoding="utf-8")
    (bag / "metadata.yaml").write_text(text.replace("message_count: 4", "message_count: 0"), encoding="utf-8")
    with BagReader(bag) as reader:
        assert {topic.count for topic in reader.topics.values()} == {4}
        assert sum(1 for _ in reader.frames()) == 8


def test_a_damaged_file_is_named_and_not_its_temporary_copy(packed, tmp_path):
    bag = tmp_path / "bag"
    shutil.copytree(packed["sqlite3", "file"], bag)
    file = next(f for f in bag.iterdir() if f.suffix == ".zstd")
    plain = zstd.decompress(file.read_bytes())
    file.write_bytes(zstd.compress(plain[:512]))
    with pytest.raises(BagError, match=f"database {re.escape(str(file))}") as raised:
        BagReader(bag)
    assert "spectradino_bag_" not in str(raised.value)
