"""Boxes in COCO JSON files, which come from outside: every field is checked, no path leaves the root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.data.benchmarks.boxes import LabelledObject
from spectradino_core.data.benchmarks.files import BenchmarkError
from spectradino_core.files import FileError, read_json

__all__ = ["read_coco"]


def read_coco(path: Path) -> dict[str, list[LabelledObject]]:
    """The objects of every image it lists, by the image's `file_name`; crowds are marked as ignored.

    Raises:
        BenchmarkError: not such a file; names it and the annotation.
    """
    try:
        data = read_json(path, "label file")
    except FileError as error:
        raise BenchmarkError(str(error)) from None
    try:
        names = {one["id"]: str(one["name"]) for one in data["categories"]}
        files = {one["id"]: str(one["file_name"]) for one in data["images"]}
        objects: dict[str, list[LabelledObject]] = {name: [] for name in files.values()}
        annotations = data["annotations"]
    except (KeyError, TypeError) as error:
        raise BenchmarkError(f"{path}: not COCO annotations ({type(error).__name__}: {error})") from None
    if len(objects) != len(data["images"]):
        raise BenchmarkError(f"{path}: lists an image or an id twice")
    for place, one in enumerate(annotations):
        try:
            objects[files[one["image_id"]]].append(_object(one, names))
        except (KeyError, TypeError, ValueError) as error:
            raise BenchmarkError(f"{path}: annotation {place} is damaged ({type(error).__name__}: {error})") from None
    return objects


def _object(one: Any, names: dict[Any, str]) -> LabelledObject:
    x, y, width, height = (float(value) for value in one["bbox"])
    if not np.isfinite((x, y, width, height)).all():
        raise ValueError("bbox is not finite")
    return LabelledObject(names[one["category_id"]], (x, y, x + width, y + height), bool(one.get("iscrowd")))
