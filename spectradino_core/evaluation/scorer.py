"""What models answer on labelled pairs, with both streams or one withheld, kept so that any score can be made of it.

Letters: h w an image, K boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.coco import DetectionScores, coco_scores
from spectradino_core.evaluation.confusion import DetectionConfusion
from spectradino_core.evaluation.segmentation import ConfusionMatrix, SegmentationScores
from spectradino_core.evaluation.worst import Worst
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.percepts import Mode, Percepts
from spectradino_core.runtime.pipeline import Pipeline

__all__ = ["ALL", "Answers", "Run", "Scores", "collect"]

ALL = "all"
"""The subset that every pair belongs to."""

_SCORE_FLOOR = 0.02
"""Average precision wants the whole curve: detections far below the serving threshold count."""


@dataclass(frozen=True)
class Run:
    """A model and the streams it is given."""

    pipeline: Pipeline
    mode: Mode = Mode.FUSED


@dataclass(frozen=True)
class Scores:
    """Of one model on one subset; what nothing was labelled for is None.

    Attributes:
        images: pairs of the subset.
        detection: COCO's.
        boxes: mistakes at the serving threshold.
        segmentation: by the confusion matrix `pixels`.
    """

    images: int
    detection: DetectionScores | None
    boxes: DetectionConfusion | None
    segmentation: SegmentationScores | None
    pixels: ConfusionMatrix | None


@dataclass
class _Image:
    """What is kept of one image."""

    prediction: tuple[np.ndarray, np.ndarray, np.ndarray]
    truth: tuple[np.ndarray, np.ndarray, np.ndarray]
    mistakes: DetectionConfusion
    subsets: tuple[str, ...]


@dataclass
class Answers:
    """What one model answered, pair by pair.

    Attributes:
        info: of the model.
        threshold: score from which a detection counts as one on the robot.
        images: pairs seen, by subset.
    """

    info: ModelInfo
    threshold: float
    images: Counter[str] = field(default_factory=Counter)
    _boxed: list[_Image] = field(default_factory=list)
    _pixels: dict[str, ConfusionMatrix] = field(default_factory=dict)

    @property
    def subsets(self) -> tuple[str, ...]:
        """`ALL`, and then those that some pairs belong to and others don't, in alphabetical order."""
        return (ALL, *sorted(name for name, count in self.images.items() if count < self.images[ALL]))

    def add(self, sample: PairedSample, percepts: Percepts) -> float:
        """Takes one answer in; `sample` has the model's labels (see `Vocabulary`). Returns how bad the answer is:
        the number of mistaken boxes plus the share of mistaken pixels, 0 for a perfect one."""
        subsets = (ALL, *(name for name in dict.fromkeys(sample.subsets) if name != ALL))
        self.images.update(subsets)
        bad = 0.0
        if self.info.box_classes and sample.boxes is not None and sample.labels is not None:
            percepts = _of_classes(percepts, sample.labelled_classes)
            served = percepts.scores >= self.threshold
            ignored, ignored_labels = _ignored(sample)
            mistakes = DetectionConfusion(self.info.box_classes)
            bad += mistakes.add(percepts.boxes[served], percepts.labels[served], sample.boxes, sample.labels, ignored)
            truth = (
                np.concatenate([sample.boxes, ignored]),
                np.concatenate([sample.labels, ignored_labels]),
                np.repeat([False, True], [len(sample.boxes), len(ignored)]),
            )
            self._boxed.append(_Image((percepts.boxes, percepts.scores, percepts.labels), truth, mistakes, subsets))
        if percepts.mask is not None and sample.mask is not None:
            pixels = ConfusionMatrix(self.info.mask_classes)
            pixels.add(percepts.mask, sample.mask)
            for name in subsets:
                self._pixels[name] = self._pixels[name] + pixels if name in self._pixels else pixels
            if pixels.counts.any():
                bad += 1 - pixels.accuracy()
        return bad

    def boxes(self, subset: str = ALL) -> tuple[list[tuple[np.ndarray, ...]], list[tuple[np.ndarray, ...]]]:
        """Predictions and truths of the pairs with box labels, as `coco_scores` takes them."""
        chosen = [image for image in self._boxed if subset in image.subsets]
        return [image.prediction for image in chosen], [image.truth for image in chosen]

    def at_threshold(self, threshold: float) -> DetectionConfusion | None:
        """What boxes would get wrong if they counted from another score on; None without box labels."""
        if not self._boxed:
            return None
        mistakes = DetectionConfusion(self.info.box_classes)
        for image in self._boxed:
            (boxes, scores, labels), (true_boxes, true_labels, ignored) = image.prediction, image.truth
            served = scores >= threshold
            mistakes.add(
                boxes[served], labels[served], true_boxes[~ignored], true_labels[~ignored], true_boxes[ignored]
            )  # fmt: skip
        return mistakes

    def scores(self, subset: str = ALL, left_out: Collection[str] = ()) -> Scores:
        """All scores of a subset.

        Args:
            subset: one of `subsets`.
            left_out: mask classes that the benchmark leaves out of its means.
        """
        chosen = [image for image in self._boxed if subset in image.subsets]
        mistakes = None
        if chosen:
            mistakes = sum((image.mistakes for image in chosen[1:]), chosen[0].mistakes)
        pixels = self._pixels.get(subset)
        return Scores(
            images=self.images[subset],
            detection=coco_scores(*self.boxes(subset), self.info.box_classes) if chosen else None,
            boxes=mistakes,
            segmentation=None if pixels is None else pixels.scores(left_out),
            pixels=pixels,
        )


def collect(
    runs: Mapping[str, Run], samples: Iterable[PairedSample], worst: Mapping[str, Worst] | None = None
) -> dict[str, Answers]:
    """Asks every run about every pair; each pair is read or rendered once.

    Args:
        runs: by name; a pipeline may occur in several.
        samples: labelled pairs, with the labels of the models.
        worst: by run, what to keep the worst answers in.
    """
    answers = {name: Answers(run.pipeline.info, run.pipeline.score_threshold) for name, run in runs.items()}
    with ExitStack() as lowered:
        for pipeline in {id(run.pipeline): run.pipeline for run in runs.values()}.values():
            lowered.enter_context(_every_detection(pipeline))
        for sample in samples:
            for name, run in runs.items():
                rgb = sample.rgb if sample.present[0] and run.mode is not Mode.IR_ONLY else None
                infrared = sample.infrared if sample.present[1] and run.mode is not Mode.RGB_ONLY else None
                if rgb is None and infrared is None:
                    continue  # this camera has no frame here, so there is nothing to ask
                percepts = run.pipeline(rgb, infrared)
                run.pipeline.reset()  # samples are no stream
                bad = answers[name].add(sample, percepts)
                if worst and name in worst:
                    worst[name].offer(bad, sample, percepts, run.pipeline.info, answers[name].threshold)
    return answers


def _of_classes(percepts: Percepts, classes: tuple[int, ...] | None) -> Percepts:
    """Only the boxes of these classes: those of the others are neither right nor wrong."""
    if classes is None:
        return percepts
    kept = np.isin(percepts.labels, classes)
    return replace(percepts, boxes=percepts.boxes[kept], scores=percepts.scores[kept], labels=percepts.labels[kept])


def _ignored(sample: PairedSample) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float32 [I, 4] and labels int64 [I] of what is neither right nor wrong to find."""
    if sample.ignored is None or sample.ignored_labels is None:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return sample.ignored, sample.ignored_labels


@contextmanager
def _every_detection(pipeline: Pipeline) -> Iterator[None]:
    serving, pipeline.score_threshold = pipeline.score_threshold, min(_SCORE_FLOOR, pipeline.score_threshold)
    try:
        yield
    finally:
        pipeline.score_threshold = serving
