"""Reading of YOLO text files, one object per line, `class cx cy w h` in fractions of the image, and of class names.

Polygons (`class x1 y1 x2 y2 x3 y3 ..`, for segmentation and oriented boxes) are read as their bounding boxes.
"""

from __future__ import annotations

import math
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
_SPLIT = re.compile(r"\s*;\s*|\s+,\s*|,\s+|\s+")
"""Separators, with which a comma within a word is a decimal comma."""

_TOLERANCE = 0.01


class YoloNames(dict[int, str]):
    """Class names by number.

    Attributes:
        key_points: number of values of an object's key points; 0: objects are polygons; None: not stated.
    """

    key_points: int | None = None


def read_yolo(
    path: Path, names: Mapping[int, str] | None, size: tuple[int, int], shapes: Counter[tuple[int, bool]] | None = None
) -> ImageLabels:
    """Read the objects of an image of (width, height) pixels; an empty file means an image without objects.

    Args:
        path: the file.
        names: names of the classes; None: numbers are the names.
        size: (width, height).
        shapes: gets the number of lines longer than a box by (length, whether they may be a box and its key points),
            if `names` does not state what they are.

    Raises:
        LabelError: a line is not an object, or its class has no name; names file and line.
    """
    notes: Counter[str] = Counter()
    found = []
    scale = np.array(size, np.float64)
    key_points = names.key_points if isinstance(names, YoloNames) else None
    for number, line in enumerate(read_text(path, "YOLO label file", notes).splitlines(), 1):
        text = line.strip(" \t\r,;")
        if not text:
            continue
        where = f"{path}, line {number}"
        shown = f"{where}: {line.strip()[:80]!r}"
        words = _SPLIT.split(text)
        words = text.split(",") if len(words) == 1 else [word.replace(",", ".") for word in words]
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            values = np.zeros(0)
        is_box = len(values) in ((5, 6, 5 + key_points, 6 + key_points) if key_points else (5, 6))
        is_polygon = not key_points and len(values) >= 7 and len(values) % 2 == 1
        if not (is_polygon or is_box) or not np.isfinite(values).all() or values[0] % 1:
            stated = f" with {key_points} values of key points, as kpt_shape states," if key_points else ""
            raise LabelError(
                f"{shown} is not an object 'class cx cy width height'{stated} of YOLO: correct the line, or convert "
                "the labels to YOLO, COCO or VOC"
            )
        label = int(values[0])
        if names is not None and label not in names:
            raise LabelError(
                f"{where}: class {label} has no name: add it to the {len(names)} names in data.yaml or classes.txt"
            )
        has_track = key_points is None and len(values) == 7 and values[6] >= 1 and values[6] % 1 == 0
        if is_polygon and has_track and _may_be_key_points(values[:5]):
            raise LabelError(
                f"{shown} seems to be a box with its score and the number of its track: remove these two; if it is a "
                "polygon, add 'kpt_shape: []' to data.yaml"
            )
        if is_polygon:
            if shapes is not None and key_points is None:
                shapes[len(values), _may_be_key_points(values)] += 1
            points = values[1:].reshape(-1, 2) * scale
            first, last = points.min(axis=0), points.max(axis=0)
        else:
            centre, extent = values[1:3] * scale, values[3:5] * scale
            first, last = centre - extent / 2, centre + extent / 2
        corners = (float(first[0]), float(first[1]), float(last[0]), float(last[1]))
        if not np.isfinite(corners).all():
            raise LabelError(f"{shown} is not a box: its numbers are too large")
        found.append(LabelledObject(str(label) if names is None else names[label], corners))
    return ImageLabels(found, notes)


def _may_be_key_points(values: np.ndarray) -> bool:
    """Return whether the values after the class may be a box in the image and points in it (invisible: 0 0)."""
    first, last = values[1:3] - values[3:5] / 2 - _TOLERANCE, values[1:3] + values[3:5] / 2 + _TOLERANCE
    if min(first) < -2 * _TOLERANCE or max(last) > 1 + 2 * _TOLERANCE:
        return False
    rows = [values[5:].reshape(-1, count)[:, :2] for count in (2, 3) if (len(values) - 5) % count == 0]
    return any((((points >= first) & (points <= last)) | (points == 0)).all() for points in rows)


def read_yolo_names(path: Path) -> YoloNames:
    """Read class names by number from a YAML file (`names: [..]` or `names: {0: ..}`) or a list, one per line.

    Raises:
        LabelError: the file can't be read, or holds no names, an empty name or two names of one class.
    """
    text = read_text(path, "list of names", Counter())
    if path.suffix.lower() not in (".yaml", ".yml"):
        lines = [line.strip() for line in text.splitlines()]
        end = len(lines) - next((n for n, x in enumerate(lines[::-1]) if x), len(lines))
        names = YoloNames(enumerate(lines[:end]))
    else:
        names = _of_yaml(path, text)
    if not names or len(names) > _MAX_CLASSES:
        raise LabelError(f"{path}: holds no names of classes, or more than {_MAX_CLASSES}")
    if empty := [number for number, name in names.items() if not name]:
        raise LabelError(f"{path}: the name of class {empty[0]} is empty: write it, or remove the empty line")
    return names


def _of_yaml(path: Path, text: str) -> YoloNames:
    names = YoloNames()
    try:
        data = parse_yaml(text, f"list of names {printable(str(path))}")
        stored = data["names"]
        for key, name in enumerate(stored) if isinstance(stored, list) else stored.items():
            number = int(key)
            if bool in (type(key), type(name)):
                raise LabelError(f"{path}: the name of class {number} means true or false in YAML: write it in quotes")
            if number in names:
                raise LabelError(f"{path}: names class {number} twice: keep one of the names")
            names[number] = _scalar(name)
        if "kpt_shape" in data:
            shape = data["kpt_shape"] or []
            if not isinstance(shape, list) or any(type(one) is not int or not 0 < one < _MAX_CLASSES for one in shape):
                raise LabelError(f"{path}: holds a damaged kpt_shape: give a list such as [17, 3], or [] for polygons")
            names.key_points = math.prod(shape[:2]) if shape else 0
    except FileError as error:
        raise LabelError(str(error)) from None
    except LabelError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise LabelError(
            f"{path}: holds no 'names' of classes, or a damaged kpt_shape ({type(error).__name__})"
        ) from None
    return names


def _scalar(name: object) -> str:
    if not isinstance(name, str | int | float):
        raise TypeError("a name is text")  # str() of nested YAML aliases could grow without bound
    return str(name).strip()
