"""Scores of a class mask, from one confusion matrix over all images.

What counts differs from benchmark to benchmark, in two ways that must not be mixed up. Pixels that nobody labelled are
255 in the truth and are not counted at all (FMB's and MCubeS's void). A class that stands for "anything else" is
labelled and does count where the benchmark's authors count it: MFNet's "unlabelled" and SemanticRT's "background" are
in their mean, which raises it by some points; `left_out` takes such a class out of a mean and leaves its pixels in.

Letters: h w an image, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectradino_core.evaluation.spread import none_for_nan

__all__ = ["UNLABELLED", "ConfusionMatrix", "SegmentationScores"]

UNLABELLED = 255
"""A pixel of no known class: in the truth it is not counted; in a prediction it is a miss of the true class."""


@dataclass(frozen=True)
class SegmentationScores:
    """Scores in 0..1; nan where nothing was labelled.

    Attributes:
        miou: mean of `iou` over the classes that have one and are not left out.
        macc: mean of `accuracy` likewise.
        pixel_accuracy: fraction of all labelled pixels that were given their class.
        iou: intersection over union by class.
        accuracy: fraction of each class's pixels that were given it (its recall).
        left_out: classes that the means leave out.
    """

    miou: float
    macc: float
    pixel_accuracy: float
    iou: Mapping[str, float]
    accuracy: Mapping[str, float]
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON; None where a value is nan, which JSON does not know."""
        return {
            **{name: none_for_nan(getattr(self, name)) for name in ("miou", "macc", "pixel_accuracy")},
            **{
                name: {label: none_for_nan(value) for label, value in getattr(self, name).items()}
                for name in ("iou", "accuracy")
            },
            "left_out": list(self.left_out),
        }


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

    def scores(self, left_out: Collection[str] = ()) -> SegmentationScores:
        """All scores.

        Args:
            left_out: classes that the benchmark leaves out of its means; their pixels still count as mistakes where
                another class was predicted on them.

        Raises:
            ValueError: a class to be left out is not one of these.
        """
        unknown = sorted(set(left_out) - set(self.classes))
        if unknown:
            raise ValueError(f"{', '.join(unknown)} can't be left out of {', '.join(self.classes)}")
        square, true = self.counts[:, :-1], self.counts.sum(axis=1)
        right = np.diagonal(square)
        iou = self._fractions(right, true + square.sum(axis=0) - right)
        accuracy = self._fractions(right, true)
        pixel_accuracy = float(right.sum() / true.sum()) if true.any() else float("nan")
        return SegmentationScores(
            _mean(iou, left_out), _mean(accuracy, left_out), pixel_accuracy, iou, accuracy, tuple(left_out)
        )

    def _fractions(self, part: np.ndarray, whole: np.ndarray) -> dict[str, float]:
        """By class; nan where there is none of it."""
        values = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
        return {name: float(value) for name, value in zip(self.classes, values, strict=True)}


def _mean(by_class: Mapping[str, float], left_out: Collection[str]) -> float:
    known = [value for name, value in by_class.items() if name not in left_out and not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
