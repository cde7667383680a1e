"""Objects as a data set lists them, and boxes as a benchmark counts them.

Letters: K boxes, I ignored boxes, as x1 y1 x2 y2 in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

__all__ = ["Boxes", "LabelledObject", "boxes_of"]


class LabelledObject(NamedTuple):
    """One object of an annotation file.

    Attributes:
        name: its class as the file has it.
        corners: x1 y1 x2 y2 as stored, in pixels.
        ignored: a crowd or the like: finding it is neither right nor wrong.
    """

    name: str
    corners: tuple[float, float, float, float]
    ignored: bool = False


@dataclass
class Boxes:
    """Boxes of one image, as `boxes_of` makes them.

    Attributes:
        boxes, labels: float32 [K, 4], clipped to the image, and int64 [K].
        ignored, ignored_labels: float32 [I, 4] and int64 [I], likewise, of crowds.
        left_out: how many were left out, by the name of a class that the table lacks.
        clipped: how many reached beyond the image.
        empty: how many had no area within the image, and were left out.
        mostly_outside: how many of those clipped lost more than half of their area.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    ignored_labels: np.ndarray
    left_out: Counter[str] = field(default_factory=Counter)
    clipped: int = 0
    empty: int = 0
    mostly_outside: int = 0


def boxes_of(
    objects: Sequence[LabelledObject],
    classes: Sequence[str],
    size: tuple[int, int],
    aliases: Mapping[str, str] | None = None,
) -> Boxes:
    """Objects as boxes of an image.

    Args:
        objects: as read.
        classes: names that labels index; objects of others are left out and counted.
        size: (width, height) of the image.
        aliases: other names of the classes, in lower case.
    """
    left_out: Counter[str] = Counter()
    clipped = empty = outside = 0
    kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    labels: tuple[list[int], list[int]] = ([], [])
    limit = np.array([*size, *size], np.float64)
    for name, corners, ignored in objects:
        key = name.lower()
        key = (aliases or {}).get(key, key)
        if key not in classes:
            left_out[name] += 1
            continue
        box = np.asarray(corners, np.float64)
        inside = np.clip(box, 0, limit)
        if not (inside[2] > inside[0] and inside[3] > inside[1]):
            empty += 1
            continue
        clipped += bool((inside != box).any())
        outside += bool(2 * np.prod(inside[2:] - inside[:2]) < np.prod(box[2:] - box[:2]))
        kept[ignored].append(inside)
        labels[ignored].append(classes.index(key))
    arrays = [np.array(part, np.float32).reshape(-1, 4) for part in kept]
    numbers = [np.array(part, np.int64) for part in labels]
    return Boxes(arrays[0], numbers[0], arrays[1], numbers[1], left_out, clipped, empty, outside)
