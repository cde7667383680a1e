"""CLEAR MOT scores of track identities (Bernardin and Stiefelhagen, 2008): MOTA, identity switches, fragmentations.

Written here because the libraries that compute them either pull in a second OpenCV (trackeval) or have had no release
for years and don't import under NumPy 2 (motmetrics). A true object keeps its track while both overlap; the others are
assigned by overlap, largest first, as in the scores of detections.

Letters: K detections, N true objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from spectradino_core.evaluation.detection import overlaps
from spectradino_core.runtime.boxes import iou_matrix

_MIN_IOU = 0.5
_MIN_INSIDE = 0.5
"""Fraction of a track's box in a region to ignore, from which the track is not false."""


@dataclass
class _Object:
    """A true object so far: its last track ("" before), frames labelled and tracked, times that tracking began."""

    track: str = ""
    frames: int = 0
    found: int = 0
    pieces: int = 0
    was_found: bool = False
    """Whether it was tracked in the last frame in which it is labelled."""


@dataclass
class TrackScorer:
    """Counts over the frames of one recording after the other; `add` them in order."""

    _objects: dict[tuple[str, str], _Object] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)

    def add(
        self, recording: str, found: tuple[np.ndarray, np.ndarray, Sequence[str]],
        true: tuple[np.ndarray, np.ndarray, np.ndarray, Sequence[str]],
    ) -> None:  # fmt: skip
        """Count one frame of a recording, within which identities are unique.

        Args:
            recording: its name.
            found: boxes [K, 4], labels [K] and identities; detections without one ("") are not counted.
            true: boxes [N, 4], labels [N], crowd [N] (regions to ignore) and identities.
        """
        boxes, labels, names = found
        true_boxes, true_labels, crowd, true_names = true
        tracked = np.array([bool(name) for name in names], bool)
        iou = iou_matrix(boxes, true_boxes)
        iou[labels[:, None] != true_labels] = 0
        usable = iou.copy()
        usable[~tracked] = usable[:, crowd] = 0
        kept: dict[int, int] = {}
        real = np.flatnonzero(~crowd).tolist()
        for column in real:
            one = self._objects.setdefault((recording, true_names[column]), _Object())
            row = names.index(one.track) if one.track and one.track in names else None
            # Two objects may have had one track, at different times: only one of them keeps it.
            if row is not None and row not in kept.values() and usable[row, column] >= _MIN_IOU:
                kept[column] = row
        usable[list(kept.values())] = usable[:, list(kept)] = 0
        for flat in np.argsort(-usable, axis=None, kind="stable")[: np.count_nonzero(usable >= _MIN_IOU)]:
            row, column = divmod(int(flat), usable.shape[1])
            if column not in kept and row not in kept.values():
                kept[column] = row
        for column in real:
            self._follow(self._objects[recording, true_names[column]], names[kept[column]] if column in kept else "")
        in_region = overlaps(boxes, true_boxes[crowd])[1] >= _MIN_INSIDE
        false = tracked & ~(in_region & (labels[:, None] == true_labels[crowd])).any(axis=1)
        false[list(kept.values())] = False
        self._counts.update(false=int(false.sum()), frames=1)

    def _follow(self, one: _Object, track: str) -> None:
        one.frames += 1
        if track:
            self._counts["switches"] += bool(one.track) and one.track != track
            one.pieces += not one.was_found
            one.found += 1
            one.track = track
        one.was_found = bool(track)

    def counts(self) -> dict[str, int]:
        """Return the counts of which `track_figures` makes scores; those of several recordings add up.

        "labelled" (true boxes), "found" (of these tracked), "false" (tracked boxes without object), "switches",
        "fragmentations", "objects", "mostly_tracked" (in at least 80 % of their frames), "mostly_lost" (in at most
        20 %), "frames".
        """
        objects = list(self._objects.values())
        return {
            "labelled": sum(one.frames for one in objects),
            "found": sum(one.found for one in objects),
            "false": self._counts["false"],
            "switches": self._counts["switches"],
            "fragmentations": sum(max(0, one.pieces - 1) for one in objects),
            "objects": len(objects),
            "mostly_tracked": sum(one.found >= 0.8 * one.frames for one in objects),
            "mostly_lost": sum(one.found <= 0.2 * one.frames for one in objects),
            "frames": self._counts["frames"],
        }


def track_figures(counts: Mapping[str, int]) -> dict[str, float | int | None]:
    """Return counts with "mota", "recall" and "precision" as fractions, None without true objects or tracks."""
    labelled, found, false = counts["labelled"], counts["found"], counts["false"]
    mistakes = labelled - found + false + counts["switches"]
    return {
        "mota": 1 - mistakes / labelled if labelled else None,
        "recall": found / labelled if labelled else None,
        "precision": found / (found + false) if found + false else None,
        **counts,
    }
