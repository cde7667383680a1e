"""COCO's detection scores: mAP over IoU 0.5 to 0.95, mAP50, mAP75, per class, precision-recall curves, confusions.

Rule for each class and IoU threshold: within an image, detections are processed by descending score, at most 100; each
is matched to the unmatched true box with the largest IoU, if that is at least the threshold. An unmatched detection is
a false positive unless it lies in an ignored region (COCO's crowds). Over all images, precision, made non-increasing in
recall, is averaged at the 101 recalls 0, 0.01 .. 1.

`match_image` does the matching of one image without keeping boxes; `detection_scores` and `DetectionConfusion`
aggregate any selection of images. Only NumPy is used, because the demo runs this where only the robot's packages are
installed; the tests compare it with pycocotools.

Letters: K detections, N true boxes as x1 y1 x2 y2, T IoU thresholds, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectradino_core.evaluation.spread import known_mean, none_for_nan

SCORE_FLOOR = 0.02
"""Minimum score of scored detections: average precision needs the curve far below the serving threshold."""
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
"""Recalls at which COCO samples precision."""

_MAX_DETECTIONS = 100
"""COCO's maximum number of detections per class and image."""
_IOU_75 = 5
_NONE, _IGNORED = -1, -2


@dataclass(frozen=True)
class ImageMatches:
    """Matching of one image's detections, in their order, without boxes.

    Attributes:
        scores, labels: float [K] and class indices, int16 [K].
        outcomes: int8 [T, K] at each IoU threshold; 1: true positive, 0: false positive, -1: ignored, also beyond
            COCO's 100 of a class.
        taken: int16 [K], index of the true box of its class matched at IoU 0.5; -1: none.
        true_classes: int16 [K], class of the true box of any class matched at IoU 0.5; -1: none; -2: in an ignored
            region.
        true_labels, ignored: class indices, int16 [N], and which true boxes are ignored regions, bool [N].
    """

    scores: np.ndarray
    labels: np.ndarray
    outcomes: np.ndarray
    taken: np.ndarray
    true_classes: np.ndarray
    true_labels: np.ndarray
    ignored: np.ndarray

    def found(self, counted: np.ndarray) -> np.ndarray:
        """Return ignored regions and the true boxes found at IoU 0.5 by the counted (bool [K]) detections, bool [N]."""
        return self.ignored | np.isin(np.arange(len(self.ignored)), self.taken[counted])


@dataclass(frozen=True)
class DetectionScores:
    """Scores in 0..1; nan without true boxes.

    Attributes:
        map: mean over IoU 0.5, 0.55 .. 0.95 and over the classes with true boxes; map50, map75: at one IoU threshold.
        ap, ap50, ap75: the same by class.
        instances: number of true boxes by class, without ignored ones.
        precision: precision at IoU 0.5 at each of `RECALLS`, float64 [101], by class.
    """

    map: float
    map50: float
    map75: float
    ap: Mapping[str, float]
    ap50: Mapping[str, float]
    ap75: Mapping[str, float]
    instances: Mapping[str, int]
    precision: Mapping[str, np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        """Return the scores for JSON, without curves; None for nan."""
        return {name: none_for_nan(value) for name, value in vars(self).items() if name != "precision"}


class DetectionConfusion:
    """Confusion matrix of detections at one score threshold: missed boxes, false positives and wrong classes.

    Average precision covers all thresholds, while a robot runs at one. By descending score, each detection is matched
    to the unmatched true box of any class with the largest IoU of at least 0.5. Unmatched detections in an ignored
    region are skipped. `counts`, int64 [C + 1, C + 1], has a row for each true class, the last one background, and a
    column for each detected one, the last one missed boxes.
    """

    def __init__(self, images: Sequence[ImageMatches], classes: Sequence[str], threshold: float) -> None:
        """Count the detections with at least the threshold's score."""
        self.classes = tuple(classes)
        background = len(self.classes)
        true, labels = joined(images, "true_classes"), joined(images, "labels")
        counted = (joined(images, "scores") >= threshold) & (true >= -1)
        self.counts = np.zeros((background + 1,) * 2, np.int64)
        np.add.at(self.counts, (np.where(true < 0, background, true)[counted], labels[counted]), 1)
        self.counts[:-1, -1] = _instances(images, background) - self.counts[:-1].sum(axis=1)

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
        return dict(zip(self.classes, values.tolist(), strict=True))

    def _fractions(self, of: np.ndarray) -> dict[str, float]:
        correct = np.diagonal(self.counts)[:-1].astype(np.float64)
        values = np.divide(correct, of, out=np.full(len(correct), np.nan), where=of > 0)
        return dict(zip(self.classes, values.tolist(), strict=True))


def match_image(
    found: Sequence[np.ndarray], true: Sequence[np.ndarray], classes: int, name: str | int = ""
) -> ImageMatches:
    """Match one image's detections with its true boxes at all IoU thresholds.

    Args:
        found: boxes [K, 4] in the pixels of the true boxes, scores [K], labels [K].
        true: boxes [N, 4], labels [N] and optionally bool [N], ignored regions. A detection in an ignored region, by
            the fraction of its own area that is covered, is neither a true nor a false positive.
        classes: C.
        name: name of the image, for error messages.

    Raises:
        ValueError: arrays of different lengths, numbers that are not finite, or labels beyond `classes`.
    """
    if len(found) != 3:
        raise ValueError(f"prediction {name}: give (boxes, scores, labels), not {len(found)} arrays")
    boxes, scores, labels = _checked(f"prediction {name}", found, classes)
    true_boxes, true_labels = _checked(f"truth {name}", true[:2], classes)
    ignored = _ignored(f"truth {name}", true[2:], len(true_boxes))
    order = np.argsort(-scores, kind="stable")
    iou, inside = overlaps(boxes, true_boxes)
    real, regions = np.flatnonzero(~ignored), np.flatnonzero(ignored)
    outcomes = np.zeros((len(IOU_THRESHOLDS), len(boxes)), np.int8)
    taken = np.full(len(boxes), _NONE, np.int16)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        outcomes[:, of_class[_MAX_DETECTIONS:]] = -1
        of_class, real_of_class = of_class[:_MAX_DETECTIONS], real[true_labels[real] == label]
        matches = _take_best(iou[np.ix_(of_class, real_of_class)], IOU_THRESHOLDS)
        covered = inside[np.ix_(of_class, regions[true_labels[regions] == label])].max(axis=1, initial=0.0)
        on_region = covered >= _at_least(IOU_THRESHOLDS)[:, None]
        outcomes[:, of_class] = np.where(matches != _NONE, 1, np.where(on_region, -1, 0))
        taken[of_class] = np.append(real_of_class, _NONE)[matches[0]]
    true_classes = np.full(len(boxes), _NONE, np.int16)
    of_any_class = _take_best(iou[np.ix_(order, real)], IOU_THRESHOLDS[:1])[0]
    true_classes[order] = np.append(true_labels[real], _NONE)[of_any_class]
    true_classes[(true_classes == _NONE) & (inside[:, regions] >= IOU_THRESHOLDS[0]).any(axis=1)] = _IGNORED
    return ImageMatches(
        scores.copy(), labels.astype(np.int16), outcomes, taken, true_classes, true_labels.astype(np.int16), ignored
    )


def detection_scores(images: Sequence[ImageMatches], classes: Sequence[str]) -> DetectionScores:
    """Compute COCO's scores of a set of images; without any image all are nan.

    Raises:
        ValueError: two classes have the same name.
    """
    if len(set(classes)) != len(classes):
        raise ValueError(f"class names must be unique, not {list(classes)}")
    scores, labels, outcomes = (joined(images, name) for name in ("scores", "labels", "outcomes"))
    instances = _instances(images, len(classes))
    precision = np.full((len(IOU_THRESHOLDS), len(RECALLS), len(classes)), np.nan)
    for label in np.flatnonzero(instances):
        of_class = np.flatnonzero(labels == label)
        of_class = of_class[np.argsort(-scores[of_class], kind="stable")]
        for row, outcome in enumerate(outcomes[:, of_class]):
            precision[row, :, label] = _precision(outcome[outcome >= 0] > 0, int(instances[label]))
    at_iou = precision.mean(axis=1)  # a class is nan at all recalls or at none
    ap, ap50, ap75 = (
        dict(zip(classes, values.tolist(), strict=True)) for values in (at_iou.mean(axis=0), at_iou[0], at_iou[_IOU_75])
    )
    return DetectionScores(
        map=known_mean(ap.values()),
        map50=known_mean(ap50.values()),
        map75=known_mean(ap75.values()),
        ap=ap,
        ap50=ap50,
        ap75=ap75,
        instances=dict(zip(classes, instances.tolist(), strict=True)),
        precision={name: precision[0, :, label].copy() for label, name in enumerate(classes)},
    )


def joined(images: Sequence[ImageMatches], name: str) -> np.ndarray:
    """Concatenate one of the arrays over all images."""
    empty = np.empty((len(IOU_THRESHOLDS), 0) if name == "outcomes" else 0, bool if name == "ignored" else np.int8)
    return np.concatenate([empty, *(getattr(image, name) for image in images)], axis=-1)


def _instances(images: Sequence[ImageMatches], classes: int) -> np.ndarray:
    """Return the number of true boxes of each class, int64 [C], without ignored ones."""
    return np.bincount(joined(images, "true_labels")[~joined(images, "ignored")], minlength=classes)


def _precision(hit: np.ndarray, positives: int) -> np.ndarray:
    """Return precision at each of `RECALLS`, float64 [101]; `hit`, bool [K], are true positives by falling score."""
    true = np.cumsum(hit)
    precision = np.maximum.accumulate((true / np.arange(1, len(hit) + 1))[::-1])[::-1]
    return np.append(precision, 0.0)[np.searchsorted(true / positives, RECALLS, side="left")]


def _take_best(overlaps: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Match detections, by descending score, to true boxes by their overlaps [K, N]; int64 [T, K], -1: none."""
    taken = np.full((len(thresholds), len(overlaps)), _NONE)
    free = np.ones((len(thresholds), overlaps.shape[1]), bool)
    least = _at_least(thresholds)
    rows = np.arange(len(thresholds))
    for detection in np.flatnonzero((overlaps >= least[0]).any(axis=1)):
        candidates = np.where(free, overlaps[detection], -1.0)
        # Of equal overlaps COCO takes the last, which affects later detections.
        best = overlaps.shape[1] - 1 - np.argmax(candidates[:, ::-1], axis=1)
        enough = candidates[rows, best] >= least
        free[rows[enough], best[enough]] = False
        taken[enough, detection] = best[enough]
    return taken


def _at_least(iou: np.ndarray) -> np.ndarray:
    """Return the threshold, lowered at IoU 1 so that rounding does not reject a perfect overlap."""
    return np.minimum(iou, 1 - 1e-10)


def overlaps(boxes: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return IoU and the fraction of each detection inside each true box, [K, N] each; inverted boxes are empty."""
    sides, true_sides = (np.clip(b[:, 2:] - b[:, :2], 0, None) for b in (boxes, truth))
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    # Computed from corner and size, as in COCO's reference, so that results are bit-identical.
    high = np.minimum((boxes[:, :2] + sides)[:, None], (truth[:, :2] + true_sides)[None])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    area = np.broadcast_to(np.prod(sides, axis=1)[:, None], both.shape)
    union = area + np.prod(true_sides, axis=1) - both
    iou, inside = (np.divide(both, of, out=np.zeros_like(both), where=both > 0) for of in (union, area))
    return iou, inside


def _checked(what: str, arrays: Sequence[np.ndarray], classes: int) -> list[np.ndarray]:
    """Return float64 boxes [K, 4], (scores [K],) int64 labels [K]; raises ValueError for inconsistent arrays."""
    boxes, *rest = (np.asarray(a) for a in arrays)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or any(r.shape != (len(boxes),) for r in rest):
        shapes = ", ".join(str(tuple(np.shape(a))) for a in arrays)
        raise ValueError(f"{what}: boxes must be [K, 4] and the others [K], not {shapes}")
    if not all(np.isfinite(a).all() for a in (boxes, *rest)):
        raise ValueError(f"{what}: a number is not finite")
    labels = rest[-1].astype(np.int64)
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"{what}: a label lies outside 0..{classes - 1}")
    return [boxes.astype(np.float64), *rest[:-1], labels]


def _ignored(what: str, flags: Sequence[np.ndarray], boxes: int) -> np.ndarray:
    """Return ignored boxes, bool [N]; without flags none."""
    ignored = np.asarray(flags[0] if flags else np.zeros(boxes, bool))
    if len(flags) > 1 or ignored.shape != (boxes,) or ignored.dtype != bool:
        raise ValueError(f"{what}: after boxes and labels give at most one bool array [{boxes}] of ignored boxes")
    return ignored
