"""Scores of a pipeline over labelled pairs: the same pipeline that serves, on both streams or on one.

Letters: h x w a source image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectradino_core.data.mixture import FIRST_TEST_SEED, scene_sample
from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scenes import BOX_CLASSES
from spectradino_core.evaluation.detection import average_precision, mean_average_precision
from spectradino_core.evaluation.segmentation import ConfusionMatrix
from spectradino_core.modality import Modality
from spectradino_core.runtime.percepts import Mode
from spectradino_core.runtime.pipeline import Pipeline

__all__ = ["FolderSet", "SceneSet", "score_samples", "validation_scenes"]

_SCORE_FLOOR = 0.02
"""Average precision wants the whole curve: detections far below the serving threshold count."""


@dataclass(frozen=True)
class SceneSet:
    """Scenes of given seeds, rendered when asked for."""

    seeds: Sequence[int]
    infrared: Modality
    size: tuple[int, int]
    time_of_day: str | None = None

    def __iter__(self) -> Iterator[PairedSample]:
        for seed in self.seeds:
            yield scene_sample(seed, self.infrared, self.size, time_of_day=self.time_of_day)


class FolderSet:
    """The labelled pairs of one split of a folder (see `paired_folder`)."""

    def __init__(self, root: str | Path, split: str, infrared: Modality) -> None:
        """
        Raises:
            ValueError: the folder is not one of paired images, or none of its pairs has boxes.
        """
        self._folder = PairedFolder(root, split, infrared=infrared.key, classes=BOX_CLASSES)
        self._items = [item for item in self._folder if item.boxes is not None]
        if not self._items:
            raise ValueError(f"{root}: no pair of its {split} split has boxes (instances_{split}.json)")

    def __iter__(self) -> Iterator[PairedSample]:
        return map(self._folder.load, self._items)


def validation_scenes(infrared: Modality, size: tuple[int, int], count: int, first: int = 500_000) -> SceneSet:
    """Scenes for training curves: held out from training, and apart from those that reported figures are made on."""
    return SceneSet(range(FIRST_TEST_SEED + first, FIRST_TEST_SEED + first + count), infrared, size)


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
    serving_threshold, pipeline.score_threshold = pipeline.score_threshold, _SCORE_FLOOR
    predictions, truths, pairs = [], [], 0
    confusion = ConfusionMatrix(info.mask_classes) if info.mask_classes else None
    try:
        for sample in samples:
            percepts = pipeline(
                None if mode is Mode.IR_ONLY else sample.rgb, None if mode is Mode.RGB_ONLY else sample.infrared
            )
            pipeline.reset()  # samples are no stream
            pairs += 1
            if sample.boxes is not None and sample.labels is not None:
                predictions.append((percepts.boxes, percepts.scores, percepts.labels))
                truths.append((sample.boxes, sample.labels))
            if confusion is not None and sample.mask is not None and percepts.mask is not None:
                confusion.add(percepts.mask, sample.mask)
    finally:
        pipeline.score_threshold = serving_threshold
    ap = average_precision(predictions, truths, info.box_classes)
    return {
        "mode": mode.value,
        "pairs": pairs,
        "ap50": ap,
        "map50": mean_average_precision(ap),
        "iou": {} if confusion is None else confusion.iou(),
        "miou": float("nan") if confusion is None else confusion.mean_iou(),
    }
