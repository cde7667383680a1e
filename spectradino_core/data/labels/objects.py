"""Objects as a label file lists them, and boxes as they count.

Letters: N objects, K boxes that count, I ignored boxes, as x1 y1 x2 y2 in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

__all__ = [
    "CLASS_ALIASES",
    "LOSSES",
    "NOTES",
    "UNLABELLED",
    "Boxes",
    "ClassNames",
    "ImageLabels",
    "LabelError",
    "LabelledObject",
    "boxes_of",
    "describe_notes",
]

CLASS_ALIASES = {"bike": "bicycle", "people": "person", "pedestrian": "person"}
"""Names that data sets use for the classes of this project's models, in lower case."""

UNLABELLED = 255
"""Value in a mask of a pixel without class."""

NOTES = {
    "zero_size": "{} boxes have no width or height and are skipped",
    "outside": "{} boxes lie outside their image and are skipped",
    "clipped": "{} boxes reach beyond their image and are clipped",
    "text_flags": "{} crowd flags are written as text",
    "converted_ids": "{} ids are text or decimal numbers in place of whole numbers",
    "byte_order_mark": "{} label files begin with a byte order mark",
    "other_encoding": "{} label files are not UTF-8; names with other letters may be wrong",
    "renamed": "{} images carry the file names of a Roboflow export",
    "backslashes": "{} image paths are written with backslashes",
    "palette_mask": "{} masks are stored with a palette; its indices are the classes",
    "unmatched": "{} images in the label file match no image of the set",
}
"""Tolerated oddities of label files by name: how each is reported, with its count."""

LOSSES = frozenset({"zero_size", "outside", "other_encoding", "unmatched"})
"""Those of `NOTES` by which something is lost; they are worth a warning wherever labels are used."""

_HAIR = 0.01
"""Pixels by which a box may leave its image without a word: YOLO's fractions are rounded."""


class LabelError(ValueError):
    """A label file is missing, damaged or not what it was said to be; the message names it and the entry."""


class LabelledObject(NamedTuple):
    """One object of a label file.

    Attributes:
        name: its class as the file has it.
        corners: x1 y1 x2 y2 as stored, in pixels; finite.
        ignored: a crowd or the like: finding it is neither right nor wrong.
        difficult: VOC's flag. Published benchmarks count such objects, so it is up to the caller.
    """

    name: str
    corners: tuple[float, float, float, float]
    ignored: bool = False
    difficult: bool = False


@dataclass
class ImageLabels:
    """All objects of one image.

    Attributes:
        objects: in the file's order.
        notes: see `NOTES`; of a file that holds several images, the file has them.
        size: (width, height) of the image as the file says, which may be wrong; None where it does not.
    """

    objects: list[LabelledObject]
    notes: Counter[str] = field(default_factory=Counter)
    size: tuple[int, int] | None = None


@dataclass
class Boxes:
    """Boxes of one image, as `boxes_of` makes them.

    Attributes:
        corners, classes, crowd: float64 [N, 4], clipped to the image, int64 [N] and bool [N], in the file's order; a
            crowd is neither right nor wrong to find.
        unknown: how many objects were skipped, by the name of a class that the table lacks.
        notes: see `NOTES`.
        mostly_outside: how many of the clipped ones lost more than half of their area.
    """

    corners: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    unknown: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    mostly_outside: int = 0

    @property
    def boxes(self) -> np.ndarray:
        """Those that count, float32 [K, 4]."""
        return self.corners[~self.crowd].astype(np.float32)

    @property
    def labels(self) -> np.ndarray:
        """Their classes, int64 [K]."""
        return self.classes[~self.crowd]

    @property
    def ignored(self) -> np.ndarray:
        """Crowds, float32 [I, 4]."""
        return self.corners[self.crowd].astype(np.float32)

    @property
    def ignored_labels(self) -> np.ndarray:
        """Their classes, int64 [I]."""
        return self.classes[self.crowd]


class ClassNames:
    """Names that labels use, as indices of a table of classes; what the table lacks is counted.

    A name counts if it is the table's, or an alias of it ("pedestrian" of "person"), whatever the case of its letters.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.unknown: Counter[str] = Counter()
        self._places: dict[str, int] = {}
        for fold in (_folded, _canonical):  # a class's own name goes before another's alias
            for place, name in enumerate(self.classes):
                self._places.setdefault(fold(name), place)

    def find(self, name: str) -> int | None:
        """The index, or None; nothing is counted."""
        place = self._places.get(_folded(name))
        return place if place is not None else self._places.get(_canonical(name))

    def known(self, names: Iterable[str]) -> tuple[str, ...]:
        """The table's classes that are among the names, in the table's order."""
        places = {place for name in names if (place := self.find(name)) is not None}
        return tuple(self.classes[place] for place in sorted(places))

    def __call__(self, name: str, count: int = 1) -> int | None:
        """The index; None, and counted, where the table has no such class."""
        place = self.find(name)
        if place is None:
            self.unknown[name] += count
        return place

    @staticmethod
    def table_of(names: Iterable[str]) -> tuple[str, ...]:
        """A table that holds all of the names once, aliases by the name that they stand for."""
        table: dict[str, str] = {}
        for name in names:
            table.setdefault(_canonical(name), CLASS_ALIASES.get(_folded(name), name.strip()))
        return tuple(table.values())


def boxes_of(
    labels: ImageLabels,
    classes: Sequence[str] | ClassNames,
    size: tuple[int, int] | None,
    difficult_counts: bool = True,
) -> Boxes:
    """Objects as boxes of an image.

    Args:
        labels: as read.
        classes: names that labels index; objects of others are skipped and counted.
        size: (width, height) of the image; None: unknown, so nothing is clipped.
        difficult_counts: False: VOC's difficult objects are ignored like crowds.
    """
    names = classes if isinstance(classes, ClassNames) else ClassNames(classes)
    found = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), notes=Counter(labels.notes))
    limit = np.array([*size, *size], np.float64) if size is not None else np.full(4, np.inf)
    corners, places, crowd = [], [], []
    for one in labels.objects:
        place = names.find(one.name)
        if place is None:
            found.unknown[one.name] += 1
            continue
        box = np.asarray(one.corners, np.float64)
        inside = np.clip(box, 0, limit) if size is not None else box
        if not (box[2] > box[0] and box[3] > box[1]):
            found.notes["zero_size"] += 1
            continue
        if not (inside[2] > inside[0] and inside[3] > inside[1]):
            found.notes["outside"] += 1
            continue
        if np.abs(inside - box).max() > _HAIR:
            found.notes["clipped"] += 1
            found.mostly_outside += bool(2 * np.prod(inside[2:] - inside[:2]) < np.prod(box[2:] - box[:2]))
        corners.append(inside)
        places.append(place)
        crowd.append(one.ignored or (one.difficult and not difficult_counts))
    found.corners = np.array(corners, np.float64).reshape(-1, 4)
    found.classes, found.crowd = np.array(places, np.int64), np.array(crowd, bool)
    return found


def describe_notes(notes: Mapping[str, int]) -> list[str]:
    """Notes in words, those that lose something first."""
    kinds = sorted(NOTES, key=lambda kind: kind not in LOSSES)
    return [NOTES[kind].format(notes[kind]) for kind in kinds if notes.get(kind)]


def _folded(name: str) -> str:
    return name.strip().casefold()


def _canonical(name: str) -> str:
    return CLASS_ALIASES.get(_folded(name), _folded(name))
