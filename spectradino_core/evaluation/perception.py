"""Validation scores during training, computed with the serving pipeline.

Reports use `scorer.py`, which has all of COCO's scores.
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
    """Compute AP50 and IoU by class, and their means, over labelled pairs.

    Args:
        pipeline: its score threshold is lowered during the call.
        samples: labelled pairs; those without boxes (or mask) are skipped in that score.
        mode: FUSED, or RGB_ONLY or IR_ONLY without the other frame.

    Returns:
        {"mode", "pairs", "ap50": by class, "map50", "iou": by class, "miou"}; nan without labels.
    """
    info = pipeline.info
    scores = score_runs({mode.value: Run(pipeline, mode)}, samples)[mode.value].scores()
    detection, segmentation = scores.detection, scores.segmentation
    nan = float("nan")
    return {
        "mode": mode.value,
        "pairs": scores.images,
        "ap50": dict.fromkeys(info.box_classes, nan) if detection is None else dict(detection.ap50),
        "map50": nan if detection is None else detection.map50,
        "iou": dict.fromkeys(info.mask_classes, nan) if segmentation is None else dict(segmentation.iou),
        "miou": nan if segmentation is None else segmentation.miou,
    }
