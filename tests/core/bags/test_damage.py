"""Truncated, corrupted and invalid bags: readable parts are read, and errors name the damage and the remedy."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from spectradino_core.bags import BagError
from spectradino_core.bags.reader import BagReader
from tests.core.bags.recorded import pairs, record


def cut(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: round(len(data) * share)])


def stamps(path: Path) -> tuple[list[int], list[str]]:
    with BagReader(path) as reader:
        return [frame.stamp_ns for frame in reader.frames()], list(reader.damage)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """The same forty pairs in each storage."""
    folder = tmp_path_factory.mktemp("whole")
    rows = pairs(40)
    return {
        "mcap": record(folder / "m", rows, "mcap"),
        "chunked": record(folder / "c", rows, "mcap", "chunk"),
        "sqlite3": record(folder / "s", rows, "sqlite3"),
    }


@pytest.mark.parametrize(
    ("storage", "remedy"), [("mcap", "mcap recover"), ("chunked", "mcap"), ("sqlite3", ".recover")]
)
def test_a_file_that_was_cut_off_is_read_up_to_there(whole, tmp_path, storage, remedy):
    expected, damage = stamps(whole[storage])
    assert len(expected) == 80
    assert not damage
    bag = shutil.copytree(whole[storage], tmp_path / "bag")
    file = next(f for f in bag.iterdir() if f.suffix in (".mcap", ".db3"))
    cut(file, 0.7)
    for path in (bag, file):
        found, damage = stamps(path)
        assert 20 <= len(found) < 80
        assert found == expected[: len(found)]
        assert any(file.name in text and remedy in text for text in damage), damage


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_file_cut_to_its_head_is_an_error_that_names_it(whole, tmp_path, storage):
    bag = shutil.copytree(whole[storage], tmp_path / "bag")
    file = next(f for f in bag.iterdir() if f.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(BagError, match=f"{file.name}: nothing in this file can be read"):
        BagReader(bag)
    file.write_bytes(b"")
    with pytest.raises(BagError, match=str(file)):
        BagReader(file)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_without_metadata_the_files_are_read_and_reindexing_is_advised(whole, tmp_path, storage):
    bag = shutil.copytree(whole[storage], tmp_path / "bag")
    (bag / "metadata.yaml").unlink()
    found, damage = stamps(bag)
    assert len(found) == 80
    assert len(damage) == 1
    assert "no metadata.yaml" in damage[0]
    assert "ros2 bag reindex" in damage[0]
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 5")
    found, damage = stamps(bag)
    assert len(found) == 80
    assert "ros2 bag reindex" in damage[0]


@pytest.mark.slow  # ruamel.yaml takes 3 s to refuse it; metadata cut short is tested above
@pytest.mark.parametrize("level", ["metadata", "QoS of the metadata", "QoS of the file"])
def test_deep_nesting_crashes_nothing(whole, tmp_path, level):
    """libyaml, which ruamel.yaml.clib brings, overflows the stack."""
    bag = shutil.copytree(whole["sqlite3"], tmp_path / "bag")
    metadata, deep = bag / "metadata.yaml", "[" * 100_000
    if level == "QoS of the file":
        metadata.unlink()
        with contextlib.closing(sqlite3.connect(next(bag.glob("*.db3")))) as database, database:
            database.execute("UPDATE topics SET offered_qos_profiles = ?", (deep,))
    elif level == "metadata":
        metadata.write_text(deep)
    else:
        stored = YAML(typ="safe", pure=True).load(metadata)
        for topic in stored["rosbag2_bagfile_information"]["topics_with_message_count"]:
            topic["topic_metadata"]["offered_qos_profiles"] = deep
        YAML(typ="safe", pure=True).dump(stored, metadata)
    found, damage = stamps(bag)
    assert len(found) == 80
    assert damage


def test_noise_in_the_middle_ends_reading_with_a_report(whole, tmp_path):
    bag = shutil.copytree(whole["chunked"], tmp_path / "bag")
    file = bag / "c.mcap"
    data = bytearray(file.read_bytes())
    rng = np.random.default_rng(0)
    middle = len(data) // 2
    data[middle : middle + 4000] = rng.bytes(4000)
    file.write_bytes(data)
    found, damage = stamps(bag)
    assert len(found) < 80
    assert any("c.mcap" in text or str(bag) in text for text in damage), damage


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), "neither metadata.yaml nor .mcap or .db3 files"),
        (lambda p: p.write_bytes(b"#ROSBAG V2.0"), "not a rosbag2 folder.*rosbags-convert"),
    ],
)
def test_what_is_no_bag(tmp_path, make, said):
    path = tmp_path / "drive.bag"
    make(path)
    with pytest.raises(BagError, match=said):
        BagReader(path)


def test_metadata_itself_is_no_bag(whole):
    with pytest.raises(BagError, match="Give the folder"):
        BagReader(whole["mcap"] / "metadata.yaml")


def test_an_unmerged_journal_is_reported(whole, tmp_path):
    bag = shutil.copytree(whole["sqlite3"], tmp_path / "bag")
    (bag / "s.db3-wal").write_bytes(b"x" * 100)
    assert "wal_checkpoint" in stamps(bag)[1][0]


def test_random_damage_is_never_more_than_a_bag_error(whole, tmp_path):
    rng = np.random.default_rng(1)
    for round_ in range(60):
        storage = ("mcap", "chunked", "sqlite3")[round_ % 3]
        source = next(f for f in whole[storage].iterdir() if f.suffix in (".mcap", ".db3"))
        data = bytearray(source.read_bytes())
        for at in rng.integers(0, min(len(data), 4000) if round_ % 2 else len(data), 8):
            data[at] = rng.integers(0, 256)
        file = tmp_path / f"{round_}{source.suffix}"
        file.write_bytes(data)
        with contextlib.suppress(BagError), BagReader(file) as reader:
            assert sum(1 for _ in reader.frames()) <= 80
