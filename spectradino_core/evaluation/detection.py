"""COCO's detection scores: mAP over IoU 0.5 to 0.95, mAP50, mAP75, per class, and precision-recall curves.

The rule, for each class and IoU threshold: within an image, detections go best score first, 100 at most; each takes the
free true box that it overlaps most, if by at least the threshold. What takes none is a false positive, unless it lies
on a region to be ignored (COCO's crowds). Over all images, precision, made non-increasing in recall, is averaged at the
101 recalls 0, 0.01 .. 1.

`match_image` does the first half image by image and keeps no boxes; `detection_scores` does the second half for any
selection of images. NumPy alone, since the demo needs it where just the robot's packages are installed; the tests
compare it with pycocotools.

Letters: K detections, N true boxes as x1 y1 x2 y2, T IoU thresholds, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectradino_core.evaluation.spread import none_for_nan

__all__ = [
    "IOU_THRESHOLDS",
    "RECALLS",
    "SCORE_FLOOR",
    "DetectionScores",
    "ImageMatches",
    "detection_scores",
    "joined",
    "match_image",
    "mean_average_precision",
]

SCORE_FLOOR = 0.02
"""Score from which detections are scored: average precision wants the curve far below the serving threshold."""
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO reads precision."""

_MAX_DETECTIONS = 100
"""COCO counts this many detections, the best-scored, of each class in each image."""
_IOU_75 = 5
_NONE, _IGNORED = -1, -2


@dataclass(frozen=True)
class ImageMatches:
    """Outcome of one image's detections, in their order; boxes are not kept.

    Attributes:
        scores: float [K].
        labels: int16 [K], class indices.
        outcomes: int8 [T, K] at each IoU threshold; 1: true positive, 0: false positive, -1: ignored, also beyond
            COCO's 100 of a class.
        taken: int16 [K], which true box of its class a detection takes at IoU 0.5; -1: none.
        true_classes: int16 [K], class of the true box of any class that it takes at IoU 0.5; -1: none; -2: it lies on
            a region to be ignored.
        true_labels: int16 [N], class indices.
        ignored: bool [N], true boxes that are regions to be ignored.
    """

    scores: np.ndarray
    labels: np.ndarray
    outcomes: np.ndarray
    taken: np.ndarray
    true_classes: np.ndarray
    true_labels: np.ndarray
    ignored: np.ndarray

    def found(self, counted: np.ndarray) -> np.ndarray:
        """Which true boxes the detections counted (bool [K]) find at IoU 0.5, bool [N]; regions always."""
        return self.ignored | np.isin(np.arange(len(self.ignored)), self.taken[counted])


@dataclass(frozen=True)
class DetectionScores:
    """Scores in 0..1; nan where there is no true box.

    Attributes:
        map: mean over IoU 0.5, 0.55 .. 0.95 and over the classes that have true boxes.
        map50, map75: at one IoU.
        ap, ap50, ap75: the same by class.
        instances: true boxes by class, without those to be ignored.
        precision: by class, precision at IoU 0.5 at each of `RECALLS`, float64 [101]; nan without true boxes.
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
        """For JSON, without the curves; None for nan, which JSON does not know."""
        return {
            **{name: none_for_nan(getattr(self, name)) for name in ("map", "map50", "map75")},
            **{
                name: {label: none_for_nan(value) for label, value in getattr(self, name).items()}
                for name in ("ap", "ap50", "ap75")
            },
            "instances": dict(self.instances),
        }


def match_image(
    found: Sequence[np.ndarray], true: Sequence[np.ndarray], classes: int, name: str | int = ""
) -> ImageMatches:
    """Matches one image's detections with its true boxes at all IoU thresholds.

    Args:
        found: boxes [K, 4], scores [K], labels [K], boxes in the pixels of the true ones.
        true: boxes [N, 4], labels [N] and, where some are to be ignored, bool [N]. What is found on a region to be
            ignored is neither right nor wrong; a detection is on it by the fraction of its own area that is covered.
        classes: number of classes; labels are indices below it.
        name: of the image, for errors.

    Raises:
        ValueError: arrays that don't fit each other, numbers that are not finite, or labels beyond `classes`.
    """
    if len(found) != 3:
        raise ValueError(f"prediction {name}: (boxes, scores, labels) are wanted, got {len(found)} arrays")
    boxes, scores, labels = _checked(f"prediction {name}", found, classes)
    true_boxes, true_labels = _checked(f"truth {name}", true[:2], classes)
    ignored = _ignored(f"truth {name}", true[2:], len(true_boxes))
    order = np.argsort(-scores, kind="stable")
    iou, inside = _overlaps(boxes, true_boxes)
    real, regions = np.flatnonzero(~ignored), np.flatnonzero(ignored)
    outcomes = np.zeros((len(IOU_THRESHOLDS), len(boxes)), np.int8)
    taken = np.full(len(boxes), _NONE, np.int16)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        outcomes[:, mine[_MAX_DETECTIONS:]] = -1
        mine, real_mine = mine[:_MAX_DETECTIONS], real[true_labels[real] == label]
        matches = _take_best(iou[np.ix_(mine, real_mine)], IOU_THRESHOLDS)
        covered = inside[np.ix_(mine, regions[true_labels[regions] == label])].max(axis=1, initial=0.0)
        on_region = covered >= _at_least(IOU_THRESHOLDS)[:, None]
        outcomes[:, mine] = np.where(matches != _NONE, 1, np.where(on_region, -1, 0))
        taken[mine] = np.append(real_mine, _NONE)[matches[0]]
    true_classes = np.full(len(boxes), _NONE, np.int16)
    of_any_class = _take_best(iou[np.ix_(order, real)], IOU_THRESHOLDS[:1])[0]
    true_classes[order] = np.append(true_labels[real], _NONE)[of_any_class]
    true_classes[(true_classes == _NONE) & (inside[:, regions] >= IOU_THRESHOLDS[0]).any(axis=1)] = _IGNORED
    return ImageMatches(
        scores.copy(), labels.astype(np.int16), outcomes, taken, true_classes, true_labels.astype(np.int16), ignored
    )


def detection_scores(images: Sequence[ImageMatches], classes: Sequence[str]) -> DetectionScores:
    """COCO's scores of a set of images; without any image all are nan.

    Raises:
        ValueError: two classes have one name.
    """
    if len(set(classes)) != len(classes):
        raise ValueError(f"classes need names that differ, got {list(classes)}")
    scores, labels, outcomes = (joined(images, name) for name in ("scores", "labels", "outcomes"))
    instances = np.bincount(joined(images, "true_labels")[~joined(images, "ignored")], minlength=len(classes))
    precision = np.full((len(IOU_THRESHOLDS), len(RECALLS), len(classes)), np.nan)
    for label in np.flatnonzero(instances):
        mine = np.flatnonzero(labels == label)
        mine = mine[np.argsort(-scores[mine], kind="stable")]
        for row, outcome in enumerate(outcomes[:, mine]):
            precision[row, :, label] = _precision(outcome[outcome >= 0] > 0, int(instances[label]))
    at_iou = precision.mean(axis=1)  # nan for all of a class or for none
    ap, ap50, ap75 = (
        {name: float(value) for name, value in zip(classes, values, strict=True)}
        for values in (at_iou.mean(axis=0), at_iou[0], at_iou[_IOU_75])
    )
    return DetectionScores(
        map=mean_average_precision(ap),
        map50=mean_average_precision(ap50),
        map75=mean_average_precision(ap75),
        ap=ap,
        ap50=ap50,
        ap75=ap75,
        instances=dict(zip(classes, instances.tolist(), strict=True)),
        precision={name: precision[0, :, label].copy() for label, name in enumerate(classes)},
    )


def mean_average_precision(per_class: Mapping[str, float]) -> float:
    """Mean over the classes that have true boxes; nan where none has."""
    known = [value for value in per_class.values() if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def joined(images: Sequence[ImageMatches], name: str) -> np.ndarray:
    """One of the arrays of all images, one after the other."""
    empty = np.empty((len(IOU_THRESHOLDS), 0) if name == "outcomes" else 0, bool if name == "ignored" else np.int8)
    return np.concatenate([empty, *(getattr(image, name) for image in images)], axis=-1)


def _precision(hit: np.ndarray, positives: int) -> np.ndarray:
    """Precision at each of `RECALLS`, float64 [101], of detections that are right or not, bool [K], best first."""
    true = np.cumsum(hit)
    precision = np.maximum.accumulate((true / np.arange(1, len(hit) + 1))[::-1])[::-1]
    return np.append(precision, 0.0)[np.searchsorted(true / positives, RECALLS, side="left")]


def _take_best(overlaps: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Which true box detections take by their overlaps [K, N], best score first: int64 [T, K], -1 for none."""
    taken = np.full((len(thresholds), len(overlaps)), _NONE)
    free = np.ones((len(thresholds), overlaps.shape[1]), bool)
    least = _at_least(thresholds)
    rows = np.arange(len(thresholds))
    for detection in np.flatnonzero((overlaps >= least[0]).any(axis=1)):
        candidates = np.where(free, overlaps[detection], -1.0)
        # of equal overlaps COCO takes the last, and which one is taken decides what later detections find
        best = overlaps.shape[1] - 1 - np.argmax(candidates[:, ::-1], axis=1)
        enough = candidates[rows, best] >= least
        free[rows[enough], best[enough]] = False
        taken[enough, detection] = best[enough]
    return taken


def _at_least(iou: np.ndarray) -> np.ndarray:
    """The threshold as compared with: rounding must not refuse a perfect overlap at IoU 1."""
    return np.minimum(iou, 1 - 1e-10)


def _overlaps(boxes: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU [K, N], and the fraction of each detection's area inside each true box; a box turned inside out is empty."""
    sides, true_sides = (np.clip(b[:, 2:] - b[:, :2], 0, None) for b in (boxes, truth))
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    # COCO's boxes are corner and side: so computed, the last digit is that of its reference too
    high = np.minimum((boxes[:, :2] + sides)[:, None], (truth[:, :2] + true_sides)[None])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    area = np.broadcast_to(np.prod(sides, axis=1)[:, None], both.shape)
    union = area + np.prod(true_sides, axis=1) - both
    iou, inside = (np.divide(both, of, out=np.zeros_like(both), where=both > 0) for of in (union, area))
    return iou, inside


def _checked(what: str, arrays: Sequence[np.ndarray], classes: int) -> list[np.ndarray]:
    """Float64 boxes [K, 4], (scores [K],) int64 labels [K]; ValueError where they don't fit."""
    boxes, *rest = (np.asarray(a) for a in arrays)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or any(r.shape != (len(boxes),) for r in rest):
        shapes = ", ".join(str(tuple(np.shape(a))) for a in arrays)
        raise ValueError(f"{what}: boxes are [K, 4] and the others [K], got {shapes}")
    if not all(np.isfinite(a).all() for a in (boxes, *rest)):
        raise ValueError(f"{what} holds a number that is not finite")
    labels = rest[-1].astype(np.int64)
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"{what}: a label lies outside 0..{classes - 1}")
    return [boxes.astype(np.float64), *rest[:-1], labels]


def _ignored(what: str, flags: Sequence[np.ndarray], boxes: int) -> np.ndarray:
    """bool [N]; without flags nothing is to be ignored."""
    ignored = np.asarray(flags[0] if flags else np.zeros(boxes, bool))
    if len(flags) > 1 or ignored.shape != (boxes,) or ignored.dtype != bool:
        raise ValueError(f"{what}: what may follow boxes and labels is one bool array [{boxes}], of those to ignore")
    return ignored
