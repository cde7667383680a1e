"""Matching of images to the names in label files, and paths that may not leave their root."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.data.labels import ClassNames, LabelError
from spectradino_core.data.labels.files import ImageNames, inside, plain_stem, posix_name

SOURCE = Path("labels.json")


@pytest.mark.parametrize(
    ("listed", "path", "found"),
    [
        ("val/rgb/a.png", "val/rgb/a.png", True),
        ("a.png", "val/rgb/a.png", True),
        ("rgb/a.png", "val/rgb/a.png", True),
        ("home/someone/mini/val/rgb/a.png", "val/rgb/a.png", True),
        ("A.PNG", "rgb/a.png", True),
        ("a.jpg", "rgb/a.png", True),
        ("a_png.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg", "rgb/a.png", True),
        ("a.png", "rgb/a_png_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg", True),
        ("images/a.png", "val/rgb/a.png", False),
        ("a.png", "rgb/aa.png", False),
        ("seq1/a.png", "seq2/a.png", False),
    ],
)
def test_an_image_is_found_by_its_name(listed: str, path: str, found: bool) -> None:
    assert ImageNames([(posix_name(listed), 5), ("other/b.png", 6)], SOURCE).find(path) == (5 if found else None)


def test_a_name_that_several_have_means_none() -> None:
    names = ImageNames([("seq1/a.png", 1), ("seq2/a.png", 2), ("c.png", 3), ("c.jpg", 4)], SOURCE)
    assert names.find("a.png") is None
    assert names.find("deep/seq2/a.png") == 2
    assert names.find("rgb/c.jpg") == 4
    assert names.find("rgb/c.bmp") is None
    nested = ImageNames([("a.png", 1), ("seq1/a.png", 2)], SOURCE)
    assert [nested.find(path) for path in ("rgb/a.png", "rgb/seq1/a.png")] == [1, 2]
    with pytest.raises(LabelError, match=r"labels.json: lists the image 'a.png' twice"):
        ImageNames([("a.png", 1), ("a.png", 2)], SOURCE)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("street_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg", "street"),
        ("x/street_png_jpg.rf.AbCdEf0123.jpg", "street"),
        ("street.rf.0a1b2c3d4e.xml", "street"),
        ("frame.0001.png", "frame.0001"),
        ("street_jpg.jpg", "street_jpg"),
        (".rf.0a1b2c3d4e.jpg", ".rf.0a1b2c3d4e"),
        ("a1b2c3d0-1699999990.123456.txt", "1699999990.123456"),
        ("20240112-12_103000.txt", "20240112-12_103000"),
    ],
)
def test_renaming_by_tools_is_undone(name: str, stem: str) -> None:
    assert plain_stem(name) == stem


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_written_path_leaves_its_root(text: str) -> None:
    root = Path("/data/set")
    try:
        path = inside(root, text, SOURCE)
    except LabelError:
        return
    assert ".." not in path.parts
    assert path.parts[: len(root.parts)] == root.parts


@pytest.mark.parametrize("text", ["a/../b.png", "./b.png", "a\\..\\b.png", "x//../b.png"])
def test_paths_within_the_root_are_made_plain(text: str) -> None:
    assert inside(Path("/data"), text, SOURCE) == Path("/data/b.png")


def test_a_class_goes_by_its_own_name_before_an_alias() -> None:
    names = ClassNames(("bike", "bicycle", "people"))
    assert [names(n) for n in ("Bike", "bicycle", "pedestrian", "person", "van")] == [0, 1, 2, 2, None]
    assert names.unknown == {"van": 1}
    assert ClassNames.table_of(["Bike", "bicycle", "Dog", "dog", "pedestrian"]) == ("bicycle", "Dog", "person")
