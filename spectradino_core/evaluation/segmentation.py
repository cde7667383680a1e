"""Scores of a class mask, from one confusion matrix over all images.

Letters: h w an image, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["UNLABELLED", "ConfusionMatrix"]

UNLABELLED = 255
"""A pixel of no known class: in the truth it is not counted; in a prediction it is a miss of the true class."""


class ConfusionMatrix:
    """Counts pixels by true and predicted class; every score comes from the counts.

    Attributes:
        classes: names; mask values are indices into them.
        counts: int64 [C, C + 1], rows the true class, columns the predicted one; the last column is "unlabelled".
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """
        Raises:
            ValueError: no classes, or more than a uint8 mask can tell apart from `UNLABELLED`.
        """
        if not 0 < len(classes) <= UNLABELLED:
            raise ValueError(f"a mask has 1 to {UNLABELLED} classes, got {len(classes)}")
        self.classes = tuple(classes)
        self.counts = np.zeros((len(self.classes), len(self.classes) + 1), np.int64)

    def add(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Counts one image: predicted and true mask, uint8 [h, w], 255 = unlabelled.

        Raises:
            ValueError: different shapes, or a value that is neither a class nor 255.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"predicted mask {tuple(predicted.shape)} and truth {tuple(truth.shape)} differ in shape")
        size = len(self.classes)
        for name, mask in (("predicted", predicted), ("true", truth)):
            bad = (mask >= size) & (mask != UNLABELLED)
            if bad.any():
                raise ValueError(f"the {name} mask holds {int(mask[bad][0])}, but there are {size} classes")
        labelled = truth != UNLABELLED
        columns = np.minimum(predicted[labelled].astype(np.int64), size)
        cells = truth[labelled].astype(np.int64) * (size + 1) + columns
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)

    def iou(self) -> dict[str, float]:
        """Intersection over union of each class, 0..1; nan for a class that is neither true nor predicted anywhere."""
        square = self.counts[:, :-1]
        inside = np.diagonal(square).astype(np.float64)
        union = self.counts.sum(axis=1) + square.sum(axis=0) - inside
        values = np.divide(inside, union, out=np.full(len(inside), np.nan), where=union > 0)
        return {name: float(value) for name, value in zip(self.classes, values, strict=True)}

    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that have one; nan before any labelled pixel was added."""
        known = [value for value in self.iou().values() if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    def accuracy(self) -> float:
        """Share of the labelled pixels that were given their class; nan before any was added."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts[:, :-1])) / total if total else float("nan")
