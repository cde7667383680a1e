"""Lost messages of a bag are listed by cause, and commands without results exit with an error status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.storage import zstd
from spectradino_core.cli import main
from tests.blob_model import make_blob_model
from tests.core.bags.recorded import IR, RGB, SIZE, Row, pairs, record

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("model") / "blob.onnx", SIZE)


def cut_message(row: Row) -> None:
    row.raw = b"\0\1\0\0"


def cut_zstd(row: Row) -> None:
    row.raw = zstd.compress(bytes(500))[:-4]


def text(row: Row) -> None:
    row.raw = b'{"header": 1}'


def odd_step(row: Row) -> None:
    row.change = (("step", 1),)


def odd_encoding(row: Row) -> None:
    row.change = (("encoding", "hologram"),)


BROKEN = [
    (cut_message, "bad_message", "too short"),
    (cut_zstd, "bad_message", "compressed with zstd"),
    (text, "bad_message", "JSON"),
    (odd_step, "wrong_step", "step"),
    (odd_encoding, "unknown_encoding", "hologram"),
]


def broken(path: Path, breaks: Callable[[Row], None], topics: tuple[str, ...], form: str = "raw", count=6) -> Path:
    rows = pairs(count, form=form)
    for row in rows:
        if row.topic.startswith(topics):
            breaks(row)
    return record(path, rows)


@pytest.mark.parametrize(("breaks", "cause", "said"), BROKEN)
def test_fully_unreadable_bag_fails_in_every_command(tmp_path, model, capsys, breaks, cause, said):
    bag = broken(tmp_path / "bag", breaks, (RGB, IR))
    assert main(["bag", "info", str(bag)]) == 1
    out = capsys.readouterr().out
    assert "no problems" not in out
    for key in ("rgb", "ir"):
        assert f"{key}: none of its 6 messages can be read: 6 {cause}" in out
    assert said in out
    assert main(["bag", "info", str(bag), "--json"]) == 1
    camera = json.loads(capsys.readouterr().out)["cameras"]["ir"]
    assert (camera["messages"], camera["refused"]) == (6, {cause: 6})
    assert said in camera["examples"][cause]

    out = tmp_path / "out.mcap"
    assert main(["bag", "run", str(bag), "--model", str(model), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert f"{IR}: 6 messages, none of them can be read (6 {cause}" in error
    assert said in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bag"], "neither a bag nor scratch files"

    report = tmp_path / "report"
    assert main(["bag", "evaluate", str(bag), "--model", str(model), "--out", str(report)]) == 1
    failed = json.loads((report / "result.json").read_text(encoding="utf-8"))["failed"]
    assert f"6 {cause}" in failed[0]["why"]

    assert main(["calibrate", "registration", str(bag), "--out", str(tmp_path / "rig.yaml")]) == 1
    assert main(["calibrate", "time", str(bag), "--out", str(tmp_path / "rig.yaml")]) == 1
    assert not (tmp_path / "rig.yaml").exists()


# slow: a fully unreadable bag covers the other causes.
@pytest.mark.parametrize(
    ("breaks", "cause", "said"), [BROKEN[0], *(pytest.param(*one, marks=pytest.mark.slow) for one in BROKEN[1:])]
)
def test_lost_camera_is_listed_and_the_other_used(tmp_path, model, capsys, breaks, cause, said):
    bag = broken(tmp_path / "bag", breaks, (IR,), count=20)
    assert main(["bag", "info", str(bag)]) == 0
    out = capsys.readouterr().out
    assert f"! ir: none of its 20 messages can be read: 20 {cause}" in out
    assert "rgb: none" not in out
    assert main(["bag", "run", str(bag), "--model", str(model), "--out", str(tmp_path / "out.mcap")]) == 0
    out = capsys.readouterr().out
    assert f"{RGB}: 20 messages\n" in out
    assert f"{IR}: 20 messages, none of them can be read (20 {cause}" in out
    assert "rgb_only" in out
    report = tmp_path / "report"
    assert main(["bag", "evaluate", str(bag), "--model", str(model), "--out", str(report)]) == 0
    assert f"{IR}: 20 messages, none of them can be read" in capsys.readouterr().out
    camera = json.loads((report / "result.json").read_text(encoding="utf-8"))["bags"][0]["cameras"]["ir"]
    assert (camera["messages"], camera["refused"]) == (20, {cause: 20})


def test_damaged_compressed_images_are_counted_despite_lazy_decoding(tmp_path, model, capsys):
    def damage(row: Row) -> None:
        row.change = (("data", row.message().data[:40]),)

    bag = broken(tmp_path / "bag", damage, (RGB,), form="png")
    assert main(["bag", "info", str(bag)]) == 0
    assert "rgb: none of its 6 messages can be read: 6 corrupt_data" in capsys.readouterr().out
    words = ["bag", "run", str(bag), "--model", str(model), "--out", str(tmp_path / "out.mcap")]
    assert main(words) == 1
    assert "6 messages, none of them can be read (6 corrupt_data" in capsys.readouterr().err


def test_partly_lost_messages_are_counted_in_every_command(tmp_path, model, capsys):
    rows = pairs(6)
    cut_message(next(row for row in rows if row.topic == RGB))
    odd_step([row for row in rows if row.topic == RGB][3])
    bag = record(tmp_path / "bag", rows)
    assert main(["bag", "info", str(bag)]) == 0
    assert "! rgb: messages that cannot be read: 1 bad_message" in capsys.readouterr().out
    assert main(["bag", "run", str(bag), "--model", str(model), "--out", str(tmp_path / "out.mcap")]) == 0
    assert "6 messages, 2 of them cannot be read (1 bad_message: " in (out := capsys.readouterr().out)
    assert "1 rgb_bad_message" in out


def test_only_failing_captures_write_nothing(tmp_path, model, capsys):
    rows = pairs(4)
    for row in rows:
        if row.topic == RGB:
            row.pixels[0, 0] = (0, 255, 0)  # makes the blob model fail
    bag = record(tmp_path / "bag", rows)
    assert main(["bag", "run", str(bag), "--model", str(model), "--out", str(tmp_path / "out.mcap")]) == 1
    assert "no result" in (error := capsys.readouterr().err)
    assert "4 inference_failed" in error
    assert "a capture failed: " in error
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


def test_cameras_with_unknown_topic_names_are_listed_as_unreadable(tmp_path, capsys):
    rows = pairs(3)
    for row in rows:
        row.topic = "/left" if row.topic == RGB else "/right"
        cut_message(row)
    assert main(["bag", "info", str(record(tmp_path / "bag", rows))]) == 1
    assert "/left: 3 messages, none of them can be read (3 bad_message" in capsys.readouterr().out


def test_empty_bag_fails(tmp_path, capsys):
    from spectradino_core.bags.writer import BagWriter

    with BagWriter(tmp_path / "bag") as writer:
        writer.add(RGB, "sensor_msgs/msg/Image")
    assert main(["bag", "info", str(tmp_path / "bag")]) == 1
    assert "no problems" not in capsys.readouterr().out


def test_single_camera_is_described_with_what_is_missing(tmp_path, capsys):
    for key, topic in (("rgb", RGB), ("ir", IR)):
        bag = record(tmp_path / key, [row for row in pairs(4) if row.topic == topic])
        assert main(["bag", "info", str(bag)]) == 0
        out = capsys.readouterr().out
        assert f"{key}: {topic}" in out
        assert "4 messages, 0 refused" in out
        assert "! " in out
        assert "no cameras" not in out


def test_info_of_annotated_bag_is_consistent(tmp_path, model, capsys):
    bag = record(tmp_path / "bag", pairs(4))
    for name, more in (("alone", []), ("both", ["--copy-images"])):
        out = tmp_path / name
        assert main(["bag", "run", str(bag), "--model", str(model), "--out", str(out), *more]) == 0
        capsys.readouterr()
        assert main(["bag", "info", str(out)]) == 0
        said = capsys.readouterr().out
        assert ("no problems found" in said) == bool(more)
        assert ("no cameras: it holds what the node publishes (4 frame reports)" in said) != bool(more)
        assert ("between the first and the last image" in said) == bool(more)
        assert "--rgb-topic" not in said


def test_bad_headers_are_counted_without_decoding(tmp_path):
    """The reader itself counts them, whatever its caller does with the frames."""
    rows = pairs(3)
    cut_message(rows[1])
    with BagReader(record(tmp_path / "bag", rows)) as reader:
        for _ in range(2):
            assert sum(1 for _ in reader.frames()) == 5
            assert reader.messages_of["ir"].messages == 3
            assert reader.messages_of["ir"].refused == {"bad_message": 1}
