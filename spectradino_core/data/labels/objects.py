"""Objects of label files, and their conversion to boxes for training and evaluation.

Letters: N objects, of which K are boxes and I ignored boxes, as x1 y1 x2 y2 in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from spectradino_core.text import LineError

CLASS_ALIASES = {"bike": "bicycle", "people": "person", "pedestrian": "person"}
"""Other names of the classes of this project's models, in lower case."""

UNLABELLED = 255
"""Mask value of unlabelled pixels."""

NOTES = {
    "zero_size": "{} boxes have no width or height and are skipped",
    "outside": "{} boxes lie outside their image and are skipped",
    "clipped": "{} boxes reach beyond their image and are clipped",
    "text_flags": "{} crowd flags are written as text",
    "converted_ids": "{} ids are text or decimal numbers in place of whole numbers",
    "byte_order_mark": "{} label files begin with a byte order mark",
    "other_encoding": "{} label files are not UTF-8; names with other letters may be wrong",
    "renamed": "{} images have file names of a Roboflow export",
    "backslashes": "{} image paths are written with backslashes",
    "other_size": "{} images have another size than their label file states; their boxes are scaled to the image",
    "unknown_camera": "{} labels of pairs with images of two sizes state neither size nor camera; RGB's is assumed",
    "other_shapes": "{} labels are neither boxes, polygons nor masks and are skipped",
    "palette_mask": "{} masks are stored with a palette; its indices are the classes",
    "unmatched": "{} images in the label file match no image of the data set",
}
"""Tolerated deviations of label files by name: message with a placeholder for the count."""

LOSSES = frozenset({"zero_size", "outside", "other_encoding", "other_shapes", "unmatched"})
"""Those of `NOTES` by which labels are lost, which always cause a warning."""

_CLIP_TOLERANCE = 0.01
"""Pixels by which a box may exceed its image without a note, as YOLO's fractions are rounded."""


class LabelError(LineError):
    """A label file is missing, damaged or of another format; the message names the file and the entry."""


class OtherFormatError(LabelError):
    """A file is intact, but no label file of the expected format."""


class LabelledObject(NamedTuple):
    """One object, with its class name and its corners x1 y1 x2 y2 in pixels (finite) as stored.

    `ignored` marks e.g. crowds, whose detections are neither true nor false positives. What VOC's `difficult` means,
    the caller decides, as published benchmarks count such objects.
    """

    name: str
    corners: tuple[float, float, float, float]
    ignored: bool = False
    difficult: bool = False


@dataclass
class ImageLabels:
    """Objects of one image in the file's order.

    Attributes:
        notes: see `NOTES`; empty if the file describes several images and has the notes itself.
        size: (width, height) according to the file, which may be wrong; None: not given.
    """

    objects: list[LabelledObject]
    notes: Counter[str] = field(default_factory=Counter)
    size: tuple[int, int] | None = None


@dataclass
class Boxes:
    """Boxes of one image, made by `boxes_of`.

    Attributes:
        corners, classes, crowd: float64 [N, 4] clipped to the image, int64 [N] and bool [N], in the file's order.
        unknown: number of skipped objects by class name that the table lacks.
        notes: see `NOTES`.
        mostly_outside: number of clipped boxes that lost more than half of their area.
    """

    corners: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    unknown: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    mostly_outside: int = 0

    @property
    def boxes(self) -> np.ndarray:
        """Boxes that are not crowds, float32 [K, 4]."""
        return self.corners[~self.crowd].astype(np.float32)

    @property
    def labels(self) -> np.ndarray:
        """Classes of `boxes`, int64 [K]."""
        return self.classes[~self.crowd]

    @property
    def ignored(self) -> np.ndarray:
        """Boxes of crowds, float32 [I, 4]."""
        return self.corners[self.crowd].astype(np.float32)

    @property
    def ignored_labels(self) -> np.ndarray:
        """Classes of `ignored`, int64 [I]."""
        return self.classes[self.crowd]

    def fields(self) -> dict[str, Any]:
        """Return the fields of a `PairedSample` or `PairedItem`."""
        return {name: getattr(self, name) for name in ("boxes", "labels", "ignored", "ignored_labels")}


class ClassNames:
    """Maps class names of labels to indices of a class table and counts names that the table lacks.

    A name matches a class or an alias of it ("pedestrian" of "person"), case-insensitively.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.unknown: Counter[str] = Counter()
        self._indices: dict[str, int] = {}
        for fold in (_folded, canonical):  # a class name has precedence over an alias of another class
            for index, name in enumerate(self.classes):
                self._indices.setdefault(fold(name), index)

    def find(self, name: str) -> int | None:
        """Return the index, or None without counting the name."""
        index = self._indices.get(_folded(name))
        return index if index is not None else self._indices.get(canonical(name))

    def known(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the table's classes that are among the names, in the table's order."""
        indices = {index for name in names if (index := self.find(name)) is not None}
        return tuple(self.classes[index] for index in sorted(indices))

    def __call__(self, name: str, count: int = 1) -> int | None:
        """Return the index, or None after counting the unknown name."""
        index = self.find(name)
        if index is None:
            self.unknown[name] += count
        return index

    @staticmethod
    def table_of(names: Iterable[str]) -> tuple[str, ...]:
        """Return a table with each name once, and aliases under the class that they mean."""
        table: dict[str, str] = {}
        for name in names:
            table.setdefault(canonical(name), CLASS_ALIASES.get(_folded(name), name.strip()))
        return tuple(table.values())


def boxes_of(
    labels: ImageLabels,
    classes: Sequence[str] | ClassNames,
    size: tuple[int, int] | None,
    difficult_counts: bool = True,
) -> Boxes:
    """Convert the objects of an image to boxes.

    Args:
        labels: objects as read.
        classes: class table; objects of other classes are skipped and counted.
        size: (width, height) of the image in pixels; None: unknown, boxes are not clipped.
        difficult_counts: False: VOC's difficult objects are ignored like crowds.
    """
    names = classes if isinstance(classes, ClassNames) else ClassNames(classes)
    found = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), notes=Counter(labels.notes))
    limit = np.array([*size, *size], np.float64) if size is not None else np.full(4, np.inf)
    corners, indices, crowd = [], [], []
    for one in labels.objects:
        index = names.find(one.name)
        if index is None:
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
        if np.abs(inside - box).max() > _CLIP_TOLERANCE:
            found.notes["clipped"] += 1
            found.mostly_outside += bool(2 * np.prod(inside[2:] - inside[:2]) < np.prod(box[2:] - box[:2]))
        corners.append(inside)
        indices.append(index)
        crowd.append(one.ignored or (one.difficult and not difficult_counts))
    found.corners = np.array(corners, np.float64).reshape(-1, 4)
    found.classes, found.crowd = np.array(indices, np.int64), np.array(crowd, bool)
    return found


def describe_notes(notes: Mapping[str, int]) -> list[str]:
    """Return the messages of notes, those about lost labels first."""
    kinds = sorted(NOTES, key=lambda kind: kind not in LOSSES)
    return [NOTES[kind].format(notes[kind]) for kind in kinds if notes.get(kind)]


def _folded(name: str) -> str:
    return name.strip().casefold()


def canonical(name: str) -> str:
    """Return the class that a name or an alias means, in lower case."""
    return CLASS_ALIASES.get(_folded(name), _folded(name))
