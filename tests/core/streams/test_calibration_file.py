"""Calibration file: round trip, and errors that name file and entry."""

from __future__ import annotations

import pytest
import yaml

from spectradino_core.calibration.registration import Registration, RegistrationError
from spectradino_core.streams.calibration_file import Calibration, load_calibration, save_calibration

MATRIX = (1.6, 0.03, 90.0, -0.02, 1.62, 70.0, 1e-5, -2e-5, 1.0)
GOOD = {
    "spectradino_calibration": 1,
    "ir_to_rgb": [[1.6, 0.03, 90.0], [-0.02, 1.62, 70.0], [1e-5, -2e-5, 1.0]],
    "ir_size": [640, 512],
    "rgb_size": [1280, 1024],
}


def write(path, data) -> str:
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return str(path)


@pytest.mark.parametrize(
    "facts", [{}, {"time_offset_ms": -12.5, "residual_px": 0.75, "made_by": "a person", "notes": "8 m, µm: ü"}]
)
def test_it_is_read_back_as_written(tmp_path, facts):
    path = tmp_path / "rig.yaml"
    registration = Registration(MATRIX, (640, 512), (1280, 1024), str(path))
    calibration = Calibration(registration, **facts)
    save_calibration(path, calibration)
    assert load_calibration(path) == calibration
    assert "ir_to_rgb:\n- [1.6, 0.03, 90.0]\n" in path.read_text()  # for people too


def test_a_file_written_by_hand(tmp_path):
    text = """
        spectradino_calibration: 1
        ir_to_rgb: [2, 0, 10, 0, 2, 0, 0, 0, 1]
        ir_size: [640, 512]
        rgb_size: [1280, 1024]
        residual_px: 2
    """
    calibration = load_calibration(write(tmp_path / "rig.yaml", text))
    assert calibration.registration.matrix == (2, 0, 10, 0, 2, 0, 0, 0, 1)
    assert (calibration.residual_px, calibration.time_offset_ms) == (2.0, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ir_to_rgb": None}, "ir_to_rgb must be three rows"),
        ({"ir_to_rgb": [[1, 0, 0], [0, 1, 0]]}, "ir_to_rgb must be three rows"),
        ({"ir_to_rgb": [[1, 0, "x"], [0, 1, 0], [0, 0, 1]]}, "ir_to_rgb must be three rows"),
        ({"ir_to_rgb": [[1, 0, 0], [0, 0, 0], [0, 0, 1]]}, "singular"),
        ({"ir_to_rgb": [[1, 0, 9000], [0, 1, 0], [0, 0, 1]]}, "hardly overlap"),
        ({"ir_size": [640]}, "ir_size must be"),
        ({"rgb_size": [1280, -1]}, "rgb_size must be"),
        ({"rgb_size": [True, True]}, "rgb_size must be"),
        ({"time_offset_ms": "soon"}, "time_offset_ms must be a finite number"),
        ({"time_offset_ms": float("nan")}, "time_offset_ms must be a finite number"),
        ({"time_offset_ms": 1e306}, "time_offset_ms must be a finite number from -8.64e"),
        ({"residual_px": -1}, "residual_px"),
        ({"residual_px": 1e300}, "residual_px must be a finite number from 0 to 100000"),
        ({"ir_size": [10**90, 512]}, "ir_size must be .* up to 65536"),
        ({"spectradino_calibration": 2}, "format 2, this version reads format 1: calibrate again"),
        ({"time_ofset_ms": 3}, "unknown entry 'time_ofset_ms', did you mean 'time_offset_ms'"),
    ],
)
def test_a_wrong_entry_is_named_with_the_file(tmp_path, change, words):
    path = write(tmp_path / "rig.yaml", GOOD | change)
    with pytest.raises(RegistrationError, match=f"rig.yaml.*{words}"):
        load_calibration(path)


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_entry_is_named(tmp_path, key):
    path = write(tmp_path / "rig.yaml", {k: v for k, v in GOOD.items() if k != key})
    with pytest.raises(RegistrationError, match=f"entry {key} is missing"):
        load_calibration(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no entries"),
        ("- 1\n- 2\n", "has no entries"),
        ("a: [1, 2\nb: }", "no valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "no valid YAML"),
        ("a: " + "[" * 5000, "deeper nested"),
        ("#" * (1 << 20) + "\na: 1", "is too long"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, text, words):
    with pytest.raises(RegistrationError, match=words):
        load_calibration(write(tmp_path / "rig.yaml", text))


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path):
    (tmp_path / "rig.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(RegistrationError, match="is not UTF-8 text"):
        load_calibration(tmp_path / "rig.yaml")
    with pytest.raises(RegistrationError, match="nowhere.yaml does not exist"):
        load_calibration(tmp_path / "nowhere.yaml")
    with pytest.raises(RegistrationError, match="is a folder, not a regular file"):
        load_calibration(tmp_path)


def test_sizes_are_needed_to_save(tmp_path):
    with pytest.raises(RegistrationError, match="sizes of both images"):
        save_calibration(tmp_path / "rig.yaml", Calibration(Registration(MATRIX)))


def test_a_time_offset_alone(tmp_path):
    path = tmp_path / "clock.yaml"
    save_calibration(path, Calibration(time_offset_ms=12.5, notes="clocks only"))
    assert load_calibration(path) == Calibration(time_offset_ms=12.5, notes="clocks only")
    data = yaml.safe_load(path.read_text())
    with pytest.raises(RegistrationError, match="entry ir_to_rgb and ir_size is missing"):
        load_calibration(write(path, data | {"rgb_size": [640, 512]}))
    with pytest.raises(RegistrationError, match="entry ir_to_rgb and ir_size and rgb_size is missing"):
        load_calibration(write(path, {"spectradino_calibration": 1}))


def test_nothing_to_write(tmp_path):
    with pytest.raises(RegistrationError, match="needs a homography, a time offset or both: give one"):
        save_calibration(tmp_path / "rig.yaml", Calibration(notes="nothing"))
    with pytest.raises(RegistrationError, match="residual belongs to a homography"):
        save_calibration(tmp_path / "rig.yaml", Calibration(time_offset_ms=1.0, residual_px=1.0))
    assert list(tmp_path.iterdir()) == []
