"""Comparison of a model with both streams, with each stream, and with the baseline, on the same pairs.

The baseline is frozen DINOv2 with infrared as a grey image and the same head, so the difference is the gain of the
adapters. A later revision of the paper reports that it can be negative, so every table includes the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from spectradino_core.data.labels import describe_notes
from spectradino_core.evaluation.confusion import DetectionConfusion
from spectradino_core.evaluation.detection import mean_average_precision
from spectradino_core.evaluation.scorer import ALL, Run, Scorer, Scores, score_runs
from spectradino_core.evaluation.sets import LabelledSet
from spectradino_core.evaluation.spread import Spread
from spectradino_core.evaluation.vocabulary import Vocabulary
from spectradino_core.evaluation.worst import WorstFrames
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline

__all__ = ["BASELINE", "FUSED", "METRICS", "THRESHOLDS", "Comparison", "compare", "same_task"]

FUSED = "fused"
BASELINE = "frozen DINOv2, IR as grey"
_STREAMS = {FUSED: Mode.FUSED, "RGB only": Mode.RGB_ONLY, "IR only": Mode.IR_ONLY}

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 19))
"""Score thresholds 0.05 to 0.9 to choose `ModelInfo.score_threshold` from."""

METRICS: Mapping[str, Callable[[Scores], float | None]] = {
    "mAP": lambda scores: None if scores.detection is None else scores.detection.map,
    "mAP50": lambda scores: None if scores.detection is None else scores.detection.map50,
    "mAP75": lambda scores: None if scores.detection is None else scores.detection.map75,
    "mIoU": lambda scores: None if scores.segmentation is None else scores.segmentation.miou,
    "mAcc": lambda scores: None if scores.segmentation is None else scores.segmentation.macc,
}
"""Columns of a table by name: functions from scores to 0..1, or None without labels."""


@dataclass
class Comparison:
    """Scores of one data set, for its tables.

    Attributes:
        name: name of the data set.
        info: metadata of the first model; all models have its classes.
        rows: names of the rows.
        scores: scores by subset and row, one per seed; empty for a baseline that was not given.
        images: number of pairs by subset.
        worst: worst frames of the first model, fused.
        thresholds: confusions of the first model by score threshold; empty without box labels.
        unknown: classes of the data set that the models lack, which are excluded.
        about: notes of the data set, such as which pixels its rule ignores.
        label_notes: notes on the label files.
        masks: how masks were enlarged to the images; empty for models without masks.
    """

    name: str
    info: ModelInfo
    rows: tuple[str, ...]
    scores: dict[str, dict[str, list[Scores]]]
    images: dict[str, int]
    worst: WorstFrames
    thresholds: Mapping[float, DetectionConfusion]
    unknown: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    label_notes: tuple[str, ...] = ()
    masks: str = ""

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(self.scores)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Entries of `METRICS` for which there are labels."""
        return tuple(name for name, of in METRICS.items() if any(of(s) is not None for s in self.scores[ALL][FUSED]))

    @property
    def best_threshold(self) -> float | None:
        """The threshold with the highest F1, averaged over classes; None without box labels."""
        found = {t: mean_average_precision(mistakes.f1()) for t, mistakes in self.thresholds.items()}
        known = {t: value for t, value in found.items() if value == value}
        return max(known, key=lambda t: known[t]) if known else None

    def figure(self, metric: str, row: str, subset: str = ALL) -> Spread:
        """Return one of `METRICS` of one row over its seeds."""
        return Spread.of(METRICS[metric](scores) for scores in self.scores[subset].get(row, []))

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
    """Check that models are comparable in one table.

    Args:
        infos: metadata by file.

    Raises:
        ValueError: a model has another infrared band or other classes; names its file.
    """
    (first, expected), *others = infos.items()
    for name, info in others:
        for what, of in (
            ("takes", lambda i: i.infrared.key),
            ("knows the boxes", lambda i: list(i.box_classes)),
            ("knows the masks", lambda i: list(i.mask_classes)),
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
    left_out: Sequence[str] = (),
    workers: int = 0,
) -> Comparison:
    """Score all models on all pairs of a data set.

    Args:
        models: seeds of one model.
        baselines: seeds of the baseline; empty: its row is kept without scores.
        data: the data set.
        worst: number of worst frames to draw.
        left_out: mask classes that the data set's rule excludes from the means.
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
    unknown = [name for name in left_out if name not in info.mask_classes]
    if unknown:
        raise ValueError(
            f"{unknown[0]} can't be excluded from the means: the mask classes are {', '.join(info.mask_classes)}"
        )
    vocabulary = Vocabulary.between(info, data, data.name)
    runs = {
        (row, seed): Run(pipeline, mode)
        for row, mode in _STREAMS.items()
        for seed, pipeline in enumerate(models)
    } | {(BASELINE, seed): Run(pipeline) for seed, pipeline in enumerate(baselines)}  # fmt: skip
    names = {f"{row} {seed}": run for (row, seed), run in runs.items()}
    kept = WorstFrames(info, models[0].score_threshold, worst)
    found = score_runs(names, _with_progress(vocabulary, data, workers), {f"{FUSED} 0": kept})
    first = found[f"{FUSED} 0"]
    images = first.images
    if not images[ALL]:
        raise ValueError(f"{data.name} holds no pairs")
    rows = (*_STREAMS, BASELINE)

    def scorers(row: str) -> list[Scorer]:
        return [found[f"{row} {seed}"] for r, seed in runs if r == row]

    return Comparison(
        name=data.name,
        info=info,
        rows=rows,
        scores={
            subset: {row: [one.scores(subset, left_out) for one in scorers(row)] for row in rows} for subset in images
        },
        images=images,
        worst=kept,
        thresholds={t: made for t in THRESHOLDS if (made := first.mistakes(t)) is not None},
        unknown=(*vocabulary.unknown_boxes, *vocabulary.unknown_masks),
        about=_about(data),
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


def _with_progress(vocabulary: Vocabulary, data: LabelledSet, workers: int) -> Iterator:
    """Iterate over the pairs with the model's labels, with a progress bar on a terminal."""
    return map(vocabulary, tqdm(data.samples(workers), total=len(data), unit="pair", desc=data.name, disable=None))


def _about(data: LabelledSet) -> tuple[str, ...]:
    """Return the rule of a published benchmark, if its reader has one."""
    rule = getattr(data, "ignore", "")
    return (str(rule),) if rule else ()
