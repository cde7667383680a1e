"""Results of one replay at the labelled frames of a bag, as arrays for storage; `results.py` computes scores from them.

A result with an RGB frame is assigned to the labelled frame of the same stamp, an IR-only result to the nearest one
within the tolerance. Labelled frames without a result count as frames without detections.

Letters: F labelled frames, K detections, N true boxes, C mask classes, h x w the RGB image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectradino_core.bags.ground_truth import GroundTruth, GroundTruthError, in_seconds
from spectradino_core.evaluation.segmentation import UNLABELLED, ConfusionMatrix
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import Mode, PerceptionResult

__all__ = ["MODES", "NO_ERROR", "Arrays", "LabelledFrames", "stored", "truth_arrays"]

NO_ERROR = np.iinfo(np.int64).min
"""Missing value in arrays of pairing errors and stamps."""

MODES = (Mode.FUSED, Mode.RGB_ONLY, Mode.IR_ONLY)
"""A mode's code in arrays is its index here; -1: no result."""

Arrays = Mapping[str, np.ndarray]


class LabelledFrames:
    """Results at labelled frames: `add` the results of a replay in order, then call `arrays`.

    Attributes:
        repeated: results at a frame that had one already, as when a recording is played twice in one bag.
        without_truth: results without a labelled frame.
    """

    def __init__(self, truth: GroundTruth, places: range, info: ModelInfo) -> None:
        """
        Args:
            truth: ground truth of the bag.
            places: indices of the labelled frames that count.
            info: the model's classes.
        """
        self._truth, self._places = truth, places
        self._classes = info.mask_classes
        self.repeated = self.without_truth = 0
        self._found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._mode: dict[int, int] = {}
        self._gap: dict[int, int] = {}
        self._error_ns: dict[int, int] = {}
        self._counts: dict[int, np.ndarray] = {}
        columns = len(self._classes) + 1
        self._confusion = np.zeros((len(MODES) + 1, max(0, columns - 1), columns), np.int64)
        self._finished = False

    def add(
        self, stamp_ns: int, percepts: PerceptionResult, tolerance_ns: int, error_ns: int | None = None
    ) -> int | None:
        """Record a result.

        Args:
            stamp_ns: time of the result by the RGB camera's clock.
            percepts: the result, in pixels of the RGB image.
            tolerance_ns: maximum distance of the labelled frame.
            error_ns: IR time minus RGB time of a pair.

        Returns:
            The labelled frame's index; None if none is within the tolerance, or another result is nearer.

        Raises:
            GroundTruthError: labels and images differ in size.
        """
        near = self._truth.gap_ns(stamp_ns)
        if near is None or near[0] > tolerance_ns or near[1] not in self._places:
            self.without_truth += 1
            return None
        gap, place = near
        if place in self._gap and self._gap[place] <= gap:
            self.repeated += 1
            return None
        frame = self._truth.frames[place]
        if frame.size is not None and frame.size != percepts.size:
            raise GroundTruthError(
                f"{self._truth.source}: labels at {in_seconds(frame.stamp_ns)} are for images of {frame.size[0]}x"
                f"{frame.size[1]}, but the bag's are {percepts.size[0]}x{percepts.size[1]}: scale the labels, or label "
                "the recorded images"
            )
        mode = MODES.index(percepts.mode)
        self._remove(place)
        if self._classes and frame.mask is not None:
            self._count(place, mode, frame.mask(), percepts.mask, replaceable=gap > 0)
        self._found[place] = (
            percepts.boxes.astype(np.float32),
            percepts.scores.astype(np.float32),
            percepts.labels.astype(np.int16),
        )
        self._mode[place], self._gap[place] = mode, gap
        self._error_ns[place] = NO_ERROR if error_ns is None else error_ns
        return place

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the results as arrays.

        Returns:
            mode int8 [F], error_ns int64 [F] (`NO_ERROR` unless a pair), count int32 [F], boxes float32 [K, 4], scores
            float32 [K], labels int16 [K], and confusion int64 [4, C, C + 1]: pixels by mode (the last: no result), true
            and predicted class.
        """
        if not self._finished and self._classes:
            for place in self._places:
                mask = self._truth.frames[place].mask
                if mask is not None and place not in self._mode:
                    self._count(place, len(MODES), mask(), None, replaceable=False)
        self._finished = True
        nothing = (np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int16))
        rows = [self._found.get(place, nothing) for place in self._places]
        return {
            "mode": np.array([self._mode.get(place, -1) for place in self._places], np.int8),
            "error_ns": np.array([self._error_ns.get(place, NO_ERROR) for place in self._places], np.int64),
            "count": np.array([len(row[0]) for row in rows], np.int32),
            "boxes": np.concatenate([nothing[0], *(row[0] for row in rows)]),
            "scores": np.concatenate([nothing[1], *(row[1] for row in rows)]),
            "labels": np.concatenate([nothing[2], *(row[2] for row in rows)]),
            "confusion": self._confusion,
        }

    def _remove(self, place: int) -> None:
        """Remove a result that a nearer one replaces, as with several IR-only results around one labelled frame."""
        before = self._counts.pop(place, None)
        if before is not None:
            self._confusion[self._mode[place]] -= before
        self.repeated += place in self._mode

    def _count(self, place: int, mode: int, truth: np.ndarray, found: np.ndarray | None, replaceable: bool) -> None:
        if found is None:
            found = np.full(truth.shape, UNLABELLED, np.uint8)
        if found.shape != truth.shape:
            raise GroundTruthError(
                f"{self._truth.source}: the mask at {in_seconds(self._truth.frames[place].stamp_ns)} has "
                f"{truth.shape[1]}x{truth.shape[0]} pixels, but the bag's images have "
                f"{found.shape[1]}x{found.shape[0]}: label the recorded images"
            )
        matrix = ConfusionMatrix(self._classes)
        matrix.add(found, truth)
        self._confusion[mode] += matrix.counts
        if replaceable:
            self._counts[place] = matrix.counts


def truth_arrays(truth: GroundTruth, places: Sequence[int], in_bag: Sequence[bool]) -> dict[str, np.ndarray]:
    """Return the ground truth of the labelled frames that count, as arrays.

    Returns:
        stamp_ns int64 [F], labelled bool [F] (boxes were labelled), masked bool [F], in_bag bool [F] (an RGB frame of
        that stamp was recorded), count int32 [F], boxes float64 [N, 4], labels int16 [N], crowd bool [N].
    """
    frames = [truth.frames[place] for place in places]
    with_boxes = [f for f in frames if f.boxes is not None]
    return {
        "stamp_ns": np.array([f.stamp_ns for f in frames], np.int64),
        "labelled": np.array([f.boxes is not None for f in frames], bool),
        "masked": np.array([f.mask is not None for f in frames], bool),
        "in_bag": np.array(in_bag, bool),
        "count": np.array([0 if f.boxes is None else len(f.boxes) for f in frames], np.int32),
        "boxes": np.concatenate([np.empty((0, 4)), *(f.boxes for f in with_boxes if f.boxes is not None)]),
        "labels": np.concatenate(
            [np.empty(0, np.int16), *(f.labels.astype(np.int16) for f in with_boxes if f.labels is not None)]
        ),
        "crowd": np.concatenate([np.empty(0, bool), *(f.crowd for f in with_boxes if f.crowd is not None)]),
    }


def stored(name: str, arrays: Arrays) -> dict[str, Any]:
    """Prefix the names of arrays with `name/`, to store several sets in one file."""
    return {f"{name}/{key}": value for key, value in arrays.items()}
