"""Reading of COCO JSON files: images, annotations and categories, with every field checked.

Tolerated and counted (see `NOTES`): ids that are text or decimal numbers, crowd flags as text, byte order marks,
Windows paths, file names of Roboflow exports. Boxes are checked later, when the image's size is known.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from spectradino_core.data.labels.files import ImageNames, is_roboflow, posix_name, read_json
from spectradino_core.data.labels.objects import ImageLabels, LabelError, LabelledObject

T = TypeVar("T")

_NUMBER = re.compile(r"(0|-?[1-9]\d{0,30})(\.0*)?")
_NO = frozenset({"", "0", "0.0", "false", "no", "n", "f", "none", "null"})
_YES = frozenset({"1", "1.0", "true", "yes", "y", "t"})


@dataclass
class CocoImage:
    """One image: the stored entry, its `file_name` with forward slashes ("": none), and its size if given.

    Objects marked "iscrowd" or "ignore" are ignored.
    """

    entry: Mapping[str, Any]
    name: str
    size: tuple[int, int] | None
    labels: ImageLabels = field(default_factory=lambda: ImageLabels([]))


@dataclass
class CocoFile:
    """Content of a COCO file: the parsed JSON, images and category names in its order, and `NOTES`."""

    path: Path
    data: Mapping[str, Any]
    images: list[CocoImage]
    classes: tuple[str, ...]
    notes: Counter[str]

    def by_name(self) -> ImageNames[CocoImage]:
        """Return the images by their paths; raises LabelError for an image without file_name, or two with the same."""
        named = []
        for image in self.images:
            if not image.name:
                raise LabelError(f"{self.path}: image {image.entry.get('id')!r} has no file_name")
            names = {posix_name(image.entry[key]) for key in ("file_name", "lwir_file_name") if image.entry.get(key)}
            named += [(name, image) for name in sorted(names)]
        return ImageNames(named, self.path)


def read_coco(path: Path) -> CocoFile:
    """Read a COCO file; raises LabelError that names the file and the damaged entry."""
    notes: Counter[str] = Counter()
    return coco_of(path, read_json(path, notes), notes)


def coco_of(path: Path, data: Any, notes: Counter[str]) -> CocoFile:
    """Parse JSON that was already read; `notes` are those of reading it."""
    parts: dict[str, Any] = (
        {key: data.get(key) for key in ("images", "annotations", "categories")} if isinstance(data, dict) else {}
    )
    missing = [key for key, value in parts.items() if not isinstance(value, list)]
    if not parts or missing:
        what = f": it lacks a list of {' and of '.join(missing)}" if missing else ""
        raise LabelError(f"{path}: not COCO annotations, an object with images, annotations and categories{what}")
    categories: _Ids[str] = _Ids(path, "category", notes)
    for number, one in enumerate(parts["categories"]):
        if not isinstance(one, dict) or not isinstance(one.get("name"), str | int):
            raise LabelError(f"{path}: not COCO annotations: category {number} has no id or no name")
        categories.add(one.get("id"), number, str(one["name"]).strip())
    images: _Ids[CocoImage] = _Ids(path, "image", notes)
    for number, one in enumerate(parts["images"]):
        if not isinstance(one, dict):
            raise LabelError(f"{path}: not COCO annotations: image {number} is {one!r:.80}, not an object")
        name = one.get("file_name")
        image = CocoImage(one, posix_name(name) if name is not None else "", size_of(one))
        image.labels.size = image.size
        notes["renamed"] += is_roboflow(image.name)
        notes["backslashes"] += "\\" in str(name or "")
        images.add(one.get("id"), number, image)
    for number, one in enumerate(parts["annotations"]):
        if not isinstance(one, dict):
            raise LabelError(f"{path}: annotation {number} is {one!r:.80}, not an object")
        which = f"{path}: annotation {one.get('id', number)}"
        image = images.find(one.get("image_id"), which, "image_id")
        name = categories.find(one.get("category_id"), which, "category_id")
        flags = [_flag(one.get(key), which, key, notes) for key in ("iscrowd", "ignore")]
        image.labels.objects.append(LabelledObject(name, _corners(one, which), any(flags)))
    return CocoFile(path, data, images.values, tuple(dict.fromkeys(categories.values)), +notes)


class _Ids(Generic[T]):
    """Entries by id, an integer, a decimal number or text; 7, 7.0 and "7" are the same id."""

    def __init__(self, path: Path, what: str, notes: Counter[str]) -> None:
        self.values: list[T] = []
        self._path, self._what, self._notes = path, what, notes
        self._places: dict[int | str, int] = {}

    def add(self, value: Any, number: int, entry: T) -> None:
        key = self._key(value)
        if key is None:
            raise LabelError(f"{self._path}: not COCO annotations: {self._what} {number} has the id {value!r:.80}")
        if key in self._places:
            raise LabelError(f"{self._path}: two entries of kind {self._what} have the id {value!r:.80}")
        self._places[key] = len(self.values)
        self.values.append(entry)

    def find(self, value: Any, which: str, field_name: str) -> T:
        key = self._key(value)
        if key is None or key not in self._places:
            raise LabelError(f"{which} has {field_name} {value!r:.80}, which the file does not list")
        return self.values[self._places[key]]

    def _key(self, value: Any) -> int | str | None:
        if type(value) is int:
            return value
        if isinstance(value, float) and value.is_integer():
            self._notes["converted_ids"] += 1
            return int(value)
        if isinstance(value, str) and value.strip():
            self._notes["converted_ids"] += 1
            return _integer_or_text(value)
        return None


def _integer_or_text(text: str) -> int | str:
    """Convert text to an integer if it is one; numbers with leading zeros are names and stay text."""
    found = _NUMBER.fullmatch(text.strip())
    return int(found[1]) if found else text.strip()


def _flag(value: Any, which: str, key: str, notes: Counter[str]) -> bool:
    if value is None or isinstance(value, bool | int | float):
        return bool(value)
    text = value.strip().lower() if isinstance(value, str) else None
    if text not in _NO | _YES:
        raise LabelError(f"{which} has {key} {value!r:.80}: give 0 or 1")
    notes["text_flags"] += 1
    return text in _YES


def size_of(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return (width, height) of an image entry, if given."""
    try:
        width, height = (float(image[key]) for key in ("width", "height"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (int(width), int(height)) if 0 < width < 1e6 and 0 < height < 1e6 else None


def _corners(annotation: Mapping[str, Any], which: str) -> tuple[float, float, float, float]:
    box = annotation.get("bbox")
    try:
        if not box and isinstance(annotation.get("segmentation"), list):
            points = [float(value) for polygon in annotation["segmentation"] for value in polygon]
            xs, ys = points[::2], points[1::2]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        x, y, width, height = (float(value) for value in box)  # type: ignore[union-attr]
    except (TypeError, ValueError, OverflowError):
        raise LabelError(
            f"{which} has no bbox [x, y, width, height] and no polygon: {box!r:.80}; add one or remove the annotation"
        ) from None
    corners = x, y, x + width, y + height
    if not all(map(math.isfinite, corners)):
        raise LabelError(f"{which} has a bbox that is not finite: {box!r:.80}; correct it or remove the annotation")
    return corners
