"""`spectradino bag make | info | run` end to end."""

from __future__ import annotations

import json

import pytest

from spectradino_core.bags.reader import BagReader
from spectradino_core.cli import main
from tests.blob_model import make_blob_model
from tests.core.bags.recorded import RGB, Row, pairs, record, red

pytestmark = pytest.mark.usefixtures("undrawn")

MAKE = [
    "bag",
    "make",
    "--duration",
    "0.7",
    "--seed",
    "4",
    "--size",
    "112x84",
    "--rgb-rate",
    "10",
    "--ir-rate",
    "5",
]


def test_recording_is_made_inspected_and_annotated(tmp_path, capsys):
    recording, out = tmp_path / "drive.mcap", tmp_path / "annotated.mcap"
    assert main([*MAKE, "--out", str(recording), "--ir-time-offset-ms", "37", "--rgb-format", "jpeg"]) == 0
    assert "7 RGB and 4 IR frames" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drive.calibration.yaml", "drive.coco.json", "drive.mcap"]

    assert main(["bag", "info", str(recording)]) == 0
    said = capsys.readouterr().out
    for words in (
        "/rgb/image_raw/compressed",
        "112x84",
        "10.00 Hz",
        "5.00 Hz",
        "ir is stamped +37.0 ms",
        "no problems",
    ):
        assert words in said
    assert main(["bag", "info", str(recording), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cameras"]["ir"]["frames"] == 4

    model = make_blob_model(tmp_path / "blob.onnx", (112, 84))
    words = ["bag", "run", str(recording), "--model", str(model), "--out", str(out)]
    assert main([*words, "--calibration-file", str(tmp_path / "drive.calibration.yaml"), "--no-overlay"]) == 0
    assert "results: 7 fused" in capsys.readouterr().out, "an IR frame serves two RGB frames"
    with BagReader(out, cameras=False) as reader:
        assert len(list(reader.messages("/detector_node/detections"))) == 7
        reports = [stored.message for stored in reader.messages("/detector_node/frame_report")]
        assert [report.ir_reused for report in reports].count(True) == 3

    assert main(words) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["bag", "info", str(out)]) == 0
    assert "no cameras: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bag", "info", "none"], "does not exist"),
        ([*MAKE, "--out", "x.db3"], "give a folder"),
        ([*MAKE, "--out", "x", "--dropout-ir", "1"], "no frame of the ir camera is left"),
        (["bag", "make", "--data", "nowhere", "--out", "x"], "nowhere"),
        (["bag", "make", "--data", "nowhere", "--out", "x", "--time-of-day", "day"], "for scenes"),
    ],
)
def test_errors_are_one_line_and_write_nothing(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"spectradino {' '.join(words[:2])}: error: ")
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_malformed_arguments_are_wrong_usage(capsys):
    for words in (["--size", "640"], ["--dropout-ir-window", "3-5"]):
        with pytest.raises(SystemExit):
            main([*MAKE, "--out", "x", *words])
    assert "WIDTHxHEIGHT" in (said := capsys.readouterr().err)
    assert "FROM:TO" in said


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_unsupported_encoding_is_named_with_topic_and_remedy(tmp_path, capsys, command):
    """The command fails if no frame gives a result; if the other camera does, the lost one is listed."""
    model = make_blob_model(tmp_path / "blob.onnx", (112, 84))
    for count, status in ((5, 1), (25, 0)):  # IR is used alone once RGB is stale, after a second
        rows = pairs(count)
        for row in rows:
            if row.topic == RGB:
                row.change = (("encoding", "yuv411"),)
        recording = record(tmp_path / f"drive{count}.mcap", rows)
        out = tmp_path / f"out{count}"
        words = ["bag", command, str(recording), "--model", str(model), "--out", str(out)]
        assert main(words) == status
        said = capsys.readouterr()
        for wanted in (RGB, "'yuv411'", "bayer_*8", "convert the topic", '--rgb-topic ""'):
            assert wanted in said.err + said.out
        assert (out / "metadata.yaml").exists() is (command == "run" and status == 0)
    assert main([*words[:-1], str(tmp_path / "infrared"), "--rgb-topic", ""]) == 0, "the remedy works"


def test_info_takes_the_limit_of_large_cameras(tmp_path, capsys):
    large = (1200, 1000)
    rows = [Row(RGB, n * 10**8, n * 10**8, red(n, large), "png") for n in range(3)]
    bag = str(record(tmp_path / "drive.mcap", rows))
    assert main(["bag", "info", bag]) == 0
    capsys.readouterr()
    assert main(["bag", "info", bag, "--max-image-megapixels", "1"]) == 1
    assert "1200x1000 pixels, above the limit of 1 megapixels" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_calibration_file_of_an_unknown_user_is_named(tmp_path, capsys, command):
    bag = record(tmp_path / "drive.mcap", pairs(2))
    model = make_blob_model(tmp_path / "blob.onnx", (112, 84))
    words = ["bag", command, str(bag), "--model", str(model), "--out", str(tmp_path / "out.mcap")]
    assert main([*words, "--calibration-file", "~nosuchuser/rig.yaml"]) == 1
    assert "~nosuchuser/rig.yaml" in capsys.readouterr().err
