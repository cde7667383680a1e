"""Scores from tallies of one bag or many: COCO's for boxes, intersection over union for masks; all, and by mode.

Many bags are scored as one: their true frames and detections are joined in the order of the bags and counted anew,
since average precision of parts can't be averaged. Figures are rounded to six digits, so that they are written alike
whatever way they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from spectradino_core.bags.labelled_frames import MODES, Arrays
from spectradino_core.evaluation.detection import RECALLS, DetectionScores, coco_scores
from spectradino_core.evaluation.segmentation import ConfusionMatrix
from spectradino_core.evaluation.spread import rounded
from spectradino_core.runtime.bundle import ModelInfo

__all__ = ["SUMMARY", "frame_errors", "score", "summary"]

SUMMARY = ("map", "map50", "map75", "miou", "answered")
"""The figures that `summary` gives."""

_MATCH_IOU = 0.5

Part = tuple[Arrays, Arrays]
"""One bag: what `truth_arrays` gives, and `Tally.arrays`."""


def score(parts: Sequence[Part], info: ModelInfo, curves: bool = True) -> dict[str, Any]:
    """All scores of one way of answering, for JSON.

    Args:
        parts: the bags, in order.
        info: the model's classes.
        curves: with precision at each of COCO's recalls.

    Returns:
        "frames" (how many true frames, by what became of them), "all" (misses count), "answered" (without the true
        frames that no answer belongs to) and "by_mode"; see `_figures`. None where nothing was labelled.
    """
    modes = np.concatenate([np.empty(0, np.int8), *(run["mode"] for _, run in parts)])
    in_bag = np.concatenate([np.empty(0, bool), *(truth["in_bag"] for truth, _ in parts)])
    frames = {
        "scored": len(modes),
        "answered": int((modes >= 0).sum()),
        "missed": int((modes < 0).sum()),
        "missed_recorded": int(((modes < 0) & in_bag).sum()),
        "missed_not_recorded": int(((modes < 0) & ~in_bag).sum()),
        **{mode.value: int((modes == code).sum()) for code, mode in enumerate(MODES)},
    }
    by_mode = {
        mode.value: _figures(parts, info, lambda codes, code=code: codes == code, [code], False)  # type: ignore[misc]
        for code, mode in enumerate(MODES)
        if (modes == code).any()
    }
    return {
        "frames": frames,
        "all": _figures(parts, info, lambda codes: codes >= -1, range(len(MODES) + 1), curves),
        "answered": _figures(parts, info, lambda codes: codes >= 0, range(len(MODES)), False),
        "by_mode": by_mode,
    }


def summary(parts: Sequence[Part], info: ModelInfo) -> dict[str, float | None]:
    """The figures of a sweep's point, misses counted: "map", "map50", "map75", "miou"; and "answered", the share of the
    true frames that have an answer."""
    figures = _figures(parts, info, lambda codes: codes >= -1, range(len(MODES) + 1), False)
    modes = np.concatenate([np.empty(0, np.int8), *(run["mode"] for _, run in parts)])
    figures["answered"] = rounded(float((modes >= 0).mean())) if len(modes) else None
    return {name: figures[name] for name in SUMMARY}


def frame_errors(
    boxes: np.ndarray,
    labels: np.ndarray,
    true_boxes: np.ndarray,
    true_labels: np.ndarray,
    crowd: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections [K] (best first) are right and which true boxes [N] were found, at IoU 0.5.

    A detection mostly inside of a crowd of its class counts as right, and a crowd as found.
    """
    right, found = np.zeros(len(boxes), bool), crowd.copy()
    overlaps, inside = _overlaps(boxes.astype(np.float64), true_boxes)
    for row in range(len(boxes)):
        same = (true_labels == labels[row]) & (overlaps[row] >= _MATCH_IOU)
        free = np.flatnonzero(same & ~found & ~crowd)
        if len(free):
            best = free[np.argmax(overlaps[row][free])]
            right[row] = found[best] = True
        else:
            right[row] = bool(((true_labels == labels[row]) & crowd & (inside[row] >= _MATCH_IOU)).any())
    return right, found


def _overlaps(boxes: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU [K, N], and the share of each detection's area inside of each true box."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    area, true_area = (np.prod(np.clip(b[:, 2:] - b[:, :2], 0, None), axis=1) for b in (boxes, truth))
    return both / np.maximum(area[:, None] + true_area[None] - both, 1e-12), both / np.maximum(area[:, None], 1e-12)


def _figures(
    parts: Sequence[Part],
    info: ModelInfo,
    wanted: Callable[[np.ndarray], np.ndarray],
    codes: Iterable[int],
    curves: bool,
) -> dict[str, Any]:
    """Gives "map", "map50", "map75", by class "ap", "ap50", "ap75", "instances"; "miou", "iou" by class,
    "pixel_accuracy"; "frames_with_boxes", "frames_with_masks"; with curves "precision" by class at COCO's "recalls",
    IoU 0.5."""
    predictions, truths, masked = [], [], 0
    for truth, run in parts:
        chosen = wanted(run["mode"])
        masked += int((chosen & truth["masked"]).sum())
        for place, (found, true) in enumerate(zip(_rows(run, ("boxes", "scores", "labels")), _rows(truth, _TRUE))):
            if chosen[place] and truth["labelled"][place]:
                predictions.append(found)
                truths.append(true)
    scores: DetectionScores = coco_scores(predictions, truths, info.box_classes)
    figures: dict[str, Any] = {**scores.to_dict(), "frames_with_boxes": len(truths), "frames_with_masks": masked}
    figures |= {"miou": None, "iou": {}, "pixel_accuracy": None}
    if info.mask_classes and masked:
        matrix = ConfusionMatrix(info.mask_classes)
        for _, run in parts:
            matrix.counts += run["confusion"][list(codes)].sum(axis=0)
        figures |= {"miou": matrix.mean_iou(), "iou": matrix.iou(), "pixel_accuracy": matrix.accuracy()}
    if curves and truths:
        figures["recalls"] = RECALLS.tolist()
        figures["precision"] = {
            name: values.tolist() for name, values in scores.precision.items() if scores.instances[name]
        }
    return rounded(figures)


_TRUE = ("boxes", "labels", "crowd")


def _rows(arrays: Arrays, keys: Sequence[str]) -> list[tuple[np.ndarray, ...]]:
    """One tuple a frame."""
    ends = np.cumsum(arrays["count"])
    starts = ends - arrays["count"]
    return [tuple(arrays[key][a:b] for key in keys) for a, b in zip(starts, ends)]
