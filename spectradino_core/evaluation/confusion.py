"""Confusion matrix of detections at one score threshold: missed boxes, false positives and wrong classes.

Average precision covers all thresholds, while a robot runs at one. By descending score, each detection is matched to
the unmatched true box of any class with the largest IoU of at least 0.5. Unmatched detections in an ignored region are
skipped.

Letters: C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectradino_core.evaluation.detection import ImageMatches, joined

__all__ = ["DetectionConfusion"]


class DetectionConfusion:
    """Counts of boxes by true and detected class.

    Attributes:
        classes: class names.
        counts: int64 [C + 1, C + 1], rows the true class, columns the detected one; the last row is background, the
            last column missed boxes.
    """

    def __init__(self, images: Sequence[ImageMatches], classes: Sequence[str], threshold: float) -> None:
        """
        Args:
            images: matched images.
            classes: class names, which labels index.
            threshold: minimum score of counted detections.
        """
        self.classes = tuple(classes)
        background = len(self.classes)
        true, labels = joined(images, "true_classes"), joined(images, "labels")
        counted = (joined(images, "scores") >= threshold) & (true >= -1)
        self.counts = np.zeros((background + 1,) * 2, np.int64)
        np.add.at(self.counts, (np.where(true < 0, background, true)[counted], labels[counted]), 1)
        instances = np.bincount(joined(images, "true_labels")[~joined(images, "ignored")], minlength=background)
        self.counts[:-1, -1] = instances - self.counts[:-1].sum(axis=1)

    def precision(self) -> dict[str, float]:
        """Return the precision of each class; nan if it was never detected."""
        return self._fractions(self.counts[:, :-1].sum(axis=0))

    def recall(self) -> dict[str, float]:
        """Return the recall of each class; nan without true boxes."""
        return self._fractions(self.counts[:-1].sum(axis=1))

    def f1(self) -> dict[str, float]:
        """Return the F1 score of each class, 0 if none of its boxes was found; nan without true boxes."""
        correct, true = np.diagonal(self.counts)[:-1].astype(np.float64), self.counts[:-1].sum(axis=1)
        values = np.where(true > 0, 2 * correct / np.maximum(true + self.counts[:, :-1].sum(axis=0), 1), np.nan)
        return {name: float(value) for name, value in zip(self.classes, values, strict=True)}

    def _fractions(self, of: np.ndarray) -> dict[str, float]:
        correct = np.diagonal(self.counts)[:-1].astype(np.float64)
        values = np.divide(correct, of, out=np.full(len(correct), np.nan), where=of > 0)
        return {name: float(value) for name, value in zip(self.classes, values, strict=True)}
