"""Average precision of detections, by the COCO rule.

The rule: within an image and a class, detections go best score first; each takes the free true box that it overlaps
most, if by at least the IoU asked for; what took none is false. Over all images the precision, made non-increasing in
recall, is averaged at the 101 recalls 0, 0.01 .. 1. At IoU 0.5 this is the COCO "AP50".

Own code, because the demo, which runs where only the robot's packages are installed, needs it and nothing else of
COCO's. Whatever else is scored, curves of a training included, goes by `coco.py`, which counts with a library and takes
its checks of arrays from here. Both are held to pycocotools.

Letters: K detections, N true boxes, boxes as x1 y1 x2 y2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["MAX_DETECTIONS", "average_precision", "checked_arrays", "match_boxes", "mean_average_precision"]

MAX_DETECTIONS = 100
"""COCO looks at this many detections, the best-scored, of each class in each image."""

_RECALLS = np.linspace(0.0, 1.0, 101)

Prediction = tuple[np.ndarray, np.ndarray, np.ndarray]
Truth = tuple[np.ndarray, np.ndarray]


def average_precision(
    predictions: Sequence[Prediction], truths: Sequence[Truth], classes: Sequence[str], iou: float = 0.5
) -> dict[str, float]:
    """Average precision of each class, equal to COCO's (area "all", 100 detections, no crowd regions).

    Args:
        predictions: for each image (boxes [K, 4], scores [K], labels [K]), boxes in the pixels of the true ones.
        truths: for each image, in the same order, (boxes [N, 4], labels [N]).
        classes: names; labels are indices into them.
        iou: least overlap of a true detection, above 0 and up to 1.

    Returns:
        One value in 0..1 per class name; nan for a class without any true box.

    Raises:
        ValueError: different numbers of images, arrays that don't fit each other, or labels beyond `classes`; the
            message names the image by its place.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} images were predicted, {len(truths)} have truth")
    if not 0 < iou <= 1:
        raise ValueError(f"iou must lie in (0, 1], got {iou}")
    checked = [
        (checked_arrays(f"prediction {i}", p, len(classes)), checked_arrays(f"truth {i}", t, len(classes)))
        for i, (p, t) in enumerate(zip(predictions, truths, strict=True))
    ]
    return {name: _class_ap(checked, label, iou) for label, name in enumerate(classes)}


def mean_average_precision(per_class: Mapping[str, float]) -> float:
    """Mean over the classes that have true boxes; nan where none has."""
    known = [value for value in per_class.values() if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def checked_arrays(what: str, arrays: Sequence[np.ndarray], classes: int) -> list[np.ndarray]:
    """One image's arrays as float64 boxes [K, 4], (float64 scores [K],) int64 labels [K] in 0..classes - 1.

    Raises:
        ValueError: they don't fit each other, or a number is not finite; says so of `what`.
    """
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
    return [boxes.astype(np.float64), *(r.astype(np.float64) for r in rest[:-1]), labels]


def _class_ap(images: Sequence[tuple[list[np.ndarray], list[np.ndarray]]], label: int, iou: float) -> float:
    scores: list[np.ndarray] = []
    hits: list[np.ndarray] = []
    positives = 0
    for (boxes, values, labels), (true_boxes, true_labels) in images:
        truth = true_boxes[true_labels == label]
        positives += len(truth)
        mine = np.flatnonzero(labels == label)
        mine = mine[np.argsort(-values[mine], kind="stable")[:MAX_DETECTIONS]]
        scores.append(values[mine])
        hits.append(match_boxes(boxes[mine], truth, iou) >= 0)
    if positives == 0:
        return float("nan")
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit = np.concatenate(hits)[order]
    if not len(hit):
        return 0.0
    true = np.cumsum(hit)
    recall = true / positives
    precision = np.maximum.accumulate((true / np.arange(1, len(hit) + 1))[::-1])[::-1]
    places = np.searchsorted(recall, _RECALLS, side="left")
    reached = places < len(precision)
    return float(np.where(reached, precision[np.minimum(places, len(precision) - 1)], 0.0).mean())


def match_boxes(boxes: np.ndarray, truth: np.ndarray, iou: float = 0.5) -> np.ndarray:
    """Which true box [N, 4] each of the boxes [K, 4], best first, takes: int64 [K], -1 for none."""
    taken = np.full(len(boxes), -1, np.int64)
    if not len(truth) or not len(boxes):
        return taken
    overlaps = _iou(boxes, truth)
    free = np.ones(len(truth), bool)
    least = min(iou, 1 - 1e-10)  # rounding must not refuse a perfect overlap at iou=1
    for row, overlap in enumerate(overlaps):
        candidates = np.where(free, overlap, -1.0)
        # of equal overlaps COCO takes the last, and which one is taken decides what later detections find
        best = len(candidates) - 1 - int(np.argmax(candidates[::-1]))
        if candidates[best] >= least:
            free[best] = False
            taken[row] = best
    return taken


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [K, N]; double precision, because a threshold is compared with it."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = (np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=1) for x in (a, b))
    return overlap / np.maximum(area_a[:, None] + area_b[None] - overlap, 1e-12)
