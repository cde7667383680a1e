"""Resize images: nearly the area average when shrinking, bilinear when enlarging.

OpenCV's `INTER_AREA` is fast for integer factors only: 1280x1024 rgb8 to 644x515, a factor of 1.99, takes 7 ms of one
core, 640x512 to 385x308 1.8 ms in place of 0.3. Most factors are therefore handled separately:

- Below 2 pixels are interpolated bilinearly: two neighbours per side cover the whole area.
- Near factor 2 the means of 2 x 2 pixels are interpolated bilinearly at each target's centre, which is the same
  weighting except for the difference of the factor from 2.
- Up to factor 4 pixels are averaged 2 x 2 first and then interpolated bilinearly: for the remaining factor below 2, two
  neighbours per side cover the whole area. The area's edge is accurate to one pixel.
- From factor 4 on pixels are averaged 2 x 2 first, then by `INTER_AREA`: accurate to half a pixel.
"""

from __future__ import annotations

import math
import threading

import cv2
import numpy as np

_NEAR_TWO = 0.02
"""Maximum difference of a factor from 2, which bounds the error of the area's outer weights."""
_HALVED_TWICE = 4.0
"""From this factor on the 2 x 2 means shrink by more than 2 again, too much for bilinear interpolation."""

Size = tuple[int, int]
"""(width, height) in pixels."""


def scale(image: np.ndarray, size: Size, out: np.ndarray | None = None) -> np.ndarray:
    """Resize an image, uint8 or uint16 [h, w] or uint8 [h, w, 3], to (width, height).

    `out` is an optional buffer, whose rows need not be contiguous. Without one the image itself is returned if it has
    the size already.
    """
    before = (image.shape[1], image.shape[0])
    if before == size:
        if out is None:
            return image
        out[...] = image
        return out
    if before == (1, 1):  # OpenCV 4.5 refuses it with three channels
        image = np.repeat(image, 2, axis=1)
    factors = before[0] / size[0], before[1] / size[1]
    if max(factors) <= 1:
        return cv2.resize(image, size, dst=out, interpolation=cv2.INTER_LINEAR)
    near_two = all(abs(factor - 2) <= _NEAR_TWO for factor in factors)
    if near_two and factors != (2.0, 2.0) and max(before) < _MAX_WARP:
        return _near_half(image, size, out)
    interpolation = cv2.INTER_LINEAR if max(factors) < 2 else cv2.INTER_AREA
    if _halves_first(before, size):
        image = cv2.resize(image, (before[0] // 2, before[1] // 2), interpolation=cv2.INTER_AREA)
        interpolation = _after_halving(before, size)
    return cv2.resize(image, size, dst=out, interpolation=interpolation)


def scale_valid(image: np.ndarray, valid: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray | None]:
    """Resize an image as `scale` does, from its valid pixels only; see `weigh` and `fill_invalid`."""
    before = (image.shape[1], image.shape[0])
    if not _halves_first(before, size):
        return fill_invalid(*(scale(x, size) for x in weigh(image, valid)))
    # Most invalid pixels are gone in the 2 x 2 means, a quarter as many, and then weights need no second scaling.
    means, known = _halved(image, valid)
    interpolation = _after_halving(before, size)
    scaled = cv2.resize(means, size, interpolation=interpolation)
    return (
        (scaled, None) if known is None else fill_invalid(scaled, cv2.resize(known, size, interpolation=interpolation))
    )


def _halves_first(before: Size, size: Size) -> bool:
    factors = before[0] / size[0], before[1] / size[1]
    return min(factors) >= 2 and factors != (2.0, 2.0) and not (before[0] % 2 or before[1] % 2)


def _after_halving(before: Size, size: Size) -> int:
    return cv2.INTER_LINEAR if max(before[0] / size[0], before[1] / size[1]) < _HALVED_TWICE else cv2.INTER_AREA


def _halved(image: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return means over the valid pixels of each 2 x 2, 0 without valid pixels; and their weights, see `weigh`.

    Weights are None if all are full, as after filling a few small holes.
    """
    half = image.shape[1] // 2, image.shape[0] // 2
    weighed, _ = _two_buffers(image)
    _expand(valid, weighed)
    cv2.bitwise_and(image, weighed, dst=weighed)
    sums = cv2.resize(weighed, half, interpolation=cv2.INTER_AREA)
    found = cv2.resize(valid, half, interpolation=cv2.INTER_AREA)
    found -= found >> 6  # 0, 64, 128, 191 and 255 become multiples of 63
    means = cv2.divide(sums, found.astype(image.dtype), scale=4 * 63)
    holes = found.size - cv2.countNonZero(found)
    if not holes:
        return means, None
    if holes <= _FEW_HOLES * found.size:
        reached = cv2.dilate(found, _AROUND)
        if cv2.countNonZero(reached) == found.size:
            _fill_shallow(means, found, reached)
            return means, None
    weights = np.empty_like(means)
    _expand(cv2.compare(found, 0, cv2.CMP_GT), weights)
    return means, weights


def _fill_shallow(means: np.ndarray, found: np.ndarray, reached: np.ndarray) -> None:
    """Fill `means` in place where `found`, the weights, are 0, up to `_SHALLOW` pixels deep; sets those weights to 1.

    `reached` is `found` dilated by `_AROUND`.
    """
    height, width = means.shape
    flat_means, flat_found = means.reshape(-1), found.reshape(-1)
    places = np.flatnonzero(reached.astype(bool) & (found == 0))
    flat_means[places] = 0
    for _ in range(_SHALLOW):
        rows, columns = places // width, places % width
        rows = np.stack([np.maximum(rows - 1, 0), rows, np.minimum(rows + 1, height - 1)])
        columns = np.stack([np.maximum(columns - 1, 0), columns, np.minimum(columns + 1, width - 1)])
        around = (rows[:, None] * width + columns[None]).reshape(9, -1)
        has = flat_found[around] != 0
        count = np.count_nonzero(has, axis=0)
        sums = (flat_means[around] * has).sum(axis=0, dtype=np.uint32)
        near = count > 0
        flat_means[places[near]] = (sums[near] + count[near] // 2) // count[near]
        flat_found[places[near]] = 1
        places = places[~near]


def weigh(image: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Set the invalid pixels of an image, uint8 or uint16 [h, w], to 0, and return it with the weights of its pixels.

    `valid` is uint8 [h, w], 255 for valid pixels, else 0. The weights are an image of the same type, 0 or its maximum.
    Scale or warp both alike; `fill_invalid` then divides one by the other. This thread's next call overwrites both.
    """
    weighed, weights = _two_buffers(image)
    _expand(valid, weights)
    return cv2.bitwise_and(image, weights, dst=weighed), weights


def _two_buffers(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two thread-local buffers like the image; fresh memory costs more than the computation."""
    kept: tuple[np.ndarray, np.ndarray] | None = getattr(_own, "weighed", None)
    if kept is None or (kept[0].shape, kept[0].dtype) != (image.shape, image.dtype):
        kept = _own.weighed = np.empty(image.shape, image.dtype), np.empty(image.shape, image.dtype)
    return kept


def _expand(valid: np.ndarray, out: np.ndarray) -> None:
    """Convert 0 and 255 to 0 and the maximum of any unsigned type: 255 is -1 as int8."""
    np.copyto(out, valid.view(np.int8), casting="unsafe")


def fill_invalid(image: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Compute means over valid pixels from the scaled outputs of `weigh`.

    Pixels without weight are filled from their neighbours, from the third pixel on in a hole from squares of up to four
    pixels. Those farther inside an invalid region stay unknown.

    Returns:
        An image of the same type and shape; and bool [h, w], which of its pixels are known, None: all.
    """
    whole = np.iinfo(image.dtype).max
    minimum = math.ceil(_MIN_WEIGHT * whole)
    filled = cv2.divide(image, weights, scale=float(whole))
    if cv2.minMaxLoc(weights)[0] >= minimum:
        return filled, None
    found = (weights >= minimum).view(np.uint8)
    reached = cv2.dilate(found, _AROUND)
    holes = found == 0
    _fill_shallow(filled, found, reached)
    if cv2.countNonZero(reached) == reached.size:
        return filled, None
    deep = reached == 0
    rows = _rows_around(deep)
    empty = deep[rows]
    sums, known = image[rows].astype(np.float32), weights[rows].astype(np.float32)
    sums[holes[rows]] = known[holes[rows]] = 0
    means, near = (x[empty] for x in _coarser(sums, known, _FILL_LEVELS))
    filled[rows][empty] = np.rint(means / (near + _TINY) * np.float32(whole))  # weights are fractions of the maximum
    is_known = near > _MIN_WEIGHT
    if is_known.all():
        return filled, None
    seen = ~deep
    seen[rows][empty] = is_known
    return filled, seen


def _rows_around(holes: np.ndarray) -> slice:
    """Return the rows needed to fill holes, bool [h, w], aligned to the squares of the whole image."""
    square = 1 << _FILL_LEVELS
    if holes.shape[0] % square:
        return slice(0, holes.shape[0])
    found = np.flatnonzero(cv2.reduce(holes.view(np.uint8), 1, cv2.REDUCE_MAX))
    return slice(max(0, found[0] // square - 2) * square, (found[-1] // square + 3) * square)


def _coarser(sums: np.ndarray, weights: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute weighted means, float32 [h, w], over squares of 2 x 2, or up to `levels` doublings where these are empty.

    Returns:
        Means times coverage, and coverage (the fraction of the surrounding squares with weight, 0..1), float32 [h, w].
    """
    size = sums.shape[::-1]
    half = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    sums, weights = (cv2.resize(x, half, interpolation=cv2.INTER_AREA) for x in (sums, weights))
    means, empty = sums / (weights + _TINY), weights == 0
    if levels > 1 and empty.any():
        coarse, near = _coarser(sums, weights, levels - 1)
        means = cv2.copyTo(coarse / (near + _TINY), empty.view(np.uint8), means)
        empty &= near <= _MIN_WEIGHT
    coverage = 1 - empty.astype(np.float32)
    means *= coverage
    return cv2.resize(means, size), cv2.resize(coverage, size)


def _near_half(image: np.ndarray, size: Size, out: np.ndarray | None) -> np.ndarray:
    means = _means(image)
    # The mean of pixels i and i + 1 has index i and is located at i + 1/2, hence 1 instead of the 1/2 of pixel centres.
    x, y = image.shape[1] / size[0], image.shape[0] / size[1]
    back = np.array([[x, 0.0, x / 2 - 1.0], [0.0, y, y / 2 - 1.0]])
    interpolation = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(means, back, size, dst=out, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)


def _means(image: np.ndarray) -> np.ndarray:
    """Return the means of 2 x 2 pixels, [h - 1, w - 1] or [h - 1, w - 1, 3]; overwritten by the thread's next call."""
    shape = (image.shape[0] - 1, image.shape[1] - 1, *image.shape[2:])
    memory = getattr(_own, "memory", None)  # fresh memory for each frame would cost as much as the sums
    if memory is None or memory.nbytes < image.nbytes:
        memory = _own.memory = np.empty(image.nbytes, np.uint8)
    means = np.ndarray(shape, image.dtype, buffer=memory)
    for top in range(0, shape[0], _STRIP):
        strip = image[top : top + _STRIP + 1]
        across = cv2.addWeighted(strip[:, :-1], 0.5, strip[:, 1:], 0.5, 0.0)
        cv2.addWeighted(across[:-1], 0.5, across[1:], 0.5, 0.0, dst=means[top : top + _STRIP])
    return means


_own = threading.local()
_STRIP = 64
"""Rows per strip: intermediate sums stay in the core's cache."""
_MIN_WEIGHT = 1 / 8
"""Minimum weight of a scaled pixel; below it rounding would show, so its mean comes from a larger neighbourhood."""
_FILL_LEVELS = 2
"""Holes are filled from squares of up to 4 x 4 pixels. Pixels deeper in a hole are masked like pixels outside the
image: that gives better detections than replicating the border."""
_SHALLOW = 2
"""Holes are filled from their neighbours up to this depth in pixels, where they cost little."""
_AROUND = np.ones((2 * _SHALLOW + 1, 2 * _SHALLOW + 1), np.uint8)
_FEW_HOLES = 1 / 32
"""Maximum fraction of pixels for which small holes are filled one by one: two rows, or a border of 2 %."""
_TINY = np.finfo(np.float32).tiny
_MAX_WARP = 1 << 15
"""OpenCV warps images whose sides fit into 16 bits."""
