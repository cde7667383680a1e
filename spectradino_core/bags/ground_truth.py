"""What should have been found, by the stamps of the colour frames: boxes and masks that a recorded drive is scored by.

A true frame belongs to one moment, written as the header stamp of the colour frame that was labelled, and its boxes
are in that frame's pixels. It is found again by that stamp, within `TOLERANCE_NS`, since tools keep stamps as
floating-point seconds or cut them to microseconds or milliseconds; half a period of the fastest usual camera is far
above that.

Where it comes from: `ground_truth_coco.py` (a COCO JSON file), `ground_truth_topics.py` (topics of the bag itself).

Letters: h x w the colour image, N true boxes as x1 y1 x2 y2.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from spectradino_core.data.labels import UNLABELLED, ClassNames, LabelError

__all__ = ["TOLERANCE_NS", "GroundTruth", "GroundTruthError", "TrueFrame", "in_seconds", "mask_table"]

TOLERANCE_NS = 1_000_000
"""Largest difference of a true frame's stamp and the colour frame's: one millisecond."""


class GroundTruthError(LabelError):
    """Labels are missing, damaged, or say nothing about this bag; the message names the place and the remedy."""


@dataclass(frozen=True)
class TrueFrame:
    """What is known of one moment.

    Attributes:
        stamp_ns: the colour frame's header stamp.
        boxes: float64 [N, 4] in the colour image's pixels; None: nobody labelled boxes here.
        labels: int64 [N], indices into the model's box classes; None with `boxes`.
        crowd: bool [N]: a region of many, or one to be ignored: whatever is found there is neither true nor false.
        mask: gives uint8 [h, w], indices into the model's mask classes, 255 unlabelled (thousands of masks at once
            would fill the memory); None: nobody labelled a mask here.
        size: (width, height) of the colour image, where the labels say it.
    """

    stamp_ns: int
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    crowd: np.ndarray | None = None
    mask: Callable[[], np.ndarray] | None = None
    size: tuple[int, int] | None = None

    @property
    def true_boxes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(boxes, labels, crowd); None: nobody labelled boxes here."""
        if self.boxes is None or self.labels is None or self.crowd is None:
            return None
        return self.boxes, self.labels, self.crowd


@dataclass
class GroundTruth:
    """The true frames of one bag, oldest first.

    Attributes:
        frames: no two of one stamp.
        source: file or topics, for reports and errors; no path.
        classes: the model's box classes that the labels know; others never have a true box.
        mask_classes: likewise of the mask.
        unknown: how many boxes were left out, by class name, because the model has no such class; a class of the masks
            counts once.
        crowd: how many boxes mark a crowd, or are to be ignored.
        notes: oddities of the label files, see `data.labels.NOTES`; those of masks as far as they were read.
    """

    frames: list[TrueFrame]
    source: str
    classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    unknown: Counter[str] = field(default_factory=Counter)
    crowd: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.frames = sorted(self.frames, key=lambda frame: frame.stamp_ns)
        self._stamps = [frame.stamp_ns for frame in self.frames]
        twice = next((a for a, b in zip(self._stamps, self._stamps[1:]) if a == b), None)
        if twice is not None:
            raise GroundTruthError(
                f"{self.source}: two entries have the stamp {in_seconds(twice)}: one entry a colour frame is wanted"
            )

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def has_masks(self) -> bool:
        return any(frame.mask is not None for frame in self.frames)

    def find(self, stamp_ns: int, tolerance_ns: int = TOLERANCE_NS) -> int | None:
        """The place in `frames` of the one nearest to a stamp; None: none is within the tolerance (inclusive)."""
        gap = self.gap_ns(stamp_ns)
        if gap is None or gap[0] > tolerance_ns:
            return None
        return gap[1]

    def gap_ns(self, stamp_ns: int) -> tuple[int, int] | None:
        """(distance to the nearest true frame, its place); None where there are no true frames."""
        if not self._stamps:
            return None
        place = bisect_left(self._stamps, stamp_ns)
        near = [p for p in (place - 1, place) if 0 <= p < len(self._stamps)]
        return min((abs(self._stamps[p] - stamp_ns), p) for p in near)

    def between(self, first_ns: int, last_ns: int, tolerance_ns: int = TOLERANCE_NS) -> range:
        """The places of the true frames from one stamp to another, both included."""
        start = bisect_left(self._stamps, first_ns - tolerance_ns)
        return range(start, bisect_left(self._stamps, last_ns + tolerance_ns + 1, lo=start))


def mask_table(stored: Sequence[str], names: ClassNames) -> np.ndarray:
    """uint8 [256]: from the values of a stored mask to the model's; what the model lacks becomes unlabelled."""
    table = np.full(256, UNLABELLED, np.uint8)
    for value, name in enumerate(stored[:UNLABELLED]):
        place = names(name)
        if place is not None:
            table[value] = place
    return table


def in_seconds(stamp_ns: int) -> str:
    """A stamp as `<seconds>.<nine digits>`, exactly."""
    sign = "-" if stamp_ns < 0 else ""
    return f"{sign}{abs(stamp_ns) // 1_000_000_000}.{abs(stamp_ns) % 1_000_000_000:09d}"
