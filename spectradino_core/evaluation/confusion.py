"""What detections at one threshold get wrong: missed, made up, or taken for another class.

Average precision looks at every threshold; a robot runs at one. Detections go best score first, each takes the free
true box of any class that it overlaps most, by at least IoU 0.5. One that takes none and lies on a region to be ignored
does not count.

Letters: C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectradino_core.evaluation.detection import ImageMatches, joined

__all__ = ["DetectionConfusion"]


class DetectionConfusion:
    """Counts boxes by true and detected class.

    Attributes:
        classes: names.
        counts: int64 [C + 1, C + 1], rows the true class, columns the detected one; the last row is "nothing there",
            the last column "missed".
    """

    def __init__(self, images: Sequence[ImageMatches], classes: Sequence[str], threshold: float) -> None:
        """
        Args:
            images: matched images.
            classes: names; labels are indices into them.
            threshold: score from which detections count.
        """
        self.classes = tuple(classes)
        nothing = len(self.classes)
        true, labels = joined(images, "true_classes"), joined(images, "labels")
        counted = (joined(images, "scores") >= threshold) & (true >= -1)
        self.counts = np.zeros((nothing + 1,) * 2, np.int64)
        np.add.at(self.counts, (np.where(true < 0, nothing, true)[counted], labels[counted]), 1)
        instances = np.bincount(joined(images, "true_labels")[~joined(images, "ignored")], minlength=nothing)
        self.counts[:-1, -1] = instances - self.counts[:-1].sum(axis=1)

    def precision(self) -> dict[str, float]:
        """Fraction of each class's detections that are right; nan where it was never detected."""
        return self._fractions(self.counts[:, :-1].sum(axis=0))

    def recall(self) -> dict[str, float]:
        """Fraction of each class's true boxes that were found as such; nan where there are none."""
        return self._fractions(self.counts[:-1].sum(axis=1))

    def f1(self) -> dict[str, float]:
        """Harmonic mean of each class's precision and recall, 0 where nothing of it was found; nan without true
        boxes."""
        right, true = np.diagonal(self.counts)[:-1].astype(np.float64), self.counts[:-1].sum(axis=1)
        values = np.where(true > 0, 2 * right / np.maximum(true + self.counts[:, :-1].sum(axis=0), 1), np.nan)
        return {name: float(value) for name, value in zip(self.classes, values, strict=True)}

    def _fractions(self, of: np.ndarray) -> dict[str, float]:
        right = np.diagonal(self.counts)[:-1].astype(np.float64)
        values = np.divide(right, of, out=np.full(len(right), np.nan), where=of > 0)
        return {name: float(value) for name, value in zip(self.classes, values, strict=True)}
