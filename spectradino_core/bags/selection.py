"""Select frames of a recording for labelling: by time, by motion, or where the two cameras' results disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.bags import BagError
from spectradino_core.bags.replay import ReplayResult
from spectradino_core.drawing import infrared_to_grey
from spectradino_core.evaluation.detection import IOU_THRESHOLDS, match_image
from spectradino_core.runtime.perception_result import PerceptionResult

SELECTIONS = ("time", "motion", "disagreement")

_WIDTH = 160
_CHANGED_LEVELS = 20
"""Difference from which a pixel of the reduced image counts as changed; noise is averaged out well below it."""


@dataclass(frozen=True)
class Selection:
    """What is selected.

    Attributes:
        by: "time": frames at least `every_s` apart; "motion": of these, those that differ from the last one selected;
            "disagreement": of these, those in which the RGB and the IR image alone give different detections.
        every_s: minimum distance in time of two frames [s].
        min_change: minimum fraction of the image that differs, 0..1.
        limit: maximum number of frames; by disagreement those that disagree most, else the first. None: all.
    """

    by: str = "time"
    every_s: float = 1.0
    min_change: float = 0.02
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.by not in SELECTIONS:
            raise BagError(f"frames are selected by one of {', '.join(SELECTIONS)}, got {self.by!r}")
        if not self.every_s >= 0:
            raise BagError(f"the distance of selected frames must be at least 0 s, got {self.every_s:g}")
        if not 0 <= self.min_change <= 1:
            raise BagError(f"the fraction of an image that changes must lie in 0 to 1, got {self.min_change:g}")
        if self.limit is not None and self.limit < 1:
            raise BagError(f"the maximum number of frames must be at least 1, got {self.limit}")


class Selector:
    """Decides on each result of a replay, in order.

    Attributes:
        skipped: number of results not selected, by reason in words.
    """

    def __init__(self, selection: Selection, disagreement_of: Callable[[ReplayResult], float] | None = None) -> None:
        """
        Args:
            selection: what is selected.
            disagreement_of: runs the network on each image of a pair alone, see `disagreement`; for that selection.
        """
        self._selection = selection
        self._disagreement_of = disagreement_of
        self._last_ns: int | None = None
        self._last_image: np.ndarray | None = None
        self.skipped: Counter[str] = Counter()

    def __call__(self, result: ReplayResult) -> float | None:
        """Return the disagreement of a selected result, 0 by other selections; None: not selected."""
        selection = self._selection
        # A clock that jumped back starts anew.
        if self._last_ns is not None and 0 <= result.stamp_ns - self._last_ns < selection.every_s * 1e9:
            self.skipped["too soon"] += 1
            return None
        image = None
        if selection.by == "motion":
            image = _small(result)
            if self._last_image is not None and changed_fraction(self._last_image, image) < selection.min_change:
                self.skipped["unchanged"] += 1
                return None
        value = 0.0
        if selection.by == "disagreement":
            if result.rgb is None or result.ir is None:
                self.skipped["of one camera alone"] += 1
                return None
            assert self._disagreement_of is not None
            value = self._disagreement_of(result)
            if not value:
                self.skipped["cameras agree"] += 1
                return None
        self._last_ns, self._last_image = result.stamp_ns, image
        return value


def changed_fraction(before: np.ndarray, after: np.ndarray) -> float:
    """Return the fraction of pixels that differ between two images uint8 [h, w, 3]; 1 for images of two sizes."""
    if before.shape != after.shape:
        return 1.0
    return float((cv2.absdiff(before, after).max(axis=2) >= _CHANGED_LEVELS).mean())


def disagreement(one: PerceptionResult, other: PerceptionResult, classes: int) -> float:
    """Return the fraction of detections without a counterpart in the other result in the same pixels, 0..1.

    A counterpart is of the same class and overlaps by an IoU of 0.5.
    """
    count = len(one) + len(other)
    if not count:
        return 0.0
    matches = match_image((one.boxes, one.scores, one.labels), (other.boxes, other.labels), classes)
    assert IOU_THRESHOLDS[0] == 0.5
    return 1.0 - 2.0 * int((matches.outcomes[0] == 1).sum()) / count


def _small(result: ReplayResult) -> np.ndarray:
    """Return the RGB image, or the IR image where there is none, reduced to uint8 [h, 160, 3]."""
    if result.rgb is not None:
        image = result.rgb.pixels
    else:
        assert result.ir is not None
        image = infrared_to_grey(result.ir.pixels)
    height, width = image.shape[:2]
    size = (_WIDTH, max(1, round(_WIDTH * height / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
