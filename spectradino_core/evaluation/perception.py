"""The few scores that a training curve shows, by the same pipeline that serves.

Reports take `scorer.py`, which has all of COCO's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.scorer import Run, score_runs
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline

__all__ = ["score_samples"]


def score_samples(pipeline: Pipeline, samples: Iterable[PairedSample], mode: Mode = Mode.FUSED) -> dict[str, Any]:
    """AP50 by class and mean IoU over labelled pairs.

    Args:
        pipeline: its score threshold is lowered for the time of the call.
        samples: labelled pairs; those without boxes (or mask) don't count for that score.
        mode: FUSED, or RGB_ONLY or IR_ONLY: the other frame is withheld.

    Returns:
        {"mode", "pairs", "ap50": by class, "map50", "iou": by class, "miou"}; nan where nothing was labelled.
    """
    info = pipeline.info
    scores = score_runs({mode.value: Run(pipeline, mode)}, samples)[mode.value].scores()
    detection, segmentation = scores.detection, scores.segmentation
    nothing = float("nan")
    return {
        "mode": mode.value,
        "pairs": scores.images,
        "ap50": dict.fromkeys(info.box_classes, nothing) if detection is None else dict(detection.ap50),
        "map50": nothing if detection is None else detection.map50,
        "iou": dict.fromkeys(info.mask_classes, nothing) if segmentation is None else dict(segmentation.iou),
        "miou": nothing if segmentation is None else segmentation.miou,
    }
