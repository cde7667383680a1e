"""Results of one replay at the labelled frames of a bag, as arrays for storage; `results.py` computes scores from them.

A result with an RGB frame is assigned to the labelled frame of the same stamp, an IR-only result to the nearest one
within the tolerance. Labelled frames without a result count as frames without detections.

Letters: F labelled frames, K detections, N true boxes, C mask classes, h x w the RGB image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spectradino_core.bags.ground_truth import GroundTruth, GroundTruthError, in_seconds
from spectradino_core.evaluation.segmentation import UNLABELLED, ConfusionMatrix
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import Mode, PerceptionResult

NO_ERROR = np.iinfo(np.int64).min
"""Missing value in arrays of pairing errors and stamps."""

MODES = (Mode.FUSED, Mode.RGB_ONLY, Mode.IR_ONLY)
"""A mode's code in arrays is its index here; -1: no result."""

Arrays = Mapping[str, np.ndarray]


class _FrameResult(NamedTuple):
    """Result at one labelled frame; `pixels` are those it added to the counts, while a nearer result may replace it."""

    gap_ns: int
    mode: int
    error_ns: int
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    pixels: np.ndarray | None = None


_NOTHING = _FrameResult(0, -1, NO_ERROR, np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int16))


class LabelledFrames:
    """Results at labelled frames: `add` the results of a replay in order, then call `arrays`.

    Counts results at a frame that had one already, as when a recording is played twice in one bag (`repeated`), and
    those without a labelled frame (`without_truth`).
    """

    def __init__(self, truth: GroundTruth, places: range, info: ModelInfo) -> None:
        """Only the labelled frames with indices in `places` count."""
        self._truth, self._places = truth, places
        self._classes = info.mask_classes
        self.repeated = self.without_truth = 0
        self._results: dict[int, _FrameResult] = {}
        columns = len(self._classes) + 1
        self._confusion = np.zeros((len(MODES) + 1, max(0, columns - 1), columns), np.int64)
        self._finished = False

    def add(
        self, stamp_ns: int, perception: PerceptionResult, tolerance_ns: int, error_ns: int | None = None
    ) -> int | None:
        """Record a result with the time and pixels of the RGB camera; `error_ns`: IR time minus RGB time of a pair.

        Returns:
            The labelled frame's index; None if none is within the tolerance, or another result is nearer.

        Raises:
            GroundTruthError: labels and images differ in size.
        """
        nearest = self._truth.gap_ns(stamp_ns)
        if nearest is None or nearest[0] > tolerance_ns or nearest[1] not in self._places:
            self.without_truth += 1
            return None
        gap, place = nearest
        previous = self._results.get(place)
        if previous is not None and previous.gap_ns <= gap:
            self.repeated += 1
            return None
        frame = self._truth.frames[place]
        if frame.size is not None and frame.size != perception.size:
            raise GroundTruthError(
                f"{self._truth.source}: labels at {in_seconds(frame.stamp_ns)} are for images of {frame.size[0]}x"
                f"{frame.size[1]}, but the bag's are {perception.size[0]}x{perception.size[1]}: scale the labels, or "
                "label the recorded images"
            )
        if previous is not None:  # as with several IR-only results around one labelled frame
            self.repeated += 1
            if previous.pixels is not None:
                self._confusion[previous.mode] -= previous.pixels
        mode = MODES.index(perception.mode)
        pixels = self._count(place, mode, perception.mask)
        self._results[place] = _FrameResult(
            gap,
            mode,
            NO_ERROR if error_ns is None else error_ns,
            perception.boxes.astype(np.float32),
            perception.scores.astype(np.float32),
            perception.labels.astype(np.int16),
            pixels if gap else None,
        )
        return place

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the results as arrays.

        Returns:
            mode int8 [F], error_ns int64 [F] (`NO_ERROR` unless a pair), count int32 [F], boxes float32 [K, 4], scores
            float32 [K], labels int16 [K], and confusion int64 [4, C, C + 1]: pixels by mode (the last: no result), true
            and predicted class.
        """
        for place in () if self._finished else self._places:
            if place not in self._results:
                self._count(place, len(MODES), None)
        self._finished = True
        rows = [self._results.get(place, _NOTHING) for place in self._places]
        return {
            "mode": np.array([row.mode for row in rows], np.int8),
            "error_ns": np.array([row.error_ns for row in rows], np.int64),
            "count": np.array([len(row.boxes) for row in rows], np.int32),
            "boxes": np.concatenate([_NOTHING.boxes, *(row.boxes for row in rows)]),
            "scores": np.concatenate([_NOTHING.scores, *(row.scores for row in rows)]),
            "labels": np.concatenate([_NOTHING.labels, *(row.labels for row in rows)]),
            "confusion": self._confusion,
        }

    def _count(self, place: int, mode: int, found: np.ndarray | None) -> np.ndarray | None:
        """Add the pixels of a labelled mask to the counts and return them; None: there is no such mask."""
        mask = self._truth.frames[place].mask
        if mask is None or not self._classes:
            return None
        truth = mask()
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
        return matrix.counts


def truth_arrays(truth: GroundTruth, places: Sequence[int], in_bag: Sequence[bool]) -> dict[str, np.ndarray]:
    """Return the ground truth of the labelled frames that count, as arrays.

    Returns:
        stamp_ns int64 [F], labelled bool [F] (boxes were labelled), masked bool [F], in_bag bool [F] (an RGB frame of
        that stamp was recorded), count int32 [F], boxes float64 [N, 4], labels int16 [N], crowd bool [N].
    """
    frames = [truth.frames[place] for place in places]
    true = [boxes for frame in frames if (boxes := frame.true_boxes) is not None]
    return {
        "stamp_ns": np.array([f.stamp_ns for f in frames], np.int64),
        "labelled": np.array([f.boxes is not None for f in frames], bool),
        "masked": np.array([f.mask is not None for f in frames], bool),
        "in_bag": np.array(in_bag, bool),
        "count": np.array([0 if f.boxes is None else len(f.boxes) for f in frames], np.int32),
        "boxes": np.concatenate([np.empty((0, 4)), *(boxes for boxes, _, _ in true)]),
        "labels": np.concatenate([np.empty(0, np.int16), *(labels.astype(np.int16) for _, labels, _ in true)]),
        "crowd": np.concatenate([np.empty(0, bool), *(crowd for _, _, crowd in true)]),
    }


def stored(name: str, arrays: Arrays) -> dict[str, Any]:
    """Prefix the names of arrays with `name/`, to store several sets in one file."""
    return {f"{name}/{key}": value for key, value in arrays.items()}
