"""Images scaled to another size: averaged over the area where they shrink, bilinear where they grow.

OpenCV's `INTER_AREA` is fast by whole factors only: 1280x1024 rgb8 to 644x515, a factor of 1.99, takes it 7 ms of one
core. What cameras of twice the network's size and more meet is therefore taken another way:

- Near factor 2 the mean of 2 x 2 pixels is taken bilinearly at each target's centre, which is the same weighting but
  for the difference of the factor from 2.
- From there to factor 4 pixels are averaged 2 x 2 first, and these means are taken bilinearly: of a factor below 2 a
  target's two neighbours a side miss nothing. The area's edge then lies within a pixel of where it should.
- From factor 4 on pixels are averaged 2 x 2 first, and `INTER_AREA` does the rest: within half a pixel.
"""

from __future__ import annotations

import threading

import cv2
import numpy as np

__all__ = ["fill_invalid", "scale", "weigh"]

_NEAR_TWO = 0.02
"""How far a factor may be from 2: the outer weights of an area are then off by as much at most."""
_HALVED_TWICE = 4.0
"""From here on what was averaged 2 x 2 is more than halved once more: too much for bilinear values."""

Size = tuple[int, int]
"""(width, height) in pixels."""


def scale(image: np.ndarray, size: Size, out: np.ndarray | None = None) -> np.ndarray:
    """`image`, uint8 or uint16 [h, w] or uint8 [h, w, 3], resized to `size`.

    `out`, where given, is filled and returned: of the image's type and of that size; its rows may lie apart. Without
    it, an image that has the size already is returned itself.
    """
    before = (image.shape[1], image.shape[0])
    if before == size:
        if out is None:
            return image
        out[...] = image
        return out
    if before == (1, 1):  # with three channels OpenCV 4.5 refuses it
        image = np.repeat(image, 2, axis=1)
    factors = before[0] / size[0], before[1] / size[1]
    if max(factors) <= 1:
        return cv2.resize(image, size, dst=out, interpolation=cv2.INTER_LINEAR)
    near_two = all(abs(factor - 2) <= _NEAR_TWO for factor in factors)
    if near_two and factors != (2.0, 2.0) and max(before) < _LARGEST_WARP:
        return _near_half(image, size, out)
    how = cv2.INTER_AREA
    if min(factors) >= 2 and factors != (2.0, 2.0) and not (before[0] % 2 or before[1] % 2):
        image = cv2.resize(image, (before[0] // 2, before[1] // 2), interpolation=cv2.INTER_AREA)
        if max(factors) < _HALVED_TWICE:
            how = cv2.INTER_LINEAR
    return cv2.resize(image, size, dst=out, interpolation=how)


def weigh(image: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image with its invalid pixels set to 0, and the weights of its pixels.

    Both can be scaled or warped alike; `fill_invalid` then divides one by the other.

    Args:
        image: uint8 or uint16 [h, w].
        valid: uint8 [h, w], 255 where a pixel is valid, else 0.

    Returns:
        Two images of the input's type; weights are 0 or the largest value of the type. This thread's next call writes
        over them.
    """
    kept = getattr(_own, "weighed", None)  # fresh memory costs more than what is done with it
    if kept is None or (kept[0].shape, kept[0].dtype) != (image.shape, image.dtype):
        kept = _own.weighed = np.empty(image.shape, image.dtype), np.empty(image.shape, image.dtype)
    weighed, weights = kept
    np.copyto(weights, valid.view(np.int8), casting="unsafe")  # 255 is -1, which becomes the largest of any type
    return cv2.bitwise_and(image, weights, dst=weighed), weights


def fill_invalid(image: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Means over valid pixels alone, from what `weigh` gave after scaling.

    Pixels without any are filled from up to four pixels around. Those farther inside an invalid region stay unknown.

    Args:
        image: uint8 or uint16 [h, w].
        weights: of the same type and shape.

    Returns:
        An image of the same type and shape; and bool [h, w], which of its pixels are known, None: all.
    """
    whole = float(np.iinfo(image.dtype).max)
    least = _LEAST_WEIGHT * whole
    filled = cv2.divide(image, weights, scale=whole)
    if cv2.minMaxLoc(weights)[0] >= least:
        return filled, None
    holes = weights < least
    known = weights.astype(np.float32)
    known *= np.float32(1 / whole)
    known[holes] = 0
    means, reached = _coarser(cv2.multiply(filled, known, dtype=cv2.CV_32F), known, _FILL_LEVELS)
    filled[holes] = np.rint(means[holes])
    seen = reached | ~holes
    return filled, None if seen.all() else seen


def _coarser(sums: np.ndarray, weights: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of weighted pixels over squares of 2 x 2, where these have no weight of 4 x 4 and so on.

    Args:
        sums, weights: float32 [h, w].
        levels: how often the side doubles.

    Returns:
        float32 [h, w]; and bool [h, w], where a square near enough has weight.
    """
    size = sums.shape[::-1]
    half = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    sums, weights = (cv2.resize(x, half, interpolation=cv2.INTER_AREA) for x in (sums, weights))
    means, known = sums / np.maximum(weights, _TINY), weights > 0
    if levels > 1 and not known.all():
        coarse, reached = _coarser(sums, weights, levels - 1)
        means = np.where(known, means, coarse)
        known |= reached
    share = known.astype(np.float32)
    means *= share
    means, share = (cv2.resize(x, size, interpolation=cv2.INTER_LINEAR) for x in (means, share))
    return means / np.maximum(share, _TINY), share > _LEAST_WEIGHT


def _near_half(image: np.ndarray, size: Size, out: np.ndarray | None) -> np.ndarray:
    means = _means(image)
    # The mean of pixels i and i + 1 has index i and lies at i + 1/2, hence 1 and not the 1/2 of pixel centres.
    x, y = image.shape[1] / size[0], image.shape[0] / size[1]
    back = np.array([[x, 0.0, x / 2 - 1.0], [0.0, y, y / 2 - 1.0]])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(means, back, size, dst=out, flags=how, borderMode=cv2.BORDER_REPLICATE)


def _means(image: np.ndarray) -> np.ndarray:
    """The mean of each 2 x 2 pixels, [h - 1, w - 1] or [h - 1, w - 1, 3]; this thread's next call writes over it."""
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
"""Rows: what is between the two sums stays in the core's own cache."""
_LEAST_WEIGHT = 1 / 8
"""Of a scaled pixel, below which its mean is taken from a larger neighbourhood: rounding would show."""
_FILL_LEVELS = 2
"""Holes are filled from squares of up to 4 x 4 pixels. What lies deeper in a hole is left out, as is what lies outside
of the image: that gives better detections than a border that is drawn out."""
_TINY = np.finfo(np.float32).tiny
_LARGEST_WARP = 1 << 15
"""OpenCV warps images whose sides fit into 16 bits."""
