"""Reading bags: which topics are the cameras, and frames in the order of their stamps."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from spectradino_core.bags import BagError
from spectradino_core.bags.messages import DEFINITIONS, MessageTypes, header, make, writing_types
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.writer import BagWriter
from tests.core.bags.recorded import IR, MS, RGB, START_NS, Row, hot, pairs, record, red
from tests.examples import examples


def cameras(path: Path, *topics: tuple[str, str], **wanted: str) -> tuple[str, str]:
    """Return the cameras found among topics, given as (name, "colour" or "grey"), with one image each."""
    looks = {"colour": red(0), "grey": hot(0)}
    rows = [
        Row(name, START_NS, START_NS, looks[look.partition("-")[0]], look.partition("-")[2] or "raw")
        for name, look in topics
    ]
    with BagReader(record(path, rows), **wanted) as reader:
        return reader.rgb_topic, reader.ir_topic


@pytest.mark.parametrize(
    ("topics", "found"),
    [
        ([(RGB, "colour"), (IR, "grey"), ("/thermal/image", "grey")], (RGB, IR)),
        ([("/cam/color/image_raw", "colour"), ("/boson/image", "grey")], ("/cam/color/image_raw", "/boson/image")),
        ([("/left/image", "colour"), ("/right/image", "grey")], ("/left/image", "/right/image")),
        ([("/rgb/a", "colour"), ("/rgb/a/compressed", "colour-jpeg"), ("/ir/b", "grey")], ("/rgb/a", "/ir/b")),
        ([("/rgb/a/compressed", "colour-jpeg"), ("/lwir/b/compressed", "grey-png")],
         ("/rgb/a/compressed", "/lwir/b/compressed")),
        ([(RGB, "colour"), (IR, "grey"), ("/detector_node/segmentation/mask", "grey")], (RGB, IR)),
        # What `ros2 bag record -a` stores of a camera whose driver uses image_transport.
        ([(RGB, "colour"), (f"{RGB}/compressed", "colour-jpeg"), (f"{RGB}/zstd", "colour-png"),
          (f"{RGB}/avif", "colour-png"), (f"{RGB}/compressedDepth", "colour-png"),
          (IR, "grey"), (f"{IR}/compressed", "grey-png"), (f"{IR}/zstd", "grey-png"),
          (f"{IR}/compressedDepth", "grey-png")], (RGB, IR)),
        ([("/rgb/a/zstd", "colour-png"), ("/rgb/a/compressed", "colour-jpeg"), ("/rgb/a/avif", "colour-png"),
          ("/ir/b/compressed", "grey-png"), ("/ir/b/zstd", "grey-png")], ("/rgb/a/zstd", "/ir/b/zstd")),
        ([("/left/image/compressed", "colour-jpeg"), ("/left/image", "colour"), ("/right/image/zstd", "grey-png"),
          ("/right/image/compressed", "grey-png")], ("/left/image", "/right/image/zstd")),
    ],
)  # fmt: skip
def test_cameras_are_found_by_name_and_then_by_their_images(tmp_path, topics, found):
    assert cameras(tmp_path / "bag", *topics) == found


def test_requested_cameras(tmp_path):
    topics = [("/a", "colour"), ("/b", "grey"), ("/c", "grey"), ("/d/compressed", "grey-png")]
    assert cameras(tmp_path / "1", *topics, rgb_topic="/a", ir_topic="/c") == ("/a", "/c")
    assert cameras(tmp_path / "2", *topics, rgb_topic="a", ir_topic="/d") == ("/a", "/d/compressed")
    assert cameras(tmp_path / "3", *topics, rgb_topic="", ir_topic="/b") == ("", "/b")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({}, r"ir camera: /b \(Image, mono16, 1 message\), /c .*Give --ir-topic"),
        ({"ir_topic": "/nobody"}, r"there is no topic /nobody; image topics are /a .*, /b .*, /c "),
        ({"rgb_topic": "/b", "ir_topic": "/b"}, r"both cameras have the topic '/b'"),
        ({"rgb_topic": "", "ir_topic": ""}, r"no camera selected"),
    ],
)
def test_ambiguous_cameras_are_listed(tmp_path, wanted, said):
    with pytest.raises(BagError, match=said):
        cameras(tmp_path / "bag", ("/a", "colour"), ("/b", "grey"), ("/c", "grey"), **wanted)


def test_a_topic_without_images_is_no_camera(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        writer.add("/chat", "std_msgs/msg/String")
        writer.write("/chat", make("std_msgs/msg/String", data="hello"), START_NS)
    with pytest.raises(BagError, match=r"no topic for the rgb camera; it has no camera images, only /chat \(String"):
        BagReader(tmp_path / "bag")
    with pytest.raises(BagError, match=r"topic /chat is of type std_msgs/msg/String, not an image"):
        BagReader(tmp_path / "bag", ir_topic="/chat")
    with BagReader(tmp_path / "bag", cameras=False) as reader:
        assert [m.message.data for m in reader.messages("/chat")] == ["hello"]
        with pytest.raises(BagError, match="there is no topic /else; topics are /chat"):
            next(reader.messages("/else"))


def test_frames_come_in_the_order_of_their_stamps_and_hold_what_was_recorded(tmp_path):
    rows = pairs(10)
    rows[4].received_ns += 250 * MS  # two periods late, as over a radio link
    with BagReader(record(tmp_path / "bag.mcap", rows)) as reader:
        frames = list(reader.frames())
        assert [f.stamp_ns for f in frames] == sorted(row.stamp_ns for row in rows)
        assert reader.events == {"rgb_backward_stamp": 1}
        for row, frame in zip(sorted(rows, key=lambda r: r.stamp_ns), frames, strict=True):
            np.testing.assert_array_equal(frame.decode().pixels, row.pixels)
            assert (frame.topic, frame.received_ns) == (row.topic, row.received_ns)
        assert [f.stamp_ns for f in reader.frames()] == [f.stamp_ns for f in frames], "a second reading is as the first"
        received = [f.received_ns for f in reader.frames(in_stamp_order=False)]
        assert received == sorted(received)


def test_what_waits_is_bounded_in_bytes_too(tmp_path, monkeypatch):
    rows = pairs(40)
    for row in rows:
        row.received_ns = START_NS  # as in a recording that was converted from something else
    monkeypatch.setattr("spectradino_core.bags.reader._MAX_BYTES", 200_000)
    with BagReader(record(tmp_path / "bag", rows)) as reader:
        assert [f.stamp_ns for f in reader.frames()] == [row.stamp_ns for row in rows]
        assert reader.max_waiting < 12  # of 19 and 28 kB


def test_frames_of_a_recording_played_twice_are_read_twice(tmp_path):
    first, again = pairs(10), pairs(10)
    for row in again:
        row.received_ns += 1100 * MS
    with BagReader(record(tmp_path / "bag", [*first, *again])) as reader:
        stamps = [f.stamp_ns for f in reader.frames()]
    assert stamps == sorted(r.stamp_ns for r in first) * 2
    assert reader.events == {"rgb_clock_jump": 1, "ir_clock_jump": 1}


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    delays=st.lists(st.integers(0, 399), min_size=1, max_size=40),
    period=st.sampled_from([5, 33, 100]),
    storage=st.sampled_from(["mcap", "sqlite3"]),
)
def test_any_delays_within_the_window_are_reordered_without_loss(tmp_path_factory, delays, period, storage):
    pixels = np.zeros((2, 2), np.uint8)
    rows = [
        Row((RGB, IR)[n % 2], START_NS + n * period * MS, START_NS + (n * period + delay) * MS, pixels)
        for n, delay in enumerate(delays)
    ]
    path = record(tmp_path_factory.mktemp("bag") / "bag", rows, storage)
    with BagReader(path, RGB, IR if len(rows) > 1 else "") as reader:
        frames = list(reader.frames())
    assert [f.stamp_ns for f in frames] == [row.stamp_ns for row in rows]
    assert Counter(f.received_ns for f in frames) == Counter(row.received_ns for row in rows)
    assert reader.max_waiting <= 1 + 800 // period + 1


def test_sqlite_and_mcap_give_the_same_frames_however_they_are_packed(tmp_path):
    rows = pairs(8)
    rows[3].received_ns = rows[2].received_ns  # of one arrival time
    bags = [
        record(tmp_path / "a.mcap", rows),
        record(tmp_path / "b.mcap", rows, compression="chunk"),
        record(tmp_path / "c", rows, "mcap", "message"),
        record(tmp_path / "d", rows, "mcap", "file"),
        record(tmp_path / "e", rows, "sqlite3"),
        record(tmp_path / "f", rows, "sqlite3", "message"),
        record(tmp_path / "g", rows, "sqlite3", "file"),
    ]
    bags.append(bags[4] / "e.db3")
    seen = []
    for bag in bags:
        with BagReader(bag) as reader:
            assert not reader.damage
            seen.append([(f.stream, f.stamp_ns, f.received_ns, f.raw) for f in reader.frames()])
    assert all(other == seen[0] for other in seen[1:])
    assert len(seen[0]) == len(rows)


def test_definitions_are_those_of_the_interface_packages(repository):
    """Same fields in the same order: equal hashes (REP-2011)."""
    theirs = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    folders = {"spectradino_msgs": repository / "msg", "vision_msgs": repository / "msg/pip_only/vision_msgs/msg"}
    for package, folder in folders.items():
        for file in folder.glob("*.msg"):
            types.update(get_types_from_msg(file.read_text(), f"{package}/msg/{file.stem}"))
    theirs.register(types)
    # Those of foxglove_msgs, which is not here, are compared with the installed package in tests/ros.
    ours = {name for name in DEFINITIONS if not name.startswith("foxglove_msgs/")}
    for name in ours:
        assert writing_types().hash_rihs01(name) == theirs.hash_rihs01(name), name
        assert writing_types().fielddefs[name] == theirs.fielddefs[name], name  # constants too
    assert set(types) == ours


def test_a_type_is_read_as_its_own_bag_defines_it():
    name = "vision_msgs/msg/ObjectHypothesis"
    old = MessageDefinition(MessageDefinitionFormat.MSG, "string class_id\nfloat64 score\nstring remark\n")
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(old.data, name))
    raw = bytes(store.serialize_cdr(store.types[name](class_id="1", score=0.5, remark="far"), name))
    assert MessageTypes([(name, old)]).read(raw, name).remark == "far"
    assert not hasattr(MessageTypes().read(_without_remark(), name), "remark")


def _without_remark() -> bytes:
    name = "vision_msgs/msg/ObjectHypothesis"
    return bytes(writing_types().serialize_cdr(make(name, class_id="1", score=0.5), name))


def test_an_unknown_type_is_refused_only_if_requested(tmp_path):
    bag = record(tmp_path / "bag", pairs(3), "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE topics SET type = 'acme_msgs/msg/Thing' WHERE name = ?", (IR,))
        database.execute("DELETE FROM message_definitions")
    database.close()
    (bag / "metadata.yaml").unlink()
    with BagReader(bag, ir_topic="") as reader:
        assert len(list(reader.frames())) == 3
        with pytest.raises(BagError, match=r"the type acme_msgs/msg/Thing of topic /ir/image_raw is unknown"):
            next(reader.messages(IR))


def test_messages_of_other_topics_with_their_stamps(tmp_path):
    with BagWriter(tmp_path / "bag.mcap") as writer:
        writer.add("/tick", "std_msgs/msg/Header")
        writer.add("/tock", "sensor_msgs/msg/Image")
        writer.write("/tick", header(5, "a"), START_NS)
        writer.write("/tock", Row("/tock", START_NS - 1, 0, red(1)).message(), START_NS + 1)
    with BagReader(tmp_path / "bag.mcap", cameras=False) as reader:
        first, second = reader.messages(["/tick", "/tock"])
    assert (first.message.frame_id, first.stamp_ns, first.received_ns) == ("a", None, START_NS)
    assert (second.kind, second.stamp_ns) == ("sensor_msgs/msg/Image", START_NS - 1)
