"""Scores of a model on labelled images, accumulated image by image without keeping images.

`spectradino evaluate`, validation during training and the demo add samples with their detections; bags add the results
of their replays. The scores of all images, of a subset and of a mode are computed from the same counts.

Letters: C mask classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.detection import (
    SCORE_FLOOR,
    DetectionConfusion,
    DetectionScores,
    ImageMatches,
    detection_scores,
    match_image,
)
from spectradino_core.evaluation.segmentation import ConfusionMatrix, SegmentationScores
from spectradino_core.evaluation.worst import TrueBoxes, WorstFrames
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.runtime.pipeline import Pipeline

_NO_DETECTIONS = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
"""Boxes, scores and labels."""

ALL = "all"
"""Subset of all images."""


@dataclass(frozen=True)
class Run:
    """A model and its input streams."""

    pipeline: Pipeline
    mode: Mode = Mode.FUSED


@dataclass(frozen=True)
class Scores:
    """Scores of one model on one subset; None without labels. `boxes` is the confusion at the serving threshold."""

    images: int
    images_with_boxes: int
    images_with_masks: int
    detection: DetectionScores | None
    boxes: DetectionConfusion | None
    segmentation: SegmentationScores | None
    pixels: ConfusionMatrix | None


@dataclass
class _Subset:
    images: int = 0
    matches: list[ImageMatches] = field(default_factory=list)
    masked: int = 0
    pixels: ConfusionMatrix | None = None


class Scorer:
    """Accumulates the scores of one model, in about 20 bytes per detection and 1 kB per image."""

    def __init__(
        self,
        box_classes: Sequence[str],
        mask_classes: Sequence[str],
        threshold: float,
        worst: WorstFrames | None = None,
    ) -> None:
        """Start without images.

        Args:
            box_classes, mask_classes: the model's classes; empty: boxes or masks are not scored.
            threshold: serving threshold, the minimum score of a detection on the robot.
            worst: collects the images with the most mistakes.
        """
        self._box_classes, self._mask_classes = tuple(box_classes), tuple(mask_classes)
        self._threshold, self._worst = threshold, worst
        self._subsets: dict[str, _Subset] = {}

    @property
    def images(self) -> dict[str, int]:
        """Number of images by subset: `ALL`, then the proper subsets in alphabetical order."""
        every = self._subset(ALL).images
        parts = {name: found.images for name, found in sorted(self._subsets.items()) if found.images < every}
        return {ALL: every} | parts

    def add(self, sample: PairedSample, detections: PerceptionResult | None) -> None:
        """Add one image with the model's labels (see `Vocabulary`).

        `detections` are in the pixels of the sample; None: the model gave no result, so no box was found, and the mask
        is not scored.
        """
        subsets = (ALL, *(name for name in dict.fromkeys(sample.subsets) if name != ALL))
        if detections is not None:
            detections = _of_classes(detections, sample.labelled_classes)
        true = _true_boxes(sample) if self._box_classes else None
        matches = pixels = None
        if true is not None:
            found = _NO_DETECTIONS if detections is None else (detections.boxes, detections.scores, detections.labels)
            matches = match_image(found, true, len(self._box_classes), name=sample.name)
        if self._mask_classes and sample.mask is not None and detections is not None and detections.mask is not None:
            pixels = ConfusionMatrix(self._mask_classes)
            pixels.add(detections.mask, sample.mask)
            self.count_pixels(subsets, pixels.counts)
        self.count(subsets, matches, masked=pixels is not None)
        if self._worst is not None and detections is not None and (matches is not None or pixels is not None):
            wrong_pixels = None
            if pixels is not None:
                wrong_pixels = 1 - pixels.scores().pixel_accuracy if pixels.counts.any() else 0.0
            self._worst.add_sample(sample, detections, true, matches, wrong_pixels)

    def count(self, subsets: Iterable[str], matches: ImageMatches | None, masked: bool) -> None:
        """Add one image of the subsets, including `ALL`, that is already matched; None: boxes are not labelled.

        `masked`: its mask is labelled; for the pixels see `count_pixels`.
        """
        for subset in map(self._subset, subsets):
            subset.images += 1
            subset.masked += masked
            if matches is not None:
                subset.matches.append(matches)

    def count_pixels(self, subsets: Iterable[str], counts: np.ndarray) -> None:
        """Add pixel counts of one image or several, int64 [C, C + 1] as in `ConfusionMatrix.counts`."""
        for subset in map(self._subset, subsets):
            subset.pixels = subset.pixels or ConfusionMatrix(self._mask_classes)
            subset.pixels.counts += counts

    def mistakes(self, threshold: float) -> DetectionConfusion | None:
        """Return the confusion of boxes at another score threshold; None without box labels."""
        matches = self._subset(ALL).matches
        return DetectionConfusion(matches, self._box_classes, threshold) if matches else None

    def scores(self, subset: str = ALL, excluded: Collection[str] = ()) -> Scores:
        """Compute all scores of a subset; `excluded` are mask classes to exclude from the means."""
        counted = self._subsets.get(subset, _Subset())
        matches, pixels = counted.matches, counted.pixels if counted.masked else None
        return Scores(
            images=counted.images,
            images_with_boxes=len(matches),
            images_with_masks=counted.masked,
            detection=detection_scores(matches, self._box_classes) if matches else None,
            boxes=DetectionConfusion(matches, self._box_classes, self._threshold) if matches else None,
            segmentation=None if pixels is None else pixels.scores(excluded),
            pixels=pixels,
        )

    def _subset(self, name: str) -> _Subset:
        return self._subsets.setdefault(name, _Subset())


def score_runs(
    runs: Mapping[str, Run], samples: Iterable[PairedSample], worst: Mapping[str, WorstFrames] | None = None
) -> dict[str, Scorer]:
    """Score every run, of which several may share a pipeline, on every pair; each pair is read or rendered once.

    Args:
        runs: runs by name.
        samples: labelled pairs with the models' labels.
        worst: collectors of the worst images, by run.
    """
    scorers = {}
    for name, run in runs.items():
        info, threshold = run.pipeline.info, run.pipeline.score_threshold
        scorers[name] = Scorer(info.box_classes, info.mask_classes, threshold, (worst or {}).get(name))
    with ExitStack() as lowered:
        for pipeline in {id(run.pipeline): run.pipeline for run in runs.values()}.values():
            lowered.enter_context(_scored(pipeline))
        for sample in samples:
            for name, run in runs.items():
                rgb = sample.rgb if sample.present[0] and run.mode is not Mode.IR_ONLY else None
                infrared = sample.infrared if sample.present[1] and run.mode is not Mode.RGB_ONLY else None
                if rgb is None and infrared is None:
                    continue  # the sample has no frame of this camera
                scorers[name].add(sample, run.pipeline(rgb, infrared))
                run.pipeline.reset()  # samples are not consecutive frames
    return scorers


def score_samples(pipeline: Pipeline, samples: Iterable[PairedSample], mode: Mode = Mode.FUSED) -> dict[str, Any]:
    """Compute AP50 and IoU by class, and their means, over labelled pairs: the validation scores of a training.

    Pairs without boxes (or mask) are skipped in that score. `mode`: RGB_ONLY and IR_ONLY withhold the other frame.

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


def _true_boxes(sample: PairedSample) -> TrueBoxes | None:
    """Return the true boxes of a sample and its ignored regions; None if boxes are not labelled."""
    if sample.boxes is None or sample.labels is None:
        return None
    boxes, labels, ignored = sample.boxes, sample.labels, np.zeros(len(sample.boxes), bool)
    if sample.ignored is not None and sample.ignored_labels is not None:
        boxes, labels = np.concatenate([boxes, sample.ignored]), np.concatenate([labels, sample.ignored_labels])
        ignored = np.arange(len(boxes)) >= len(ignored)
    return boxes, labels, ignored


def _of_classes(detections: PerceptionResult, classes: tuple[int, ...] | None) -> PerceptionResult:
    """Keep boxes of labelled classes only; the others are neither true nor false positives."""
    if classes is None:
        return detections
    kept = np.isin(detections.labels, classes)
    return replace(
        detections, boxes=detections.boxes[kept], scores=detections.scores[kept], labels=detections.labels[kept]
    )


@contextmanager
def _scored(pipeline: Pipeline) -> Iterator[None]:
    """Keep every detection, and enlarge masks as benchmarks do."""
    serving = pipeline.score_threshold, pipeline.masks_from_logits
    pipeline.score_threshold, pipeline.masks_from_logits = min(SCORE_FLOOR, pipeline.score_threshold), True
    try:
        yield
    finally:
        pipeline.score_threshold, pipeline.masks_from_logits = serving
