"""Ground truth of a recording: true boxes and masks by the stamps of the RGB frames.

A labelled frame is identified by the header stamp of its RGB frame, and its boxes are in that frame's pixels. Stamps
are matched within `TOLERANCE_NS`, since tools store them as floating-point seconds, microseconds or milliseconds; half
a period of the fastest usual camera is far above that.

Sources: `ground_truth_coco.py` (a COCO JSON file), `ground_truth_topics.py` (topics of the bag itself).

Letters: h x w the RGB image, N true boxes as x1 y1 x2 y2.
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
"""Default tolerance of a labelled frame's stamp: one millisecond."""


class GroundTruthError(LabelError):
    """Labels are missing, damaged, or do not belong to this bag; the message names the place and the remedy."""


@dataclass(frozen=True)
class TrueFrame:
    """Ground truth of one frame.

    Attributes:
        stamp_ns: header stamp of the RGB frame.
        boxes: float64 [N, 4] in pixels of the RGB image; None: no boxes were labelled.
        labels: int64 [N], indices into the model's box classes; None with `boxes`.
        crowd: bool [N]: a crowd, or a region to ignore; detections there are neither true nor false positives.
        mask: loads uint8 [h, w], indices into the model's mask classes, 255 unlabelled (thousands of masks at once
            would fill the memory); None: no mask was labelled.
        size: (width, height) of the RGB image, if the labels contain it.
        tracks: N identities; None: some box has none.
    """

    stamp_ns: int
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    crowd: np.ndarray | None = None
    mask: Callable[[], np.ndarray] | None = None
    size: tuple[int, int] | None = None
    tracks: tuple[str, ...] | None = None

    @property
    def true_boxes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(boxes, labels, crowd); None: no boxes were labelled."""
        if self.boxes is None or self.labels is None or self.crowd is None:
            return None
        return self.boxes, self.labels, self.crowd


@dataclass
class GroundTruth:
    """Labelled frames of one bag, oldest first.

    Attributes:
        frames: with unique stamps.
        source: file name or topics, for reports and errors.
        classes: the model's box classes that occur in the labels' class list; others never have a true box.
        mask_classes: the same for masks.
        unknown: number of boxes skipped because the model lacks the class, by class name; a mask class counts once.
        crowd: number of crowd or ignored boxes.
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
                f"{self.source}: two entries have the stamp {in_seconds(twice)}: keep one entry per RGB frame"
            )

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def has_masks(self) -> bool:
        return any(frame.mask is not None for frame in self.frames)

    def find(self, stamp_ns: int, tolerance_ns: int = TOLERANCE_NS) -> int | None:
        """Return the index of the frame nearest to a stamp; None: none within the tolerance (inclusive)."""
        gap = self.gap_ns(stamp_ns)
        if gap is None or gap[0] > tolerance_ns:
            return None
        return gap[1]

    def gap_ns(self, stamp_ns: int) -> tuple[int, int] | None:
        """Return (distance to the nearest labelled frame, its index); None without labelled frames."""
        if not self._stamps:
            return None
        place = bisect_left(self._stamps, stamp_ns)
        near = [p for p in (place - 1, place) if 0 <= p < len(self._stamps)]
        return min((abs(self._stamps[p] - stamp_ns), p) for p in near)

    def between(self, first_ns: int, last_ns: int, tolerance_ns: int = TOLERANCE_NS) -> range:
        """Return the indices of the labelled frames from one stamp to another, both included."""
        start = bisect_left(self._stamps, first_ns - tolerance_ns)
        return range(start, bisect_left(self._stamps, last_ns + tolerance_ns + 1, lo=start))


def mask_table(stored: Sequence[str], names: ClassNames) -> np.ndarray:
    """Return the lookup table uint8 [256] from stored mask values to the model's; unknown classes are unlabelled."""
    table = np.full(256, UNLABELLED, np.uint8)
    for value, name in enumerate(stored[:UNLABELLED]):
        place = names(name)
        if place is not None:
            table[value] = place
    return table


def in_seconds(stamp_ns: int) -> str:
    """Format a stamp exactly as `<seconds>.<nine digits>`."""
    sign = "-" if stamp_ns < 0 else ""
    return f"{sign}{abs(stamp_ns) // 1_000_000_000}.{abs(stamp_ns) % 1_000_000_000:09d}"
