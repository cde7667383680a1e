"""What detections at the serving threshold get wrong: missed, made up, or taken for another class.

Average precision looks at every threshold; a robot runs at one. Detections go best score first, each takes the free
true box of any class that it overlaps most, by at least IoU 0.5.

Letters: K detections, N true boxes, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectradino_core.evaluation.detection import match_boxes

__all__ = ["DetectionConfusion"]


class DetectionConfusion:
    """Counts boxes by true and detected class.

    Attributes:
        classes: names.
        counts: int64 [C + 1, C + 1], rows the true class, columns the detected one; the last row is "nothing there",
            the last column "missed".
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.counts = np.zeros((len(self.classes) + 1,) * 2, np.int64)

    def add(
        self, boxes: np.ndarray, labels: np.ndarray, true_boxes: np.ndarray, true_labels: np.ndarray,
        ignored: np.ndarray | None = None,
    ) -> int:  # fmt: skip
        """Counts one image's detections [K, 4], best first, against its true boxes [N, 4]; returns its mistakes.

        `ignored` [I, 4] are regions, crowds for example, on which a detection that takes no true box is not counted.
        """
        nothing = len(self.classes)
        taken = match_boxes(boxes, true_boxes)
        if ignored is not None and len(ignored):
            counted = (taken >= 0) | ~_mostly_inside(boxes, ignored)
            boxes, labels, taken = boxes[counted], labels[counted], taken[counted]
        rows = np.where(taken >= 0, true_labels[taken] if len(true_labels) else nothing, nothing)
        missed = np.setdiff1d(np.arange(len(true_boxes)), taken)
        np.add.at(self.counts, (rows, labels), 1)
        np.add.at(self.counts, (true_labels[missed], nothing), 1)
        return int((rows != labels).sum()) + len(missed)

    def precision(self) -> dict[str, float]:
        """Share of each class's detections that are right; nan where it was never detected."""
        return self._shares(self.counts[:, :-1].sum(axis=0))

    def recall(self) -> dict[str, float]:
        """Share of each class's true boxes that were found as such; nan where there are none."""
        return self._shares(self.counts[:-1].sum(axis=1))

    def f1(self) -> dict[str, float]:
        """Harmonic mean of each class's precision and recall, 0 where nothing of it was found; nan without true
        boxes."""
        right, true = np.diagonal(self.counts)[:-1].astype(np.float64), self.counts[:-1].sum(axis=1)
        values = np.where(true > 0, 2 * right / np.maximum(true + self.counts[:, :-1].sum(axis=0), 1), np.nan)
        return {name: float(value) for name, value in zip(self.classes, values, strict=True)}

    def __add__(self, other: DetectionConfusion) -> DetectionConfusion:
        total = DetectionConfusion(self.classes)
        total.counts = self.counts + other.counts
        return total

    def _shares(self, of: np.ndarray) -> dict[str, float]:
        right = np.diagonal(self.counts)[:-1].astype(np.float64)
        values = np.divide(right, of, out=np.full(len(right), np.nan), where=of > 0)
        return {name: float(value) for name, value in zip(self.classes, values, strict=True)}


def _mostly_inside(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Which boxes [K, 4] lie by half of their area or more inside one of the regions [I, 4]: bool [K]."""
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    inside = np.prod(np.clip(high - low, 0, None), axis=2).max(axis=1)
    return inside >= 0.5 * np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
