"""Search for bags to evaluate: each gets a unique name and folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from spectradino_core.bags.evaluate import _folders, find_bags
from tests.core.bags.recordings import Recording


def test_bags_that_differ_only_by_their_ending_are_both_found(tmp_path: Path) -> None:
    """`drive.mcap` beside a folder `drive`, as after 'ros2 bag convert': the second took the first one's place."""
    for path in ("a/drive/drive.db3", "a/drive/metadata.yaml", "a/drive.mcap", "x__y/z.mcap", "x/y__z.mcap"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    both = [tmp_path / "a" / "drive", tmp_path / "a" / "drive.mcap"]
    assert find_bags(both) == {"drive": both[0], "drive.mcap": both[1]}
    # and no two write into one folder
    assert list(_folders(["x/y__z", "x__y/z"]).values()) == ["x__y__z", "x__y__z~2"]


def test_bags_are_found_and_named(tmp_path: Path) -> None:
    recording = Recording(1)
    for name in ("a/drive", "b/drive", "b/other"):
        recording.write(tmp_path / name)
    shutil.copy(tmp_path / "a/drive/drive.mcap", tmp_path / "lone.mcap")
    (tmp_path / "list.txt").write_text("# two\na/drive\n\nlone.mcap\n")
    assert list(find_bags([tmp_path / "b", tmp_path / "lone.mcap"])) == ["drive", "lone", "other"]
    assert list(find_bags([tmp_path / "a", tmp_path / "b"])) == ["a/drive", "b/drive", "b/other"]
    assert list(find_bags([tmp_path / "list.txt"])) == ["drive", "lone"]
    assert find_bags([tmp_path / "none"]) == {"none": tmp_path / "none"}
    with pytest.raises(ValueError, match="given twice"):
        find_bags([tmp_path / "b", tmp_path / "b/drive"])
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="lists no bags"):
        find_bags([tmp_path / "empty.txt"])
