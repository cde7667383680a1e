"""Comparison of a model with both streams, with each stream, and with the baseline, on the same pairs.

The baseline is frozen DINOv2 with infrared as a grey image and the same head, so the difference is the gain of the
adapters. A later revision of the paper reports that it can be negative, so every table includes the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from spectradino_core.data.labels import describe_notes
from spectradino_core.evaluation.detection import DetectionConfusion
from spectradino_core.evaluation.scorer import ALL, Run, Scores, score_runs
from spectradino_core.evaluation.sets import LabelledSet, Vocabulary
from spectradino_core.evaluation.spread import Spread, known_mean
from spectradino_core.evaluation.worst import WorstFrames
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline

FUSED = "fused"
BASELINE = "frozen DINOv2, IR as grey"
_STREAMS = {FUSED: Mode.FUSED, "RGB only": Mode.RGB_ONLY, "IR only": Mode.IR_ONLY}

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 19))
"""Score thresholds 0.05 to 0.9 to choose `ModelInfo.score_threshold` from."""

METRICS = {
    "mAP": ("detection", "map"),
    "mAP50": ("detection", "map50"),
    "mAP75": ("detection", "map75"),
    "mIoU": ("segmentation", "miou"),
    "mAcc": ("segmentation", "macc"),
}
"""Columns of a table by name: attributes of `Scores` and of its part; see `metric_of`."""


def metric_of(scores: Scores, metric: str) -> float | None:
    """Return one of `METRICS`, in 0..1; None without labels."""
    part, name = METRICS[metric]
    found = getattr(scores, part)
    return None if found is None else getattr(found, name)


@dataclass
class Comparison:
    """Scores of one data set, for its tables.

    Attributes:
        name: name of the data set.
        info: metadata of the first model; all models have its classes.
        scores: scores by subset and row, one per seed; empty for a baseline that was not given.
        images: number of pairs by subset.
        worst, thresholds: worst frames of the first model, fused, and its confusions by score threshold, if there are
            box labels.
        unknown: classes of the data set that the models lack, which are excluded.
        about, label_notes: the rule of a published benchmark, if there is one, and notes on the label files.
        masks: how masks were enlarged to the images; empty for models without masks.
    """

    name: str
    info: ModelInfo
    scores: dict[str, dict[str, list[Scores]]]
    images: dict[str, int]
    worst: WorstFrames
    thresholds: Mapping[float, DetectionConfusion]
    unknown: tuple[str, ...]
    about: tuple[str, ...]
    label_notes: tuple[str, ...]
    masks: str

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(self.scores[ALL])

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(self.scores)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Entries of `METRICS` for which there are labels."""
        fused = self.scores[ALL][FUSED]
        return tuple(name for name in METRICS if any(metric_of(scores, name) is not None for scores in fused))

    @property
    def best_threshold(self) -> float | None:
        """The threshold with the highest F1, averaged over classes; None without box labels."""
        found = {t: known_mean(mistakes.f1().values()) for t, mistakes in self.thresholds.items()}
        known = {t: value for t, value in found.items() if not math.isnan(value)}
        return max(known, key=lambda t: known[t]) if known else None

    def figure(self, metric: str, row: str, subset: str = ALL) -> Spread:
        """Return one of `METRICS` of one row over its seeds."""
        return Spread.of(metric_of(scores, metric) for scores in self.scores[subset].get(row, []))

    def precision(self) -> dict[str, dict[str, np.ndarray]]:
        """Return precision at each of COCO's recalls at IoU 0.5 by row and class, averaged over seeds."""
        found = {
            row: [s.detection.precision for s in scores if s.detection] for row, scores in self.scores[ALL].items()
        }
        return {
            row: {label: np.mean([one[label] for one in seeds], axis=0) for label in seeds[0]}
            for row, seeds in found.items()
            if seeds
        }

    def by_class(self, kind: str, row: str, subset: str = ALL) -> dict[str, Spread]:
        """Return scores by class of one row over its seeds; kind is "ap", "ap50", "ap75", "iou" or "accuracy"."""
        part = "segmentation" if kind in ("iou", "accuracy") else "detection"
        known = [getattr(getattr(s, part), kind) for s in self.scores[subset].get(row, []) if getattr(s, part)]
        return {label: Spread.of(values[label] for values in known) for label in (known[0] if known else ())}


def same_task(infos: Mapping[str, ModelInfo]) -> None:
    """Check that models, by file, are comparable in one table.

    Raises:
        ValueError: a model has another infrared band or other classes; names its file.
    """
    (first, expected), *others = infos.items()
    for name, info in others:
        for what, of in (
            ("takes", lambda i: i.infrared.key),
            ("has the box classes", lambda i: list(i.box_classes)),
            ("has the mask classes", lambda i: list(i.mask_classes)),
        ):
            if of(info) != of(expected):
                raise ValueError(
                    f"{name} can't be compared with {first}: it {what} {of(info)}, the other {of(expected)}"
                )


def compare(
    models: Sequence[Pipeline],
    baselines: Sequence[Pipeline],
    data: LabelledSet,
    worst: int = 8,
    excluded: Sequence[str] = (),
    workers: int = 0,
) -> Comparison:
    """Score all models on all pairs of a data set.

    Args:
        models, baselines: seeds of one model, and of the baseline; without any, its row is kept without scores.
        data: the data set.
        worst: number of worst frames to draw.
        excluded: mask classes to exclude from the means.
        workers: threads that read pairs ahead, see `prefetched`.

    Raises:
        ValueError: the data set has another infrared band, no class in common with the models, or no pairs; or an
            excluded class is not one of the models'.
    """
    info = models[0].info
    if data.infrared is not info.infrared:
        raise ValueError(
            f"{data.name} pairs RGB with {data.infrared.key}, {info.name} takes {info.infrared.key}: "
            "choose a model for that band"
        )
    unknown = [name for name in excluded if name not in info.mask_classes]
    if unknown:
        raise ValueError(
            f"{unknown[0]} can't be excluded from the means: the mask classes are {', '.join(info.mask_classes)}"
        )
    vocabulary = Vocabulary.between(info, data, data.name)
    runs: dict[str, list[Run]] = {row: [Run(pipeline, mode) for pipeline in models] for row, mode in _STREAMS.items()}
    runs[BASELINE] = [Run(pipeline) for pipeline in baselines]
    named = {f"{row} {seed}": run for row, seeds in runs.items() for seed, run in enumerate(seeds)}
    kept = WorstFrames(info, models[0].score_threshold, worst)
    pairs = tqdm(data.samples(workers), total=len(data), unit="pair", desc=data.name, disable=None)
    found = score_runs(named, map(vocabulary, pairs), {f"{FUSED} 0": kept})
    first = found[f"{FUSED} 0"]
    images = first.images
    if not images[ALL]:
        raise ValueError(f"{data.name} holds no pairs")

    def scores(row: str, subset: str) -> list[Scores]:
        return [found[f"{row} {seed}"].scores(subset, excluded) for seed in range(len(runs[row]))]

    rule = getattr(data, "ignore", "")
    return Comparison(
        name=data.name,
        info=info,
        scores={subset: {row: scores(row, subset) for row in runs} for subset in images},
        images=images,
        worst=kept,
        thresholds={t: made for t in THRESHOLDS if (made := first.mistakes(t)) is not None},
        unknown=vocabulary.unknown,
        about=(str(rule),) if rule else (),
        label_notes=(*describe_notes(getattr(data, "notes", {})), *getattr(data, "remarks", ())),
        masks=_masks([*models, *baselines]) if info.mask_classes else "",
    )


def _masks(pipelines: Sequence[Pipeline]) -> str:
    """Describe how the pipelines enlarge masks to the images."""
    exported = sum(not hasattr(pipeline.engine, "source_mask") for pipeline in pipelines)
    if not exported:
        return "logits enlarged bilinearly to the image, then classified, as in published figures"
    return (
        f"class maps of the network's size, enlarged to the image, for {exported} of {len(pipelines)} models: exported "
        "graphs give no logits. Evaluate checkpoints (.safetensors) to compare with published figures, which are some "
        "tenths of a point higher"
    )
