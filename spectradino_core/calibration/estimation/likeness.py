"""Structure correlation of two cameras' images under a homography, and its gain over another.

Letters: h x w an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.calibration.estimation.fitting import transfer
from spectradino_core.calibration.estimation.structure import structure
from spectradino_core.calibration.estimation.uncertainty import mean_bound
from spectradino_core.calibration.registration import Size

__all__ = ["Gain", "jacobian", "laid", "likeness_gain"]


@dataclass(frozen=True)
class Gain:
    """Structure correlation (at most 1) over all images, without and with a calibration.

    Attributes:
        before, after: of all images together.
        mean: mean rise over groups of images held out from the map used there.
        noise: 95 % bound of that mean's error.
    """

    before: float
    after: float
    mean: float
    noise: float


def likeness_gain(
    grey: Sequence[tuple[np.ndarray, np.ndarray]],
    maps: Sequence[np.ndarray],
    whole: np.ndarray,
    shrink: np.ndarray,
    size: Size,
    blocks: np.ndarray,
) -> Gain:
    """Measure the gain of maps over no calibration.

    Args:
        grey: pairs of RGB and IR images, float32 [h, w].
        maps: IR to RGB pixels [3, 3], the k-th estimated without the k-th group of pairs; of a single pair without
            some of its patches.
        whole: the map without a calibration.
        shrink: RGB pixels to pixels of the compared images [3, 3].
        size: (width, height) of the compared images.
        blocks: of a single pair, the group of patches of each block, int64 [rows, columns].
    """
    rows: list[np.ndarray] = []  # per group: sums after, then before
    if len(grey) > 1:
        for group, matrix in enumerate(maps):
            members = [pair for k, pair in enumerate(grey) if k * len(maps) // len(grey) == group]
            sums = [[_sums(pair, m, shrink, size)[0, 0] for m in (matrix, whole)] for pair in members]
            rows.append(np.sum(sums, axis=0))
    else:
        before = _sums(grey[0], whole, shrink, size, blocks.shape)
        for group, matrix in enumerate(maps):
            after, own = _sums(grey[0], matrix, shrink, size, blocks.shape), blocks == group
            rows.append(np.stack([after[own].sum(axis=0), before[own].sum(axis=0)]))
    likeness = np.array([[_correlation(part) for part in row] for row in rows])
    total = np.sum(rows, axis=0)
    gains = likeness[:, 0] - likeness[:, 1]
    return Gain(_correlation(total[1]), _correlation(total[0]), float(gains.mean()), mean_bound(gains))


def _sums(
    pair: tuple[np.ndarray, np.ndarray],
    matrix: np.ndarray,
    shrink: np.ndarray,
    size: Size,
    blocks: tuple[int, ...] = (1, 1),
) -> np.ndarray:
    """Return products of structure and both energies by block: float64 [rows, columns, 3]."""
    colour, infrared = pair
    image, seen = laid(infrared, shrink @ matrix, size)
    a = structure(cv2.resize(colour, size, interpolation=cv2.INTER_AREA)) * seen
    b = structure(image, seen) * seen
    planes = [np.einsum("chw,chw->hw", one, other) for one, other in ((a, b), (a, a), (b, b))]
    return np.stack(
        [cv2.resize(p.astype(np.float64), blocks[::-1], interpolation=cv2.INTER_AREA) for p in planes], axis=-1
    )


def _correlation(sums: np.ndarray) -> float:
    return float(sums[0] / math.sqrt(max(sums[1] * sums[2], 1e-12)))


def laid(infrared: np.ndarray, matrix: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Warp the IR image: float32 [h, w], and a bool [h, w] mask of valid pixels."""
    scale = math.sqrt(abs(np.linalg.det(jacobian(matrix, (infrared.shape[1], infrared.shape[0])))))
    if scale < 1:
        infrared = cv2.GaussianBlur(infrared, (0, 0), 0.4 / max(scale, 0.05))
    image = cv2.warpPerspective(infrared, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.warpPerspective(np.ones(infrared.shape, np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    return image, seen > 0


def jacobian(matrix: np.ndarray, size: Size) -> np.ndarray:
    """Return the Jacobian [2, 2] of the map at the image's centre."""
    centre = np.array([[(size[0] - 1) / 2, (size[1] - 1) / 2]])
    here, right, down = (transfer(matrix, centre + step)[0] for step in ((0, 0), (1, 0), (0, 1)))
    return np.stack([right - here, down - here], axis=1)
