"""MCAP files not written by rosbag2: CDR is read, other encodings are named together with a tool."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectradino_core.bags import BagError
from spectradino_core.bags.messages import writing_types
from spectradino_core.bags.reader import BagReader
from spectradino_core.cli import main
from tests.core.bags.mcap_files import write_mcap
from tests.core.bags.recorded import IR, RGB, pairs

IMAGE = "sensor_msgs/msg/Image"
CDR = [(RGB, "cdr", IMAGE, "ros2msg"), (IR, "cdr", IMAGE, "ros2msg")]


def messages(count: int = 5) -> list[tuple[int, int, bytes]]:
    types = writing_types()
    return [
        (1 + (row.topic == IR), row.received_ns, bytes(types.serialize_cdr(row.message(), row.kind)))
        for row in pairs(count)
    ]


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("profile", ["", "ros2", "acme"])
def test_cdr_is_read_with_any_profile(tmp_path, profile, chunked, capsys):
    file = write_mcap(tmp_path / "drive.mcap", profile, CDR, messages(), chunked)
    with BagReader(file) as reader:
        assert (reader.rgb_topic, reader.ir_topic) == (RGB, IR)
        assert sum(1 for frame in reader.frames() if frame.decode().pixels.size) == 10
        assert reader.damage == []
        assert {topic.count for topic in reader.topics.values()} == {5}
    assert main(["bag", "info", str(file)]) == 0
    assert "no problems found" in capsys.readouterr().out


@pytest.mark.timeout(60)
def test_endless_definitions_are_not_parsed(tmp_path):
    """Those of the same name in ROS are used instead; parsing a million lines takes more than a minute."""
    file = write_mcap(tmp_path / "drive.mcap", "ros2", CDR, messages(), definition="uint8 a" + "\n" * 1_000_000)
    with BagReader(file) as reader:
        assert sum(1 for frame in reader.frames() if frame.decode().pixels.size) == 10


@pytest.mark.parametrize(
    ("profile", "channel", "said"),
    [
        ("ros1", ("/rgb/image_raw", "ros1", "sensor_msgs/Image", "ros1msg"), ["ROS 1", "rosbags-convert"]),
        ("", ("/rgb", "protobuf", "foxglove.CompressedImage", "protobuf"), ["protobuf", "mcap info"]),
        ("", ("/rgb", "json", "foxglove.CompressedImage", "jsonschema"), ["json", "mcap info"]),
        ("", ("/rgb", "json", "", ""), ["json"]),
        ("ros2", ("/rgb/image_raw", "json", IMAGE, "jsonschema"), ["json", "CDR"]),
        ("ros2", ("/rgb/image_raw", "json", IMAGE, "ros2msg"), ["json", "CDR"]),
        ("x", ("/rgb", "flatbuffer", "a", "flatbuffer"), ["flatbuffer"]),
    ],
)
def test_other_encodings_are_named_with_a_tool_and_are_not_damaged(tmp_path, capsys, profile, channel, said):
    file = write_mcap(tmp_path / "drive.mcap", profile, [channel], [(1, 10, b"{}")])
    folder = tmp_path / "drive"
    folder.mkdir()
    file_in_folder = write_mcap(folder / "drive.mcap", profile, [channel], [(1, 10, b"{}")])
    for path in (file, folder):
        with pytest.raises(BagError) as caught:
            BagReader(path)
        text = str(caught.value)
        for word in [*said, channel[0], "drive.mcap"]:
            assert word in text
        assert "damaged" not in text
        assert "recover" not in text
        assert main(["bag", "info", str(path)]) == 1
        assert said[0] in capsys.readouterr().err
    assert file_in_folder.is_file()


def test_other_encodings_beside_cdr_are_named_and_the_rest_is_read(tmp_path):
    channels = [*CDR, ("/map", "protobuf", "foxglove.Grid", "protobuf")]
    for profile in ("", "ros2"):
        file = write_mcap(tmp_path / f"drive{profile}.mcap", profile, channels, [*messages(), (3, 10, b"x")])
        with BagReader(file) as reader:
            assert sum(1 for _ in reader.frames()) == 10
            assert len(reader.damage) == 1
            assert "/map" in reader.damage[0]
            assert "protobuf" in reader.damage[0]
            assert "/map" not in reader.topics


@pytest.mark.parametrize("profile", ["", "ros1", "ros2"])
def test_a_cut_file_is_still_damaged(tmp_path: Path, profile):
    channels = [("/rgb", "ros1", "sensor_msgs/Image", "ros1msg")] if profile == "ros1" else CDR
    rows = [(1, n, b"x" * 100) for n in range(9)] if profile == "ros1" else messages()
    file = write_mcap(tmp_path / "drive.mcap", profile, channels, rows, chunked=False)
    file.write_bytes(file.read_bytes()[:-300])
    if profile == "ros1":
        with pytest.raises(BagError, match=r"ROS 1.*damaged or truncated"):
            BagReader(file)
        return
    with BagReader(file) as reader:
        assert any("truncated" in text for text in reader.damage)


def test_an_empty_file_holds_no_topics(tmp_path):
    with pytest.raises(BagError, match="no topics"):
        BagReader(write_mcap(tmp_path / "drive.mcap", "", [], [], chunked=False))
