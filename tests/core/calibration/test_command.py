"""`spectradino calibrate` on a synthetic recording with ground truth, from bag to node, and its refusals."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from spectradino_core.bags.make import CameraSchedule, MakeOptions, make_bag
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.sources import SceneViews
from spectradino_core.calibration.estimation.recordings import is_by_arrival
from spectradino_core.calibration.registration import Registration
from spectradino_core.cli import main
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.streams.calibration_file import Calibration, load_calibration, save_calibration
from spectradino_core.streams.registering import Registering
from spectradino_core.streams.settings import Settings
from tests.blob_model import make_blob_model
from tests.core.bags.recorded import IR, RGB, Row, record
from tests.core.calibration.drawings import distance, drawing, seen_through
from tests.core.streams.scene import START_MS, shots

TRUE = (1.2, 0.012, 4.0, -0.01, 1.19, 5.0, 1e-5, -1e-5, 1.0)
SIZE, IR_SIZE = (320, 256), (256, 208)
OFFSET_MS = 37.0
TOLERANCE_MS = 3.0


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Record a scene, RGB at 15 Hz and IR at 9 Hz with a clock that is ahead."""
    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    source = SceneViews(3, size=SIZE, ir_size=IR_SIZE, ir_to_rgb=TRUE)
    options = MakeOptions(CameraSchedule(15.0), CameraSchedule(9.0, offset_ms=OFFSET_MS), duration_s=10.0)
    make_bag(source, path, options)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Write pairs that differ only by a homography."""
    root = tmp_path_factory.mktemp("pairs")
    (root / "rgb").mkdir()
    (root / "lwir").mkdir()
    for seed in (0, 1):
        rgb, infrared = drawing(seed, SIZE)
        thermal = seen_through(infrared, np.reshape(TRUE, (3, 3)), IR_SIZE)
        cv2.imwrite(str(root / f"rgb/{seed}.png"), rgb[..., ::-1])
        cv2.imwrite(str(root / f"lwir/{seed}.png"), thermal)
    return root


@pytest.mark.slow  # that from a bag covers the command
def test_registration_from_folder_is_usable_by_the_pipeline(folder, tmp_path, capsys):
    out = tmp_path / "rig.yaml"
    assert main(["calibrate", "registration", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "held-out patches from 2 pairs agree" in said
    assert "residual" in said
    calibration = load_calibration(out)
    assert calibration.registration is not None
    assert distance(np.reshape(calibration.registration.matrix, (3, 3)), np.reshape(TRUE, (3, 3)), IR_SIZE) < 1.0
    assert (calibration.registration.ir_size, calibration.registration.rgb_size) == (IR_SIZE, SIZE)
    assert calibration.residual_px is not None
    assert calibration.made_by.startswith("spectradino calibrate")

    image = cv2.imread(str(out.with_suffix(".png")))
    assert image is not None
    assert image.shape[1] == 2 * SIZE[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rig.png", "rig.yaml"]  # no scratch files

    pipeline = Pipeline.open(make_blob_model(tmp_path / "blob.onnx"), registration=calibration.registration)
    pipeline(np.zeros((*SIZE[::-1], 3), np.uint8), np.zeros(IR_SIZE[::-1], np.uint8))


@pytest.mark.slow
def test_incomparable_clocks_are_calibrated_by_recording_time(tmp_path, capsys):
    """IR frames are recorded 60 ms later than RGB frames of the same moment; their clock has another epoch."""
    rows = []
    for shot in shots(seconds=12, rates=(15.0, 9.0), delays_ms=(20.0, 80.0), start_ms=(START_MS, 4_211_000.0)):
        topic = RGB if shot.stream == "rgb" else IR
        rows.append(Row(topic, shot.stamp_ns, START_MS * 1_000_000 + shot.arrival_ns, shot.look()))
    bag = record(tmp_path / "bag", rows)
    with BagReader(bag) as reader:
        assert is_by_arrival(reader, "auto")
        assert not is_by_arrival(reader, "stamp")
    out = tmp_path / "rig.yaml"
    assert main(["calibrate", "time", str(bag), "--out", str(out)]) == 0
    assert "recording times" in capsys.readouterr().out
    assert load_calibration(out).time_offset_ms == pytest.approx(60, abs=6)
    assert main(["calibrate", "time", str(bag), "--pair-by", "stamp"]) != 0


@pytest.mark.slow
def test_existing_calibration_is_not_overwritten(folder, tmp_path, capsys):
    out = tmp_path / "rig.yaml"
    command = ["calibrate", "registration", str(folder), "--limit", "1", "--out", str(out)]
    out.write_text("precious: true\n")
    assert main(command) == 1
    assert "already exists" in capsys.readouterr().err
    assert main([*command, "--add"]) == 1  # not a calibration file
    assert out.read_text() == "precious: true\n"
    assert list(tmp_path.iterdir()) == [out]

    save_calibration(out, Calibration(time_offset_ms=-8.0, notes="outdoors; time: old.mcap"))
    assert main([*command, "--add"]) == 0
    first = load_calibration(out)
    assert first.time_offset_ms == -8.0
    assert first.registration is not None
    assert first.notes.startswith("outdoors; time: old.mcap; registration: ")
    before = out.read_bytes()
    assert main([*command, "--add"]) == 1
    assert "already contains a homography" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*command, "--add", "--overwrite"]) == 0
    assert load_calibration(out).notes.count("registration:") == 1
    assert main([*command, "--overwrite"]) == 0
    assert load_calibration(out).time_offset_ms is None


@pytest.mark.slow
def test_rejected_fit_writes_nothing_and_reports_why(tmp_path, capsys):
    root = tmp_path / "pairs"
    for name in ("rgb", "lwir"):
        (root / name).mkdir(parents=True)
    cv2.imwrite(str(root / "rgb/a.png"), drawing(1, SIZE)[0])
    cv2.imwrite(str(root / "lwir/a.png"), seen_through(drawing(2, SIZE)[1], np.reshape(TRUE, (3, 3)), IR_SIZE))
    out = tmp_path / "rig.yaml"
    assert main(["calibrate", "registration", str(root), "--out", str(out)]) == 1
    assert "spectradino calibrate registration: error: " in capsys.readouterr().err
    assert not out.exists()
    assert not out.with_suffix(".png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["registration", "{tmp}"], "a folder of pairs must contain one of rgb"),
        (["registration", "{tmp}/nowhere"], "nowhere"),
        (["registration", "{tmp}", "--scale", "2", "1"], "--scale must be two numbers"),
        (["registration", "{tmp}", "--add"], "--add needs the file"),
        (["registration", "{tmp}", "--overwrite"], "--overwrite has no effect without --out or --checkerboard"),
        (["registration", "{tmp}", "--rgb-topic", "/rgb"], "--rgb-topic has no effect on a folder of images"),
        (["time", "{tmp}", "--overwrite"], "--overwrite has no effect without --out"),
        (["time", "{tmp}/nowhere"], "nowhere"),
    ],
)
def test_invalid_usage_is_reported_without_traceback(words, said, tmp_path, capsys):
    assert main(["calibrate", *(word.format(tmp=tmp_path) for word in words)]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_calibration_from_bag_is_readable_by_the_node(recording, tmp_path, capsys):
    out = tmp_path / "rig.yaml"
    assert main(["calibrate", "registration", str(recording), "--out", str(out), "--limit", "6"]) == 0
    assert main(["calibrate", "time", str(recording), "--out", str(out), "--add"]) == 0
    assert "confidence" in capsys.readouterr().out
    found, true = load_calibration(out), load_calibration(recording.with_suffix("").with_name("drive.calibration.yaml"))
    assert found.registration is not None
    assert true.registration is not None
    matrices = [np.reshape(c.registration.matrix, (3, 3)) for c in (found, true)]
    assert distance(*matrices, IR_SIZE) < 1.0
    assert found.time_offset_ms == pytest.approx(OFFSET_MS, abs=TOLERANCE_MS)

    registering = Registering(Settings(calibration_file=str(out)))
    assert isinstance(registering.current, Registration)
    assert registering.time_offset_ms == found.time_offset_ms
    assert registering.residual_px == found.residual_px


@pytest.mark.slow
def test_time_offset_without_registration(recording, tmp_path, capsys):
    out = tmp_path / "clock.yaml"
    assert main(["calibrate", "time", str(recording), "--out", str(out)]) == 0
    assert "registration estimated on the fly" in capsys.readouterr().out
    assert set(yaml.safe_load(out.read_text())) == {"spectradino_calibration", "time_offset_ms", "made_by", "notes"}
    registering = Registering(Settings(calibration_file=str(out)))
    assert registering.current is None
    assert registering.time_offset_ms == pytest.approx(OFFSET_MS, abs=TOLERANCE_MS)
