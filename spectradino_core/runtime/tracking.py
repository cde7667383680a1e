"""Track identities for detections: an association in two steps by overlap, as in ByteTrack (Zhang et al., 2022).

Detections above the model's score threshold are matched first, then weaker ones continue what is left, so that a dip of
the score does not end a track. Boxes are predicted by a Kalman filter of constant velocity in seconds, because a node
drops frames, and compared in fractions of the image's size, so that a change of camera with another resolution keeps
them. Before the overlap is measured both boxes are widened, as in C-BIoU (Yang et al., 2023): a distant person of ten
pixels moves by more than its own width between two frames.

Letters: K detections, N tracks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.runtime.boxes import iou_matrix
from spectradino_core.runtime.perception_result import PerceptionResult

WEAK = 0.5
"""Fraction of the score threshold down to which a detection continues a track."""
_WIDENED = 0.3
_WIDENED_PER_S = 1.5
_MAX_WIDENED = 1.0
"""Fraction of its width and height by which a box grows on each side before overlaps are measured, the more the longer
the last frame is ago."""
_MIN_IOU = 0.2
_MIN_IOU_WEAK = 0.5
_NOISE = 0.05
"""Standard deviation of a measured box, as a fraction of its height."""
_ACCELERATION = 2.0
"""Standard deviation of the acceleration, in box heights per s²: walking people, and a robot that starts to turn."""
_MAX_TRACKS = 1000
"""Bounds time and memory; those unseen for longest are dropped first."""


@dataclass(eq=False)
class _Track:
    """One object; boxes are centre x, centre y, width, height in fractions of the image.

    Attributes:
        box, velocity, variance: state float64 [4], its change per second, and the variance of box, box and velocity,
            and velocity, float64 [3, 4].
        label, seen_ns: class index; stamp of its last detection.
        name: "" until its second detection in a row, so that single false detections get no identity.
    """

    box: np.ndarray
    velocity: np.ndarray
    variance: np.ndarray
    label: int
    seen_ns: int
    name: str = ""

    @classmethod
    def of(cls, box: np.ndarray, label: int, stamp_ns: int) -> _Track:
        position, speed = (_NOISE * box[3]) ** 2, (2 * box[3]) ** 2
        variance = np.array([[position], [0.0], [speed]]).repeat(4, axis=1)
        return cls(box.copy(), np.zeros(4), variance, label, stamp_ns)

    def correct(self, box: np.ndarray, stamp_ns: int) -> None:
        position, both, speed = self.variance
        gain = np.stack([position, both]) / (position + (_NOISE * box[3]) ** 2)
        error = box - self.box
        self.box, self.velocity = self.box + gain[0] * error, self.velocity + gain[1] * error
        self.variance = np.stack([(1 - gain[0]) * position, (1 - gain[0]) * both, speed - gain[1] * both])
        self.seen_ns = stamp_ns


def _predict(tracks: list[_Track], seconds: float) -> None:
    """Move all tracks by a time, in one computation."""
    if not tracks:
        return
    boxes, velocities, variances = (
        np.stack([getattr(track, name) for track in tracks]) for name in ("box", "velocity", "variance")
    )
    push = (_ACCELERATION * boxes[:, 3:]) ** 2
    position, both, speed = variances[:, 0], variances[:, 1], variances[:, 2]
    boxes += seconds * velocities
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1e-4)
    variances = np.stack(
        [
            position + seconds * (2 * both + seconds * speed) + push * seconds**4 / 4,
            both + seconds * speed + push * seconds**3 / 2,
            speed + push * seconds**2,
        ],
        axis=1,
    )
    for track, box, variance in zip(tracks, boxes, variances, strict=True):
        track.box, track.variance = box, variance


class Tracker:
    """Identities of one stream of results. Not thread-safe.

    Attributes:
        memory_s: time for which an object without a detection keeps its identity; may be set between calls.
    """

    def __init__(self, memory_s: float = 1.0) -> None:
        self.memory_s = memory_s
        self._tracks: list[_Track] = []
        self._identities = 0
        self._last_ns = 0

    def reset(self) -> None:
        """End all tracks, as after a gap in the stream; identities are not used again."""
        self._tracks = []

    def __call__(self, result: PerceptionResult, thresholds: np.ndarray, stamp_ns: int) -> tuple[str, ...]:
        """Return the identity of each detection of a frame, "1", "2" and so on; "" without one, or at its first sight.

        Args:
            result: detections down to `WEAK` times the thresholds; weaker ones get no identity.
            thresholds: minimum score of each detection's class, float [K], from which on it may begin a track.
            stamp_ns: time of the frame, which must advance; it may step back a little when the camera changes.
        """
        tracks = [track for track in self._tracks if abs(stamp_ns - track.seen_ns) <= self.memory_s * 1e9]
        seconds = max(0, stamp_ns - self._last_ns) / 1e9
        margin = min(_MAX_WIDENED, _WIDENED + _WIDENED_PER_S * seconds)
        for track in tracks:
            if track.seen_ns != self._last_ns:
                track.velocity[2:] = 0  # an extrapolated size would soon match no detection
        _predict(tracks, seconds)
        boxes = result.boxes.astype(np.float64).reshape(-1, 2, 2) / result.size
        boxes = np.concatenate([boxes.mean(axis=1), boxes[:, 1] - boxes[:, 0]], axis=1)
        strong = np.flatnonzero(result.scores >= thresholds)
        weak = np.flatnonzero((result.scores >= WEAK * thresholds) & (result.scores < thresholds))

        found = _matches(boxes, result.labels, strong, tracks, _MIN_IOU, margin)
        steady = [track for track in tracks if track.name and track.seen_ns == self._last_ns]
        taken = set(found.values())
        left = [track for track in steady if track not in taken]
        found |= _matches(boxes, result.labels, weak, left, _MIN_IOU_WEAK, margin)
        for index, track in sorted(found.items()):  # named in the order of the detections
            track.correct(boxes[index], stamp_ns)
            if not track.name:
                self._identities += 1
                track.name = str(self._identities)
        self._tracks = [track for track in tracks if track.name]  # unnamed ones were false
        self._tracks += [_Track.of(boxes[i], int(result.labels[i]), stamp_ns) for i in strong if i not in found]
        if len(self._tracks) > _MAX_TRACKS:
            self._tracks = sorted(self._tracks, key=lambda track: track.seen_ns)[-_MAX_TRACKS:]
        self._last_ns = stamp_ns
        return tuple(found[index].name if index in found else "" for index in range(len(boxes)))


def _matches(
    boxes: np.ndarray, labels: np.ndarray, candidates: np.ndarray, tracks: list[_Track], min_iou: float, margin: float
) -> dict[int, _Track]:
    """Assign detections, `candidates` by index, to tracks of their class, largest overlap first.

    Each box grows by `margin` times its size on every side. Returns the tracks by index of the detection.
    """
    if not len(candidates) or not tracks:
        return {}
    iou = iou_matrix(_enlarged(boxes[candidates], margin), _enlarged(np.stack([track.box for track in tracks]), margin))
    iou[labels[candidates][:, None] != np.array([track.label for track in tracks])] = 0
    matches: dict[int, _Track] = {}
    rows_taken, columns_taken = np.zeros(len(candidates), bool), np.zeros(len(tracks), bool)
    rows, columns = np.nonzero(iou >= min_iou)
    order = np.argsort(-iou[rows, columns], kind="stable")
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if not rows_taken[row] and not columns_taken[column]:
            rows_taken[row] = columns_taken[column] = True
            matches[int(candidates[row])] = tracks[column]
    return matches


def _enlarged(boxes: np.ndarray, margin: float) -> np.ndarray:
    """Return x1 y1 x2 y2 of boxes [K, 4] (centre and size), grown by `margin` times their size on every side."""
    half = (0.5 + margin) * boxes[:, 2:]
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
