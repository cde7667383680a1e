"""Arbitrary label files are read or refused with an error that names the file; nothing else is raised."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectradino_core.data.images import ImageFileError
from spectradino_core.data.labels import LabelError, boxes_of
from spectradino_core.data.labels.coco import coco_of, read_coco
from spectradino_core.data.labels.masks import read_mask
from spectradino_core.data.labels.voc import read_voc
from spectradino_core.data.labels.yolo import read_yolo, read_yolo_names
from tests.core.data.labels.test_readers import indexed_png
from tests.core.datasets.miniatures import voc_xml
from tests.examples import examples

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
IMAGES = st.fixed_dictionaries(
    {"id": st.integers(0, 3) | SCALARS, "file_name": st.sampled_from(["a.png", "b\\c.png", ""]) | VALUES},
    optional={"width": st.just(32) | VALUES, "height": st.just(24) | VALUES},
)
ANNOTATIONS = st.fixed_dictionaries(
    {
        "image_id": st.integers(0, 3) | SCALARS,
        "category_id": st.just(1) | SCALARS,
        "bbox": st.lists(st.floats(), max_size=5) | VALUES,
    },
    optional={"iscrowd": VALUES, "ignore": VALUES, "id": VALUES},
)
CATEGORIES = st.fixed_dictionaries({"id": st.just(1) | SCALARS, "name": st.just("car") | VALUES})
FILES = VALUES | st.fixed_dictionaries(
    {
        "images": st.lists(IMAGES | VALUES, max_size=4),
        "annotations": st.lists(ANNOTATIONS | VALUES, max_size=4),
        "categories": st.lists(CATEGORIES | VALUES, max_size=2),
    }
)


def named(path: Path, error: Exception) -> None:
    assert path.name in str(error)


@given(FILES)
@settings(max_examples=examples(300), deadline=None)
def test_coco(data: Any) -> None:
    path = Path("labels.json")
    try:
        file = coco_of(path, data, Counter())
        file.by_name()
    except LabelError as error:
        named(path, error)
        return
    for image in file.images:
        found = boxes_of(image.labels, ("car",), image.size)
        assert np.isfinite(found.corners).all()
        assert (found.corners[:, 2:] > found.corners[:, :2]).all()


@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(150), deadline=None)
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "some.txt"
    path.write_bytes(data)
    for read in (
        read_coco,
        read_voc,
        lambda file: read_yolo(file, {0: "car"}, (32, 24)),
        read_yolo_names,
        read_mask,
    ):
        try:
            read(path)
        except (LabelError, ImageFileError) as error:
            named(path, error)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(150), deadline=None)
def test_files_that_were_changed_by_accident(tmp_path: Path, data: st.DataObject) -> None:
    """A valid file with a few changed bytes, or truncated."""
    indexed_png(
        tmp_path / "m.png",
        np.arange(48, dtype=np.uint8).reshape(6, 8) % 5,
        np.random.default_rng(0).integers(0, 256, (256, 3)),
    )
    sound = {
        "m.png": ((tmp_path / "m.png").read_bytes(), read_mask),
        "a.xml": (voc_xml([("car", (1, 2, 3, 4))]).encode(), read_voc),
        "a.json": (
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 24}],
                    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": "0"}],
                    "categories": [{"id": 1, "name": "car"}],
                }
            ).encode(),
            read_coco,
        ),
        "a.txt": (
            b"0 0.5 0.5 0.1 0.1\r\n0 0.1 0.1 0.2 0.1 0.2 0.2\n",
            lambda file: read_yolo(file, {0: "car"}, (32, 24)),
        ),
    }
    name = data.draw(st.sampled_from(sorted(sound)))
    content, read = sound[name]
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(0, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / name
    path.write_bytes(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    try:
        read(path)  # type: ignore[operator]
    except (LabelError, ImageFileError) as error:
        named(path, error)


def test_a_mask_of_a_huge_size_is_no_mask(tmp_path: Path) -> None:
    indexed_png(tmp_path / "m.png", np.zeros((2, 2), np.uint8), np.zeros((256, 3)))
    data = bytearray((tmp_path / "m.png").read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "m.png").write_bytes(bytes(data))
    with pytest.raises((LabelError, ImageFileError), match=r"m\.png"):
        read_mask(tmp_path / "m.png")
    assert cv2.__version__
