"""Writing bags: complete or not at all, deterministic bytes, readable by rosbags and by this package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader

from spectradino_core.bags import BagError
from spectradino_core.bags.messages import compressed_message, header, image_message, label_message, text_message
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.rosbag2 import Writer
from spectradino_core.bags.writer import BagWriter
from tests.core.bags.recorded import IR, RGB, START_NS, hot, pairs, record, red


def bytes_of(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.suffix: file.read_bytes() for file in files}


@pytest.mark.parametrize("name", ["bag", "bag.mcap"])
@pytest.mark.parametrize("compression", ["none", "file", "message", "chunk"])
@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_the_same_messages_are_the_same_bytes(tmp_path, name, storage, compression):
    good = storage == "mcap" and compression in ("none", "chunk") if name == "bag.mcap" else True
    if not good or (storage == "sqlite3" and compression == "chunk"):
        with pytest.raises(BagError):
            BagWriter(tmp_path / name, storage, compression)
        return
    first, second = (record(tmp_path / folder / name, pairs(4), storage, compression) for folder in "ab")
    assert bytes_of(first) == bytes_of(second)
    assert not [p for p in (tmp_path / "a").iterdir() if p.name.startswith(".")]
    with AnyReader([first]) as reader:
        assert {c.topic: c.msgcount for c in reader.connections} == {RGB: 4, IR: 4}
        connection, received_ns, raw = next(iter(reader.messages()))
        message = reader.deserialize(raw, connection.msgtype)
    assert received_ns == START_NS + 3_000_000
    assert (message.encoding, message.header.frame_id, message.step) == ("rgb8", "camera", 336)
    np.testing.assert_array_equal(message.data, red(0).reshape(-1))


def test_an_exception_leaves_nothing_and_keeps_what_was_there(tmp_path):
    old = record(tmp_path / "bag.mcap", pairs(2)).read_bytes()
    with pytest.raises(BagError, match="not declared"), BagWriter(tmp_path / "bag.mcap", overwrite=True) as writer:
        writer.write("/a", text_message("in the middle of it"), 1)
    assert [p.name for p in tmp_path.iterdir()] == ["bag.mcap"]
    assert (tmp_path / "bag.mcap").read_bytes() == old
    with BagWriter(tmp_path / "bag.mcap", overwrite=True) as writer:
        writer.add("/a", "std_msgs/msg/String")
        writer.write("/a", text_message("new"), 1)
    with BagReader(tmp_path / "bag.mcap", cameras=False) as reader:
        assert [m.message.data for m in reader.messages("/a")] == ["new"]


@pytest.mark.parametrize(("moment", "left"), [("open", []), ("close", []), ("abort", ["bag.mcap"])])
def test_a_signal_at_any_moment_leaves_the_whole_bag_or_nothing(tmp_path, monkeypatch, moment, left):
    """`abort` also follows the end of a complete bag."""

    def signalled(self: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(Writer, moment, signalled)
    with pytest.raises(SystemExit), BagWriter(tmp_path / "bag.mcap"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == left


def test_a_bag_that_can_not_take_its_place_leaves_the_one_before(tmp_path, monkeypatch):
    """The old folder must not be gone before the new one is in place."""
    old = bytes_of(record(tmp_path / "bag", pairs(2)))
    rename = Path.rename

    def interrupted(source, target):
        if Path(target) == tmp_path / "bag" and source.name == "bag":
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), BagWriter(tmp_path / "bag", overwrite=True) as writer:
        writer.add("/a", "std_msgs/msg/String")
    assert bytes_of(tmp_path / "bag") == old
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]
    monkeypatch.undo()
    with BagWriter(tmp_path / "bag", overwrite=True) as writer:
        writer.add("/a", "std_msgs/msg/String")
    assert bytes_of(tmp_path / "bag") != old
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_signal_while_a_bag_is_replaced_leaves_one_of_them(tmp_path, monkeypatch, number):
    """After the first or the second rename, where Python runs the handler."""
    old = bytes_of(record(tmp_path / "bag", pairs(2)))
    rename, calls = Path.rename, []

    def signalled(source: Path, target: Path) -> None:
        rename(source, target)
        calls.append(source)
        if len(calls) == number:
            raise SystemExit(143)

    monkeypatch.setattr(Path, "rename", signalled)
    with pytest.raises(SystemExit), BagWriter(tmp_path / "bag", overwrite=True) as writer:
        writer.add("/a", "std_msgs/msg/String")
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]
    assert (bytes_of(tmp_path / "bag") == old) is (number == 1)


def test_a_folder_that_is_no_bag_is_never_replaced(tmp_path):
    """`--out drives --overwrite` would have deleted the folder of recordings."""
    record(tmp_path / "drives" / "monday", pairs(2))
    with pytest.raises(BagError, match=r"other files than a bag \(monday\)"):
        BagWriter(tmp_path / "drives", overwrite=True)
    (tmp_path / "drives" / "metadata.yaml").touch()
    with pytest.raises(BagError, match="monday"):
        BagWriter(tmp_path / "drives", overwrite=True)


def test_what_is_refused(tmp_path):
    record(tmp_path / "bag", pairs(1))
    with pytest.raises(BagError, match="exists already"):
        BagWriter(tmp_path / "bag")
    with pytest.raises(BagError, match="give a folder"):
        BagWriter(tmp_path / "x.db3")
    with BagWriter(tmp_path / "y") as writer:
        writer.add("/a", "std_msgs/msg/String")
        writer.add("/a", "std_msgs/msg/String")
        with pytest.raises(BagError, match="cannot have both"):
            writer.add("/a", "std_msgs/msg/Header")
        with pytest.raises(BagError, match="type acme/msg/Thing of topic /b is unknown"):
            writer.add("/b", "acme/msg/Thing")
        with pytest.raises(BagError, match="topic /c was not declared"):
            writer.write("/c", text_message(""), 1)
    with pytest.raises(BagError, match="use png"):
        compressed_message(hot(0), header(1, ""), "jpeg")
    with pytest.raises(BagError, match="float32"):
        image_message(np.zeros((2, 2), np.float32), header(1, ""))


@pytest.mark.parametrize("name", ["bag.mcap", "bag"])
def test_a_full_disk_names_the_bag_and_leaves_nothing(tmp_path, name):
    """A real limit of file size, in a process of its own."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "from pathlib import Path\n"
        "from tests.core.bags.recorded import pairs, record\n"
        "try: record(Path(sys.argv[1]), pairs(40))\n"
        "except OSError as error: print(error); sys.exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / name)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 3, done.stderr
    assert f"{tmp_path / name} could not be written" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_latched_topics_are_played_back_for_late_listeners(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        writer.add("/labels", "vision_msgs/msg/LabelInfo", latched=True)
        writer.add("/mode", "std_msgs/msg/String")
        writer.write("/labels", label_message(("a", "b"), header(1, ""), 0.5), 1)
    with Reader(tmp_path / "bag") as reader:
        durability = {c.topic: c.ext.offered_qos_profiles[0].durability for c in reader.connections}
    assert durability == {"/labels": QosDurability.TRANSIENT_LOCAL, "/mode": QosDurability.VOLATILE}


@pytest.mark.parametrize("name", ["a.mcap", "a"])
def test_what_a_link_points_to_is_replaced(tmp_path, name):
    (tmp_path / "store").mkdir()
    link = tmp_path / name
    link.symlink_to(f"store/{name}")
    for _ in range(2):  # dangling, then replaced
        with BagWriter(link, overwrite=True) as writer:
            writer.add("/a", "std_msgs/msg/String")
    assert link.is_symlink()
    assert (tmp_path / "store" / name).exists()
    assert [path.name for path in (tmp_path / "store").iterdir()] == [name]
