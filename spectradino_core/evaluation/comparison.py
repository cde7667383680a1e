"""Comparison of a model with both streams, with each alone, and of the baseline on the same pairs.

The baseline is frozen DINOv2 that sees infrared as a grey picture, under the same head: what the adapters add is what
is above it. A later revision of the paper reports that they can lose to it, so no table goes without.
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
"""Scores, 0.05 to 0.9, from which boxes might count; models store one of them, `ModelInfo.score_threshold`."""

METRICS: Mapping[str, Callable[[Scores], float | None]] = {
    "mAP": lambda scores: None if scores.detection is None else scores.detection.map,
    "mAP50": lambda scores: None if scores.detection is None else scores.detection.map50,
    "mAP75": lambda scores: None if scores.detection is None else scores.detection.map75,
    "mIoU": lambda scores: None if scores.segmentation is None else scores.segmentation.miou,
    "mAcc": lambda scores: None if scores.segmentation is None else scores.segmentation.macc,
}
"""Columns of a table, by name: from scores to 0..1, None where nothing was labelled for it."""


@dataclass
class Comparison:
    """Scores of one set, for its tables.

    Attributes:
        name: of the set.
        info: of the first model; all have its classes.
        rows: by row name, one entry per seed; none for a baseline that was not given.
        scores: by subset and row, one per seed.
        images: pairs, by subset.
        worst: gallery of the first model, fused.
        thresholds: its confusions by score threshold; none without box labels.
        unknown: classes of the set that the models don't know, which are left out.
        about: the set's own notes, such as which pixels its rule ignores.
        label_notes: oddities of the set's label files, in words.
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

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(self.scores)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of `METRICS` that something was labelled for."""
        return tuple(name for name, of in METRICS.items() if any(of(s) is not None for s in self.scores[ALL][FUSED]))

    @property
    def best_threshold(self) -> float | None:
        """Of `thresholds` the one with the highest F1, mean over classes; None without box labels."""
        found = {t: mean_average_precision(mistakes.f1()) for t, mistakes in self.thresholds.items()}
        known = {t: value for t, value in found.items() if value == value}
        return max(known, key=lambda t: known[t]) if known else None

    def figure(self, metric: str, row: str, subset: str = ALL) -> Spread:
        """One of `METRICS` of one row, over its seeds."""
        return Spread.of(METRICS[metric](scores) for scores in self.scores[subset].get(row, []))

    def precision(self) -> dict[str, dict[str, np.ndarray]]:
        """By row, precision at each of COCO's recalls by class, IoU 0.5, mean over seeds."""
        found = {
            row: [s.detection.precision for s in scores if s.detection] for row, scores in self.scores[ALL].items()
        }
        return {
            row: {label: np.mean([one[label] for one in seeds], axis=0) for label in seeds[0]}
            for row, seeds in found.items()
            if seeds
        }

    def by_class(self, kind: str, row: str, subset: str = ALL) -> dict[str, Spread]:
        """Scores by class of one row over its seeds; kind is "ap", "ap50", "ap75", "iou" or "accuracy"."""
        part = "segmentation" if kind in ("iou", "accuracy") else "detection"
        known = [getattr(getattr(s, part), kind) for s in self.scores[subset].get(row, []) if getattr(s, part)]
        return {label: Spread.of(values[label] for values in known) for label in (known[0] if known else ())}


def same_task(infos: Mapping[str, ModelInfo]) -> None:
    """Checks that models are comparable in one table.

    Args:
        infos: by file.

    Raises:
        ValueError: they take another infrared band or know other classes; names the file.
    """
    (first, wanted), *others = infos.items()
    for name, info in others:
        for what, of in (
            ("takes", lambda i: i.infrared.key),
            ("knows the boxes", lambda i: list(i.box_classes)),
            ("knows the masks", lambda i: list(i.mask_classes)),
        ):
            if of(info) != of(wanted):
                raise ValueError(f"{name} can't stand beside {first}: it {what} {of(info)}, the other {of(wanted)}")


def compare(
    models: Sequence[Pipeline],
    baselines: Sequence[Pipeline],
    data: LabelledSet,
    worst: int = 8,
    left_out: Sequence[str] = (),
) -> Comparison:
    """Scores all models on all pairs of a set.

    Args:
        models: the seeds of one model.
        baselines: seeds of the baseline; may be none: its row is kept, empty.
        data: the set.
        worst: how many of the worst frames to draw.
        left_out: mask classes that the set's rule leaves out of its means.

    Raises:
        ValueError: the set has another infrared band, or no class in common with the models, or no pairs; or a class to
            leave out is none of the models'.
    """
    info = models[0].info
    if data.infrared is not info.infrared:
        raise ValueError(
            f"{data.name} pairs colour with {data.infrared.key}, {info.name} takes {info.infrared.key}: "
            "choose a model for that band"
        )
    unknown = [name for name in left_out if name not in info.mask_classes]
    if unknown:  # before all pairs are scored
        raise ValueError(
            f"{unknown[0]} can't be left out of the means: the mask classes are {', '.join(info.mask_classes)}"
        )
    vocabulary = Vocabulary.between(info, data, data.name)
    runs = {
        (row, seed): Run(pipeline, mode)
        for row, mode in _STREAMS.items()
        for seed, pipeline in enumerate(models)
    } | {(BASELINE, seed): Run(pipeline) for seed, pipeline in enumerate(baselines)}  # fmt: skip
    names = {f"{row} {seed}": run for (row, seed), run in runs.items()}
    kept = WorstFrames(info, models[0].score_threshold, worst)
    found = score_runs(names, _watched(vocabulary, data), {f"{FUSED} 0": kept})
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
    )


def _watched(vocabulary: Vocabulary, data: LabelledSet) -> Iterator:
    """The pairs with the model's labels, with a progress bar on a terminal."""
    return map(vocabulary, tqdm(data.samples(), total=len(data), unit="pair", desc=data.name, disable=None))


def _about(data: LabelledSet) -> tuple[str, ...]:
    """A published benchmark's rule, as its reader gives it."""
    rule = getattr(data, "ignore", "")
    return (str(rule),) if rule else ()
