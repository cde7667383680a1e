"""Compute scores of one or several bags from results at labelled frames, in total and by mode.

Several bags are pooled, since the average precisions of parts cannot be averaged.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from spectradino_core.bags.labelled_frames import MODES, NO_ERROR, Arrays
from spectradino_core.evaluation.detection import RECALLS, detection_scores, match_image
from spectradino_core.evaluation.scorer import ALL, Scorer, Scores
from spectradino_core.evaluation.spread import rounded
from spectradino_core.runtime.bundle import ModelInfo

__all__ = ["SUMMARY", "score", "summary"]

SUMMARY = ("map", "map50", "map75", "miou", "answered")
"""Figures that `summary` returns."""

_ANSWERED = "answered"
_AGES_MS = (10.0, 40.0, 75.0, 120.0)
"""Limits of the groups by the distance in time of the two frames: 0, 1, 2 and 3 periods at 30 Hz, and beyond."""

_AGES = tuple(
    f"{low:g} to {high:g} ms" if high < math.inf else f"over {low:g} ms"
    for low, high in zip((0.0, *_AGES_MS), (*_AGES_MS, math.inf))
)

Part = tuple[Arrays, Arrays]
"""Arrays of one bag: `truth_arrays` and `LabelledFrames.arrays`."""


def score(parts: Sequence[Part], info: ModelInfo, curves: bool = True) -> dict[str, Any]:
    """Compute all scores of a replay, as JSON data.

    Args:
        parts: the bags, in order.
        info: the model's classes.
        curves: whether to include precision at each of COCO's recalls.

    Returns:
        "frames" (number of labelled frames by outcome), "all" (misses count), "answered" (only frames with a result),
        "by_mode", and "by_ir_age" (detection by the distance in time of a pair's frames); see `_figures`. Figures are
        None without labels.
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
    scorer = _scorer(parts, info)
    return {
        "frames": frames,
        "all": _figures(scorer.scores(), info, curves),
        "answered": _figures(scorer.scores(_ANSWERED), info),
        "by_mode": {
            mode.value: _figures(scorer.scores(mode.value), info)
            for code, mode in enumerate(MODES)
            if (modes == code).any()
        },
        "by_ir_age": {
            age: {"frames": found.images, **_figures(found, info)}
            for age, found in ((age, scorer.scores(age)) for age in _AGES)
            if found.images
        },
    }


def summary(parts: Sequence[Part], info: ModelInfo) -> dict[str, float | None]:
    """Compute the figures `SUMMARY` of a sweep point, misses counted.

    "answered" is the fraction of the labelled frames with a result.
    """
    figures = _figures(_scorer(parts, info).scores(), info)
    modes = np.concatenate([np.empty(0, np.int8), *(run["mode"] for _, run in parts)])
    figures["answered"] = rounded(float((modes >= 0).mean())) if len(modes) else None
    return {name: figures[name] for name in SUMMARY}


def _scorer(parts: Sequence[Part], info: ModelInfo) -> Scorer:
    """Count by the subsets `ALL`, `_ANSWERED` and each mode."""
    scorer = Scorer(info.box_classes, info.mask_classes, info.score_threshold)
    for truth, run in parts:
        rows = zip(_rows(run, ("boxes", "scores", "labels")), _rows(truth, ("boxes", "labels", "crowd")), strict=True)
        for place, (found, true) in enumerate(rows):
            labelled = truth["labelled"][place] and info.box_classes
            matches = match_image(found, true, len(info.box_classes), name=place) if labelled else None
            subsets = (*_subsets(run["mode"][place]), *_age(run["error_ns"][place]))
            scorer.count(subsets, matches, masked=bool(truth["masked"][place]))
        for code, counts in enumerate(run["confusion"] if info.mask_classes else ()):
            scorer.count_pixels(_subsets(code), counts)
    return scorer


def _age(error_ns: int) -> tuple[str, ...]:
    """Group of a pair by the distance of its frames; none without a pair."""
    return () if error_ns == NO_ERROR else (_AGES[bisect.bisect_left(_AGES_MS, abs(error_ns) / 1e6)],)


def _subsets(code: int) -> tuple[str, ...]:
    """Subsets of a frame by its mode code; -1 and the last row of pixel counts are frames without a result."""
    return (ALL, _ANSWERED, MODES[code].value) if 0 <= code < len(MODES) else (ALL,)


def _figures(scores: Scores, info: ModelInfo, curves: bool = False) -> dict[str, Any]:
    """Return the figures of one subset as JSON data.

    "map", "map50", "map75", by class "ap", "ap50", "ap75", "instances"; "miou", "iou" by class, "pixel_accuracy";
    "frames_with_boxes", "frames_with_masks"; with curves "precision" by class at COCO's "recalls", IoU 0.5.
    """
    detection = scores.detection or detection_scores((), info.box_classes)
    figures: dict[str, Any] = {
        **detection.to_dict(),
        "frames_with_boxes": scores.images_with_boxes,
        "frames_with_masks": scores.images_with_masks,
    }
    figures |= {"miou": None, "iou": {}, "pixel_accuracy": None}
    if (pixels := scores.segmentation) is not None:
        figures |= {"miou": pixels.miou, "iou": pixels.iou, "pixel_accuracy": pixels.pixel_accuracy}
    if curves and scores.images_with_boxes:
        figures["recalls"] = RECALLS.tolist()
        figures["precision"] = {
            name: values.tolist() for name, values in detection.precision.items() if detection.instances[name]
        }
    return rounded(figures)


def _rows(arrays: Arrays, keys: Sequence[str]) -> list[tuple[np.ndarray, ...]]:
    """Split arrays into one tuple per frame."""
    ends = np.cumsum(arrays["count"])
    starts = ends - arrays["count"]
    return [tuple(arrays[key][a:b] for key in keys) for a, b in zip(starts, ends, strict=True)]
