"""Counts of a 16-bit thermal frame that are no measurement: how they are recognised.

Cameras and drivers write constants where they measure nothing: 0 or the largest count at dead and stuck pixels and in
the border that rectification leaves; and some write telemetry into the first or last rows. A constant alone proves
nothing, since 0 may be the coldest pixel of a camera that subtracts its minimum, and 65535 a fire. So what counts is
how a value lies among the others and in the image:

- A constant close to the other counts does no harm and is left alone.
- 0 far below all other counts is no measurement, unless the counts between are populated.
- A constant far above is one where its edge is sharper than a lens can draw: pixels around a truly hot region are
  raised. A large region inside the image counts as hot whatever its edge.
- Other constants are looked at if they are the frame's extreme, repeated and isolated, in noisy scenes.
- Rows at the top or bottom edge count as telemetry where their values lie outside of those of the scene.

The scene's counts are estimated from about 5,000 pixels, so a frame without suspicious extremes costs next to nothing.

Letters: h x w a frame.
"""

from __future__ import annotations

import math
import threading

import cv2
import numpy as np

__all__ = ["InvalidCounts"]

_SATURATED = frozenset((1 << bits) - 1 for bits in range(10, 17))
"""The largest counts of sensors with 10 to 16 bits."""
_SAMPLES = 5400
_ROWS = 8
"""Most rows of telemetry at an edge; cameras write up to 4."""
_NEAR = 0.25
"""A constant closer than this to the other counts, as a fraction of their span, is left alone: it does no harm."""
_GRADED = 0.2
"""Fraction of the gap to a constant from which a pixel beside it counts as drawn towards it by the lens."""
_SOLID = 7
"""A region of the largest count inside the image that covers a square of so many pixels a side is hot whatever its
edge; clusters of stuck pixels are smaller."""
_SOLID_OTHER = 3
"""The same for constants that are not the largest count of a sensor."""
_BLOCK = 4
"""Pixels per side of the blocks in which large regions are separated."""
_LEAST_VALUES = 8
_MOST_REGIONS = 32
_MOST_CONSTANTS = 4
"""Constants that are looked for above and below the scene's counts, of each."""


class InvalidCounts:
    """Finds the invalid pixels of frames."""

    def __init__(self, counts: tuple[int, ...] = (), automatic: bool = True) -> None:
        """
        Args:
            counts: constants that are invalid in every frame, of 8 or 16 bits.
            automatic: whether invalid counts of 16-bit frames are recognised by the rules above.
        """
        self._counts = counts
        self._automatic = automatic

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        """Marks the valid pixels.

        Args:
            frame: counts, uint8 or uint16 [h, w].

        Returns:
            uint8 [h, w], 255 where a pixel is valid, else 0; None: all are valid. This thread's next call, of whatever
            instance, may write over it.
        """
        if frame.size == 1:
            return None  # nothing to compare it with
        valid: np.ndarray | None = None
        for count in self._counts:
            if count <= np.iinfo(frame.dtype).max:
                valid = _without(valid, cv2.compare(frame, count, cv2.CMP_EQ))
        if valid is not None and cv2.countNonZero(valid) == valid.size:
            valid = None
        if self._automatic and frame.dtype == np.uint16:
            valid = _recognised(frame, valid)
        return valid


class _Scene:
    """Where the counts of a scene lie, judged from some of its pixels.

    Attributes:
        low, high: between them lie all counts but the 2 % at each end.
        span: their distance, at least 8.
        sample: some of the frame's counts in ascending order, invalid ones included.
        is_empty: they are all 0 or the largest of a sensor.
        is_drawn: the scene's counts are so few that no sensor, which is noisy, gave them.
    """

    def __init__(self, frame: np.ndarray, valid: np.ndarray | None) -> None:
        edge = min(_ROWS, frame.shape[0] // 8)
        inner = slice(edge, frame.shape[0] - edge)
        picked = _spread(frame[inner])
        if valid is not None:
            picked = picked[_spread(valid[inner]) != 0]
        self.sample = np.sort(picked, kind="stable")  # of 16 bits a radix sort, a third of the time
        first, last = 0, len(self.sample)
        while first < last and (self.sample[first] == 0 or self._stands_apart(first, last, below=True)):
            first = int(np.searchsorted(self.sample, self.sample[first], side="right"))
        while first < last and (self.sample[last - 1] in _SATURATED or self._stands_apart(first, last, below=False)):
            last = int(np.searchsorted(self.sample, self.sample[last - 1], side="left"))
        self.is_empty = first == last
        if self.is_empty:
            first, last = 0, len(self.sample)
        scene = self.sample[first:last]
        self.low, self.high = (float(scene[round(q * (len(scene) - 1))]) for q in (0.02, 0.98)) if last else (0.0, 0.0)
        self.is_drawn = _distinct(scene) < _LEAST_VALUES
        self.span = max(self.high - self.low, 8.0)

    def _stands_apart(self, first: int, last: int, below: bool) -> bool:
        """Whether the smallest or largest value occurs often and lies far from all others."""
        sample = self.sample
        value = int(sample[first if below else last - 1])
        rest_first = int(np.searchsorted(sample, value, side="right")) if below else first
        rest_last = last if below else int(np.searchsorted(sample, value, side="left"))
        count = (last - first) - (rest_last - rest_first)
        rest = sample[rest_first:rest_last]
        if not len(rest) or not max(3, 0.002 * len(sample)) <= count <= 0.25 * len(sample):
            return False
        middle = float(rest[round(0.9 * (len(rest) - 1))]) - float(rest[round(0.1 * (len(rest) - 1))])
        return abs(int(rest[0 if below else -1]) - value) > max(middle, 64.0)

    def is_populated_from_0(self) -> bool:
        """Whether the counts between 0 and the scene's are occupied: then 0 is a count like the others."""
        zeros, middle = (int(np.searchsorted(self.sample, at, side="right")) for at in (0, int(self.low / 2)))
        between = self.sample[zeros:middle]
        return len(between) >= max(4, zeros / 2) and _distinct(between) >= 4


def _distinct(ordered: np.ndarray) -> int:
    """How many different values an ordered array [N] holds; `np.unique` would order it once more."""
    return min(1, len(ordered)) + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _recognised(frame: np.ndarray, valid: np.ndarray | None) -> np.ndarray | None:
    """`valid` without what the rules recognise in a frame uint16 [h, w]."""
    scene = _Scene(frame, valid)
    if scene.is_empty:
        for count in (0, *_SATURATED):
            valid = _without(valid, cv2.compare(frame, count, cv2.CMP_EQ))
        return valid
    top, bottom = _telemetry_rows(frame, scene)
    if top or bottom:
        valid = np.full(frame.shape, 255, np.uint8) if valid is None else valid
        valid[:top] = 0
        valid[frame.shape[0] - bottom :] = 0
    ends = list(_extremes(frame, valid))  # without one of them the other is as before
    for below in (True, False):
        for _ in range(_MOST_CONSTANTS):
            value = ends[0 if below else 1]
            found = None if value is None else _without_constant(frame, valid, scene, value, below)
            if found is None:
                break
            valid, other = found
            if other is None:
                return valid
            ends[0 if below else 1] = other
    return valid


def _without_constant(
    frame: np.ndarray, valid: np.ndarray | None, scene: _Scene, value: int, below: bool
) -> tuple[np.ndarray, int | None] | None:
    """`valid` without the smallest or largest valid count where it is invalid.

    Args:
        frame, valid, scene: of the frame.
        value: the smallest or largest valid count.
        below: which of both.

    Returns:
        uint8 [h, w]; and what is then the smallest or largest count, None: no pixel is valid. None: the count is valid.
    """
    gap = scene.low - value if below else value - scene.high
    usual = value == 0 if below else value in _SATURATED
    if scene.is_drawn and not usual:
        return None
    far = gap >= scene.span
    if gap < _NEAR * scene.span or not (usual or far):
        return None
    if value == 0 and below and far and scene.is_populated_from_0():
        return None
    others = _memory(frame.shape, valid)
    if not usual:
        np.equal(frame, value, out=others.view(bool))
        if cv2.countNonZero(others) < max(4, 1e-4 * frame.size):
            return None
    np.not_equal(frame, value, out=others.view(bool))
    np.negative(others.view(np.int8), out=others.view(np.int8))  # 1 becomes 255; both take less than `cv2.compare`
    if valid is not None:
        cv2.bitwise_and(others, valid, dst=others)
    # The next count shows whether anything lies between the constant and the scene, mostly without a look at the image.
    end = 0 if below else 1
    other = _extremes(frame, others)[end]
    if other is None:
        return others, None
    if not usual and abs(other - value) <= max(scene.span, 64.0):
        return None
    if value == 0 and far:
        edge = scene.low - scene.span
        if other >= edge:
            return others, other
        others = _without_mixtures(frame, others, edge)
        return others, _extremes(frame, others)[0]
    edge = scene.low - _GRADED * gap if below else scene.high + _GRADED * gap
    solid = 0 if value == 0 else _SOLID if usual else _SOLID_OTHER
    is_between = other < edge if below else other > edge
    if not is_between and not (solid and _may_hold(others, solid)):
        return others, other
    places = cv2.bitwise_not(others) if valid is None else cv2.subtract(valid, others)
    around = graded = np.zeros_like(places)
    if is_between:
        near = cv2.bitwise_and(cv2.dilate(places, _NEIGHBOURS), others)
        between = cv2.bitwise_and(cv2.compare(frame, edge, cv2.CMP_LT if below else cv2.CMP_GT), near)
        if cv2.countNonZero(between):
            around, graded = near, between
    true = _true_regions(places, around, graded, solid)
    if not cv2.countNonZero(true):
        return others, other
    if not cv2.countNonZero(cv2.subtract(places, true)):
        return None
    return cv2.bitwise_or(others, true, dst=others), value


def _without_mixtures(frame: np.ndarray, others: np.ndarray, edge: float) -> np.ndarray:
    """`others` without what was mixed with the rest when the frame was resampled: counts below `edge` beside it."""
    zeros = cv2.bitwise_not(others)
    mixtures = cv2.bitwise_and(cv2.compare(frame, edge, cv2.CMP_LT), others)
    for _ in range(2):  # of an oblique edge two pixels deep
        mixed = cv2.bitwise_and(cv2.dilate(zeros, _NEIGHBOURS), mixtures)
        if not cv2.countNonZero(mixed):
            break
        cv2.bitwise_or(zeros, mixed, dst=zeros)
    return cv2.bitwise_not(zeros, dst=others)


def _extremes(frame: np.ndarray, valid: np.ndarray | None) -> tuple[int | None, int | None]:
    """The smallest and the largest valid count; None: no pixel is valid."""
    low, high, place, _ = cv2.minMaxLoc(frame, valid)
    return (int(low), int(high)) if place[0] >= 0 else (None, None)


def _may_hold(others: np.ndarray, solid: int) -> bool:
    """Whether a square of `solid` pixels a side may lie outside of `others`; quick, and right where it says no."""
    if min(others.shape) < _SOLID:
        return True
    if solid == _SOLID:
        others = np.ascontiguousarray(others[::3, ::3])
        pairs = cv2.bitwise_or(others[1:], others[:-1])
    elif others.shape[0] % 2 == 0:  # two of three rows, or of two at the image's edge, are such a pair
        pairs = cv2.bitwise_or(others[::2], others[1::2])
    else:
        return True
    squares = cv2.bitwise_or(pairs[:, 1:], pairs[:, :-1])
    return cv2.countNonZero(squares) < squares.size


def _true_regions(places: np.ndarray, around: np.ndarray, graded: np.ndarray, solid: int) -> np.ndarray:
    """Regions of a constant that the scene really shows.

    Args:
        places: where the constant is, uint8 [h, w] of 0 and 255, as all here.
        around: its neighbouring pixels.
        graded: those of them whose counts lie between the scene's and the constant.
        solid: a region inside the image that covers a square of so many pixels a side is true even with a sharp edge;
            0: none is.

    Returns:
        uint8 [h, w], 255 in true regions.
    """
    true = np.zeros_like(places)
    cores = cv2.erode(places, _NEIGHBOURS, borderType=cv2.BORDER_REPLICATE)
    small = places
    if cv2.countNonZero(cores):
        small = places.copy()
        for region in _large_regions(cores):
            box, inside = region
            part = cv2.bitwise_and(places[box], inside)
            small[box] = cv2.subtract(small[box], inside)
            rim, drawn = (cv2.countNonZero(cv2.bitwise_and(x[box], inside)) for x in (around, graded))
            if 2 * drawn >= rim > 0 or (solid and _is_inside(part, box, places.shape, solid)):
                true[box] = cv2.bitwise_or(true[box], part)
    if cv2.countNonZero(graded) and cv2.countNonZero(small):
        rim, drawn = (cv2.boxFilter(x, cv2.CV_32F, (5, 5), normalize=False) for x in (around, graded))
        near = cv2.compare(cv2.multiply(drawn, 2.0), rim, cv2.CMP_GE)
        true = cv2.bitwise_or(true, cv2.bitwise_and(small, near))
    return true


def _large_regions(cores: np.ndarray) -> list[tuple[tuple[slice, slice], np.ndarray]]:
    """The largest regions more than two pixels wide: where each lies, and uint8 of that size, 255 in it and around it.

    Args:
        cores: the regions without their outermost pixels, uint8 [h, w].
    """
    height, width = cores.shape
    size = -(-width // _BLOCK), -(-height // _BLOCK)
    padded = cv2.copyMakeBorder(cores, 0, size[1] * _BLOCK - height, 0, size[0] * _BLOCK - width, cv2.BORDER_CONSTANT)
    blocks = (cv2.resize(padded, size, interpolation=cv2.INTER_AREA) > 0).view(np.uint8)
    blocks = cv2.dilate(blocks, _NEIGHBOURS)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(blocks, connectivity=4)
    found = []
    for label in np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:_MOST_REGIONS] + 1:
        x, y, w, h = (int(v) for v in stats[label, :4])
        inside = (labels[y : y + h, x : x + w] == label).astype(np.uint8) * 255
        inside = np.repeat(np.repeat(inside, _BLOCK, axis=0), _BLOCK, axis=1)
        box = (slice(y * _BLOCK, min(height, (y + h) * _BLOCK)), slice(x * _BLOCK, min(width, (x + w) * _BLOCK)))
        found.append((box, np.ascontiguousarray(inside[: box[0].stop - box[0].start, : box[1].stop - box[1].start])))
    return found


def _is_inside(part: np.ndarray, box: tuple[slice, slice], shape: tuple[int, int], solid: int) -> bool:
    """Whether a region is large and neither spans the image nor fills one of its corners, as borders do."""
    if not cv2.countNonZero(cv2.erode(part, np.ones((solid, solid), np.uint8))):
        return False
    x, y, w, h = cv2.boundingRect(part)
    left, top = box[1].start + x, box[0].start + y
    at = {"left": left == 0, "right": left + w == shape[1], "top": top == 0, "bottom": top + h == shape[0]}
    if (at["left"] and at["right"]) or (at["top"] and at["bottom"]):
        return False
    corners = ((0, 0, "top", "left"), (0, -1, "top", "right"), (-1, 0, "bottom", "left"), (-1, -1, "bottom", "right"))
    seen = part[y : y + h, x : x + w]
    return not any(at[a] and at[b] and seen[row, column] for row, column, a, b in corners)


def _telemetry_rows(frame: np.ndarray, scene: _Scene) -> tuple[int, int]:
    """How many rows from the top and from the bottom hold something other than the scene."""
    limit = min(_ROWS, frame.shape[0] // 8)
    if not limit:
        return 0, 0
    # Whole numbers, since NumPy would compare with others in float64.
    low, high = max(0, math.ceil(scene.low - scene.span)), min(math.floor(scene.high + scene.span), 65535)
    found = []
    for edge in (frame[: limit + 1], frame[: -limit - 2 : -1]):
        # The rules below of the first row alone: where that is of the scene, so are the others.
        out, unlike = (np.count_nonzero(x) / frame.shape[1] for x in _outside(edge[0], low, high))
        if out < 0.02 or (out < 0.8 and unlike < 0.05):
            found.append(0)
            continue
        outside, other = _outside(edge, low, high)
        if not other.any():
            found.append(0)
            continue
        rough = np.abs(np.diff(edge.astype(np.int32), axis=1)) > scene.span / 2
        rough_others = (other[:, :-1] & rough).sum(axis=1) >= 0.3 * np.maximum(other.sum(axis=1), 1)
        outs, unlikes = outside.mean(axis=1), other.mean(axis=1)
        strange = (outs >= 0.95) | ((unlikes >= 0.02) & (outs >= 0.8)) | ((unlikes >= 0.05) & rough_others)
        rows = int(np.argmin(strange)) if not strange.all() else 0
        while rows and not other[rows - 1].any():  # nothing but constants, which are looked for by themselves
            rows -= 1
        found.append(rows)
    return found[0], found[1]


def _outside(counts: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Which counts lie outside of [low, high]; and which of these are neither 0 nor the largest of a sensor: bool."""
    outside = (counts < low) | (counts > high)
    return outside, outside & ((counts & (counts + 1)) != 0)


def _spread(image: np.ndarray) -> np.ndarray:
    """About `_SAMPLES` pixels spread over an image, in its order, [N]."""
    step = max(1, image.size // _SAMPLES)
    while math.gcd(step, image.shape[1]) > 1:
        step += 1
    return image.reshape(-1)[::step]


def _memory(shape: tuple[int, ...], used: np.ndarray | None) -> np.ndarray:
    """uint8 [h, w] of this thread's own, not `used`; fresh memory costs more than what is done with it."""
    kept: list[np.ndarray] | None = getattr(_own, "masks", None)
    if kept is None or kept[0].shape != shape:
        kept = _own.masks = [np.empty(shape, np.uint8) for _ in range(2)]
    return kept[1] if used is kept[0] else kept[0]


def _without(valid: np.ndarray | None, places: np.ndarray) -> np.ndarray:
    return cv2.bitwise_not(places) if valid is None else cv2.subtract(valid, places)


_NEIGHBOURS = np.ones((3, 3), np.uint8)
_own = threading.local()
