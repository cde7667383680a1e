"""YOLO text: decimal commas, key points and polygons, and lists of class names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from spectradino_core.data.labels import LabelError
from spectradino_core.data.labels.yolo import read_yolo, read_yolo_names

BOX = "0 0.5 0.5 0.2 0.4"
CORNERS = (40.0, 30.0, 60.0, 70.0)


def corners(tmp_path: Path, line: str, yaml: str = "") -> tuple[float, ...]:
    (tmp_path / "data.yaml").write_text(f"names: [car]\n{yaml}")
    (tmp_path / "0.txt").write_text(line)
    (one,) = read_yolo(tmp_path / "0.txt", read_yolo_names(tmp_path / "data.yaml"), (100, 100)).objects
    return tuple(round(value, 3) for value in one.corners)


@pytest.mark.parametrize(
    "line",
    [
        "0 0,5 0,5 0,2 0,4",
        "0\t0,5\t0,5\t0,2\t0,4\t0,9",
        "0;0,5;0,5;0,2;0,4",
        "0,0.5,0.5,0.2,0.4",
        "0, 0.5, 0.5, 0.2, 0.4,",
        "0 , 0.5 ,0.5 0.2; 0.4",
        "0 0,4 0,3 0,6 0,3 0,6 0,7",
    ],
)
def test_separators_and_decimal_commas(tmp_path: Path, line: str) -> None:
    assert corners(tmp_path, line) == CORNERS


@pytest.mark.parametrize("line", ["0 0.5,0.5 0.2,0.4", "0 0.5,0.5 0.2 0.4 0.1", "0 0,5 0,5"])
def test_mixed_separators_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(LabelError, match="0.txt, line 1: .* is not an object"):
        corners(tmp_path, line)


def test_a_box_with_score_and_track_is_no_triangle(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"0.txt, line 1: .* its score and the number of its track: remove"):
        corners(tmp_path, f"{BOX} 0.91 7")


@pytest.mark.parametrize("shape", ["[-1, 3]", "'17'", "{17: 3}", "[yes]", "[1.5]"])
def test_a_damaged_kpt_shape_is_refused(tmp_path: Path, shape: str) -> None:
    with pytest.raises(LabelError, match="data.yaml: holds a damaged kpt_shape: give a list such as"):
        corners(tmp_path, BOX, f"kpt_shape: {shape}")


def test_declared_polygons_may_end_at_the_edge(tmp_path: Path) -> None:
    assert corners(tmp_path, "0 0.5 0.5 0.4 1 0.6 1", "kpt_shape: []") == (40.0, 50.0, 60.0, 100.0)


@pytest.mark.parametrize(
    ("shape", "points"), [("[3, 2]", " 0.5 0.4" * 3), ("[17, 3]", " 0 0 0" * 17), ("[1, 2]", " 0.9 0.9")]
)
def test_key_points_are_not_polygons(tmp_path: Path, shape: str, points: str) -> None:
    assert corners(tmp_path, BOX + points, f"kpt_shape: {shape}") == CORNERS
    with pytest.raises(LabelError, match="values of key points, as kpt_shape states"):
        corners(tmp_path, f"{BOX}{points} 0.5 0.5", f"kpt_shape: {shape}")


@pytest.mark.parametrize(
    ("line", "may_be_key_points"),
    [
        (BOX + " 0.5 0.6 0.45 0.35", True),
        (BOX + " 0.5 0.6 2 0.45 0.35 1 0 0 0 0.5 0.5 2", True),
        (BOX + " 0.7 0.6 0.45 0.35", False),
        ("0 0.8 0.8 0.9 0.8 0.9 0.9", False),
    ],
)
def test_lines_that_may_hold_key_points_are_counted(tmp_path: Path, line: str, may_be_key_points: bool) -> None:
    (tmp_path / "0.txt").write_text(line)
    shapes: Counter[tuple[int, bool]] = Counter()
    read_yolo(tmp_path / "0.txt", None, (1, 1), shapes)
    assert shapes == {(len(line.split()), may_be_key_points): 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: person, 1: bike, 1: car}", "has the key '1' twice"),
        ("names: {0: person, 1: bike, '01': car}", "names class 1 twice"),
        ("names: {on: person}", "the name of class 1 means true or false in YAML: write it in quotes"),
        ("names: [car]\nkpt_shape: 17", "a damaged kpt_shape"),
        ("names: [on, off]", "the name of class 0 means true or false in YAML: write it in quotes"),
    ],
)
def test_doubtful_names_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(LabelError, match=f"data.yaml.*{message}"):
        read_yolo_names(tmp_path / "data.yaml")
