"""Reading of YOLO text files, one object per line, `class cx cy w h` in fractions of the image, and of class names.

Polygons (`class x1 y1 x2 y2 x3 y3 ..`, for segmentation and oriented boxes) are read as their bounding boxes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spectradino_core.data.labels.files import read_text
from spectradino_core.data.labels.objects import ImageLabels, LabelError, LabelledObject
from spectradino_core.files import FileError, parse_yaml
from spectradino_core.text import printable

_MAX_CLASSES = 10_000
_SPLIT = re.compile(r"[\s,;]+")


def read_yolo(path: Path, names: Mapping[int, str] | None, size: tuple[int, int]) -> ImageLabels:
    """Read the objects of an image of (width, height) pixels; an empty file means an image without objects.

    Without `names`, numbers are the names.

    Raises:
        LabelError: a line is not an object, or its class has no name; names file and line.
    """
    notes: Counter[str] = Counter()
    found = []
    scale = np.array(size, np.float64)
    for number, line in enumerate(read_text(path, "VOC label file", notes).splitlines(), 1):
        words = _SPLIT.split(line.strip(" \t\r,;"))
        if words == [""]:
            continue
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            values = np.zeros(0)
        polygon = len(values) >= 7 and len(values) % 2 == 1
        if not (polygon or len(values) in (5, 6)) or not np.isfinite(values).all() or values[0] % 1:
            raise LabelError(
                f"{path}, line {number}: {line.strip()[:80]!r} is not an object 'class cx cy width height' of YOLO: "
                "correct the line, or convert the labels to YOLO, COCO or VOC"
            )
        label = int(values[0])
        if names is not None and label not in names:
            raise LabelError(
                f"{path}, line {number}: class {label} has no name: add it to the {len(names)} names in data.yaml or "
                "classes.txt"
            )
        if polygon:
            points = values[1:].reshape(-1, 2) * scale
            first, last = points.min(axis=0), points.max(axis=0)
        else:
            centre, extent = values[1:3] * scale, values[3:5] * scale
            first, last = centre - extent / 2, centre + extent / 2
        corners = (float(first[0]), float(first[1]), float(last[0]), float(last[1]))
        if not np.isfinite(corners).all():
            raise LabelError(f"{path}, line {number}: {line.strip()[:80]!r} is not a box: its numbers are too large")
        found.append(LabelledObject(str(label) if names is None else names[label], corners))
    return ImageLabels(found, notes)


def read_yolo_names(path: Path) -> dict[int, str]:
    """Read class names by number from a YAML file (`names: [..]` or `names: {0: ..}`) or a list, one per line.

    Raises:
        LabelError: the file can't be read, or holds no names or an empty name.
    """
    text = read_text(path, "list of names", Counter())
    if path.suffix.lower() not in (".yaml", ".yml"):
        lines = [line.strip() for line in text.splitlines()]
        names = dict(enumerate(lines[: len(lines) - next((n for n, x in enumerate(lines[::-1]) if x), len(lines))]))
    else:
        names = _of_yaml(path, text)
    if not names or len(names) > _MAX_CLASSES:
        raise LabelError(f"{path}: holds no names of classes, or more than {_MAX_CLASSES}")
    if empty := [number for number, name in names.items() if not name]:
        raise LabelError(f"{path}: the name of class {empty[0]} is empty: write it, or remove the empty line")
    return names


def _of_yaml(path: Path, text: str) -> dict[int, str]:
    try:
        data = parse_yaml(text, f"list of names {printable(str(path))}")
        stored = data["names"]
        pairs = enumerate(stored) if isinstance(stored, list) else stored.items()
        return {int(number): _scalar(name) for number, name in pairs}
    except FileError as error:
        raise LabelError(str(error)) from None
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise LabelError(f"{path}: holds no 'names' of classes ({type(error).__name__})") from None


def _scalar(name: object) -> str:
    if not isinstance(name, str | int | float):
        raise TypeError("a name is text")  # str() of nested YAML aliases could grow without bound
    return str(name).strip()
