"""Detection of invalid counts in 16-bit thermal frames.

Cameras and drivers write constants for pixels without a measurement: 0 or the maximum count at dead and stuck pixels
and in the border left by rectification. Some write telemetry into the first or last rows. A constant alone is no proof:
0 may be the coldest pixel of a camera that subtracts its minimum, and 65535 a fire. The rules therefore compare a value
with the other counts and with its surroundings in the image:

- A constant close to the other counts does no harm and counts as valid.
- 0 far below all other counts is invalid, unless counts in between occur.
- A constant far above is invalid where its edge is sharper than a lens can image: pixels around a hot region are
  raised. A large region inside the image is hot whatever its edge.
- Other constants are considered if they are the frame's extreme, repeated and isolated, in noisy scenes.
- Rows at the top or bottom edge are telemetry if their values lie outside those of the scene.

The scene's counts are estimated from about 5,000 pixels, so frames without suspicious extremes cost little.

Letters: h x w frame size.
"""

from __future__ import annotations

import math
import threading

import cv2
import numpy as np

_SATURATED = frozenset((1 << bits) - 1 for bits in range(10, 17))
"""Maximum counts of sensors with 10 to 16 bits."""
_SAMPLES = 5400
_ROWS = 8
"""Maximum rows of telemetry at an edge; cameras write up to 4."""
_NEAR = 0.25
"""A constant closer than this to the other counts, as a fraction of their span, counts as valid."""
_GRADED = 0.2
"""Fraction of the gap to a constant above which a neighbouring pixel counts as raised towards it by the lens."""
_SOLID = 7
"""A region of the maximum count inside the image that contains a square of this side in pixels is hot whatever its
edge; clusters of stuck pixels are smaller."""
_SOLID_OTHER = 3
"""`_SOLID` for constants that are not the maximum count of a sensor."""
_BLOCK = 4
"""Side in pixels of the blocks by which large regions are separated."""
_MIN_VALUES = 8
_MAX_REGIONS = 32
_MAX_CONSTANTS = 4
"""Maximum number of constants above, and below, the scene's counts."""


class InvalidCounts:
    """Detector of invalid pixels."""

    def __init__(self, counts: tuple[int, ...] = (), automatic: bool = True) -> None:
        """
        Args:
            counts: constants that are invalid in every frame, of 8 or 16 bits.
            automatic: apply the rules above to 16-bit frames.
        """
        self._counts = counts
        self._automatic = automatic

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        """Find the valid pixels of a frame, counts uint8 or uint16 [h, w].

        Returns uint8 [h, w], 255 where valid, else 0; None: all pixels are valid. The next call in this thread, of any
        instance, may overwrite it.
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
            valid = _without_detected(frame, valid)
        return valid


class _Scene:
    """Range of a scene's counts, estimated from a sample of pixels.

    Attributes:
        low, high, span: 2nd and 98th percentile of the scene's counts; their difference, at least 8.
        sample: sampled counts of the frame in ascending order, including invalid ones.
        is_empty: all sampled counts are 0 or the maximum of a sensor.
        is_drawn: the scene has so few different counts that it is synthetic; a sensor is noisy.
    """

    def __init__(self, frame: np.ndarray, valid: np.ndarray | None) -> None:
        edge = min(_ROWS, frame.shape[0] // 8)
        inner = slice(edge, frame.shape[0] - edge)
        picked = _spread(frame[inner])
        if valid is not None:
            picked = picked[_spread(valid[inner]) != 0]
        self.sample = np.sort(picked, kind="stable")  # radix sort for 16 bits: a third of the time
        first, last = 0, len(self.sample)
        while first < last and (self.sample[first] == 0 or self._is_isolated(first, last, below=True)):
            first = int(np.searchsorted(self.sample, self.sample[first], side="right"))
        while first < last and (self.sample[last - 1] in _SATURATED or self._is_isolated(first, last, below=False)):
            last = int(np.searchsorted(self.sample, self.sample[last - 1], side="left"))
        self.is_empty = first == last
        if self.is_empty:
            first, last = 0, len(self.sample)
        scene = self.sample[first:last]
        self.low, self.high = (float(scene[round(q * (len(scene) - 1))]) for q in (0.02, 0.98)) if last else (0.0, 0.0)
        self.is_drawn = _distinct(scene) < _MIN_VALUES
        self.span = max(self.high - self.low, 8.0)

    def _is_isolated(self, first: int, last: int, below: bool) -> bool:
        """Return whether the minimum or maximum occurs often and lies far from all other counts."""
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
        """Return whether counts between 0 and the scene's occur, so that 0 is a count like the others."""
        zeros, middle = (int(np.searchsorted(self.sample, at, side="right")) for at in (0, int(self.low / 2)))
        between = self.sample[zeros:middle]
        return len(between) >= max(4, zeros / 2) and _distinct(between) >= 4


def _distinct(ordered: np.ndarray) -> int:
    """Count the different values of a sorted array [N]; `np.unique` would sort it again."""
    return min(1, len(ordered)) + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _without_detected(frame: np.ndarray, valid: np.ndarray | None) -> np.ndarray | None:
    """Remove from `valid` the pixels of a frame uint16 [h, w] that the rules find invalid."""
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
    ends = list(_extremes(frame, valid))  # removing one does not change the other
    for below in (True, False):
        for _ in range(_MAX_CONSTANTS):
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
    """Remove `value`, the minimum (`below`) or maximum valid count, from `valid` where it is invalid.

    Returns:
        Valid pixels uint8 [h, w], and the new minimum or maximum (None: no pixel is valid). None: the count is valid.
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
    np.negative(others.view(np.int8), out=others.view(np.int8))  # 1 becomes 255; faster than `cv2.compare`
    if valid is not None:
        cv2.bitwise_and(others, valid, dst=others)
    # The next count mostly shows whether counts between the constant and the scene occur, without reading the image.
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
    """Remove from `others` pixels mixed with invalid ones by resampling: counts below `edge` beside them."""
    zeros = cv2.bitwise_not(others)
    mixtures = cv2.bitwise_and(cv2.compare(frame, edge, cv2.CMP_LT), others)
    for _ in range(2):  # at oblique edges they are two pixels deep
        mixed = cv2.bitwise_and(cv2.dilate(zeros, _NEIGHBOURS), mixtures)
        if not cv2.countNonZero(mixed):
            break
        cv2.bitwise_or(zeros, mixed, dst=zeros)
    return cv2.bitwise_not(zeros, dst=others)


def _extremes(frame: np.ndarray, valid: np.ndarray | None) -> tuple[int | None, int | None]:
    """Return the minimum and maximum valid count; None: no pixel is valid."""
    low, high, location, _ = cv2.minMaxLoc(frame, valid)
    return (int(low), int(high)) if location[0] >= 0 else (None, None)


def _may_hold(others: np.ndarray, solid: int) -> bool:
    """Return whether a square of `solid` pixels per side may lie outside `others`; a fast test, False is certain."""
    if min(others.shape) < _SOLID:
        return True
    if solid == _SOLID:
        others = np.ascontiguousarray(others[::3, ::3])
        pairs = cv2.bitwise_or(others[1:], others[:-1])
    elif others.shape[0] % 2 == 0:  # any three rows, or two at the image's edge, contain such a pair
        pairs = cv2.bitwise_or(others[::2], others[1::2])
    else:
        return True
    squares = cv2.bitwise_or(pairs[:, 1:], pairs[:, :-1])
    return cv2.countNonZero(squares) < squares.size


def _true_regions(places: np.ndarray, around: np.ndarray, graded: np.ndarray, solid: int) -> np.ndarray:
    """Return the regions of a constant that are part of the scene, uint8 [h, w] of 0 and 255 like all masks here.

    Args:
        places, around: pixels with the constant, and their neighbouring pixels.
        graded: neighbouring pixels with counts between the scene's and the constant.
        solid: a region inside the image that contains a square of this side in pixels is part of the scene even with a
            sharp edge; 0: disabled.
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
    """Return bounding slices of the largest regions more than two pixels wide, from the eroded ones, uint8 [h, w].

    With each comes a mask uint8 of that size, 255 in the region and close to it.
    """
    height, width = cores.shape
    size = -(-width // _BLOCK), -(-height // _BLOCK)
    padded = cv2.copyMakeBorder(cores, 0, size[1] * _BLOCK - height, 0, size[0] * _BLOCK - width, cv2.BORDER_CONSTANT)
    blocks = (cv2.resize(padded, size, interpolation=cv2.INTER_AREA) > 0).view(np.uint8)
    blocks = cv2.dilate(blocks, _NEIGHBOURS)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(blocks, connectivity=4)
    found = []
    for label in np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:_MAX_REGIONS] + 1:
        x, y, w, h = (int(v) for v in stats[label, :4])
        inside = (labels[y : y + h, x : x + w] == label).astype(np.uint8) * 255
        inside = np.repeat(np.repeat(inside, _BLOCK, axis=0), _BLOCK, axis=1)
        box = (slice(y * _BLOCK, min(height, (y + h) * _BLOCK)), slice(x * _BLOCK, min(width, (x + w) * _BLOCK)))
        found.append((box, np.ascontiguousarray(inside[: box[0].stop - box[0].start, : box[1].stop - box[1].start])))
    return found


def _is_inside(part: np.ndarray, box: tuple[slice, slice], shape: tuple[int, int], solid: int) -> bool:
    """Return whether a region is large and neither spans the image nor fills a corner, as borders do."""
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
    """Count the rows at the top and at the bottom that do not show the scene."""
    limit = min(_ROWS, frame.shape[0] // 8)
    if not limit:
        return 0, 0
    # Integers, since NumPy would compare with floats in float64.
    low, high = max(0, math.ceil(scene.low - scene.span)), min(math.floor(scene.high + scene.span), 65535)
    found = []
    for edge in (frame[: limit + 1], frame[: -limit - 2 : -1]):
        # The rules below for the first row only: if it shows the scene, so do the others.
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
        while rows and not other[rows - 1].any():  # only constants, which have their own rules
            rows -= 1
        found.append(rows)
    return found[0], found[1]


def _outside(counts: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Return masks (bool) of counts outside [low, high], and of those that are neither 0 nor a sensor's maximum."""
    outside = (counts < low) | (counts > high)
    return outside, outside & ((counts & (counts + 1)) != 0)


def _spread(image: np.ndarray) -> np.ndarray:
    """Sample about `_SAMPLES` pixels evenly from an image, in its order, [N]."""
    step = max(1, image.size // _SAMPLES)
    while math.gcd(step, image.shape[1]) > 1:
        step += 1
    return image.reshape(-1)[::step]


def _memory(shape: tuple[int, ...], used: np.ndarray | None) -> np.ndarray:
    """Return a buffer uint8 [h, w] of this thread other than `used`; allocation costs more than the operations."""
    kept: list[np.ndarray] | None = getattr(_own, "masks", None)
    if kept is None or kept[0].shape != shape:
        kept = _own.masks = [np.empty(shape, np.uint8) for _ in range(2)]
    return kept[1] if used is kept[0] else kept[0]


def _without(valid: np.ndarray | None, places: np.ndarray) -> np.ndarray:
    return cv2.bitwise_not(places) if valid is None else cv2.subtract(valid, places)


_NEIGHBOURS = np.ones((3, 3), np.uint8)
_own = threading.local()
