"""Segmentation scores from one confusion matrix over all images.

Benchmarks differ in two ways that must not be confused. Unlabelled pixels are 255 in the ground truth and are not
counted (FMB's and MCubeS's void). A class for "anything else" is labelled, and counted if the benchmark's authors count
it: MFNet's "unlabelled" and SemanticRT's "background" are in their means, which raises them by some points; `excluded`
excludes such a class from a mean but keeps its pixels.

Letters: h x w image, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectradino_core.evaluation.spread import known_mean, none_for_nan

UNLABELLED = 255
"""Pixel without class: not counted if in the ground truth; a miss of the true class if in a prediction."""


@dataclass(frozen=True)
class SegmentationScores:
    """Scores in 0..1; nan without labels.

    Attributes:
        miou, macc: means of `iou` and `accuracy` over the classes that have a value and are not excluded.
        pixel_accuracy: fraction of all labelled pixels with a correct prediction.
        iou: intersection over union by class.
        accuracy: fraction of each class's pixels with a correct prediction (recall).
        excluded: classes that are excluded from the means.
    """

    miou: float
    macc: float
    pixel_accuracy: float
    iou: Mapping[str, float]
    accuracy: Mapping[str, float]
    excluded: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the scores for JSON, with None for nan."""
        return {name: none_for_nan(value) for name, value in vars(self).items()}


class ConfusionMatrix:
    """Counts of pixels, int64 [C, C + 1], by true and predicted class; the last column is "unlabelled"."""

    def __init__(self, classes: Sequence[str]) -> None:
        """Start with zero counts of the classes, which mask values index.

        Raises:
            ValueError: no classes, or more than a uint8 mask can hold beside `UNLABELLED`.
        """
        if not 0 < len(classes) <= UNLABELLED:
            raise ValueError(f"a mask must have 1 to {UNLABELLED} classes, not {len(classes)}")
        self.classes = tuple(classes)
        self.counts = np.zeros((len(self.classes), len(self.classes) + 1), np.int64)

    def add(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Add one image: predicted and true mask, uint8 [h, w], 255: unlabelled.

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

    def scores(self, excluded: Collection[str] = ()) -> SegmentationScores:
        """Compute all scores.

        Other classes predicted on pixels of the classes `excluded` of the means still count as mistakes.

        Raises:
            ValueError: an excluded class does not exist.
        """
        unknown = sorted(set(excluded) - set(self.classes))
        if unknown:
            raise ValueError(f"{', '.join(unknown)} can't be excluded: the classes are {', '.join(self.classes)}")
        square, true = self.counts[:, :-1], self.counts.sum(axis=1)
        correct = np.diagonal(square)
        iou = self._fractions(correct, true + square.sum(axis=0) - correct)
        accuracy = self._fractions(correct, true)
        pixel_accuracy = float(correct.sum() / true.sum()) if true.any() else float("nan")
        return SegmentationScores(
            _mean(iou, excluded), _mean(accuracy, excluded), pixel_accuracy, iou, accuracy, tuple(excluded)
        )

    def _fractions(self, part: np.ndarray, whole: np.ndarray) -> dict[str, float]:
        """Return fractions by class; nan for 0 / 0."""
        values = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
        return dict(zip(self.classes, values.tolist(), strict=True))


def _mean(by_class: Mapping[str, float], excluded: Collection[str]) -> float:
    return known_mean(value for name, value in by_class.items() if name not in excluded)
