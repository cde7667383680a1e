"""Evidence for a homography: gain in structure correlation, jackknife error bounds, acceptance limits, and errors.

Letters: h x w an image, G parts that the evidence is divided into, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from spectradino_core.calibration.estimation import CalibrationError
from spectradino_core.calibration.estimation.structure import structure, warped
from spectradino_core.calibration.registration import Registration, Size, jacobian

GROUPS = 8
"""Maximum number of parts that the evidence is divided into."""


@dataclass(frozen=True)
class Evidence:
    """Evidence for a homography. Distances are in RGB pixels.

    Attributes:
        pairs: number of image pairs.
        matches: number of matched patches localised in both directions.
        hits: those within `INLIER_PX` (of an image 640 wide) of a fit from other patches.
        coverage: fraction, 0 to 1, of the common field of view that has a hit nearby.
        residual_px: median distance of the held-out patches from the fit.
        disagreement_px: median distance between maps from either half, the larger of halves of the image and of the
            pairs.
        uncertainty_px: 95 % bound of the map's maximum error over the common field of view: from fits that leave out
            some of the pairs, or of the patches, whichever differ more.
        correlation, correlation_before: structure correlation with this map, and with the IR image stretched over the
            RGB image.
        gain, gain_noise: mean rise of that correlation in images (of a single pair: in parts of it) held out from the
            fit, and the 95 % bound of its noise.
        moved_px, moved_corner_px: distance between the two maps, median and maximum.
    """

    pairs: int
    matches: int
    hits: int
    coverage: float
    residual_px: float
    disagreement_px: float
    uncertainty_px: float
    correlation: float
    correlation_before: float
    gain: float
    gain_noise: float
    moved_px: float
    moved_corner_px: float


@dataclass(frozen=True)
class HomographyEstimate:
    """Estimated registration (IR to RGB pixels, with the images' sizes) with its evidence."""

    registration: Registration
    evidence: Evidence

    def __str__(self) -> str:
        e, matrix = self.evidence, np.reshape(self.registration.matrix, (3, 3))
        scale = math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
        roll = math.degrees(math.atan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1]))
        return (
            f"One IR pixel is {scale:.3f} RGB pixels, rolled by {roll:+.2f} degrees, and the IR image's top left pixel "
            f"lies at ({matrix[0, 2]:.1f}, {matrix[1, 2]:.1f}). {e.hits} of {e.matches} held-out patches from "
            f"{e.pairs} pair{'s' * (e.pairs != 1)} agree, on {e.coverage:.0%} of the common field of view; residual "
            f"{e.residual_px:.2f} px (median); error at the corners at most {e.uncertainty_px:.1f} px (95 %); "
            f"structure correlation {e.correlation_before:.3f} before and {e.correlation:.3f} after, a gain of "
            f"{e.gain:.3f} in images held out from the fit (noise {e.gain_noise:.3f})"
        )


class UncertainRegistrationError(CalibrationError):
    """The homography fits, but is not better than none, or too uncertain at the corners."""


class AlreadyRegisteredError(CalibrationError):
    """No homography is better than none: the IR image already covers the RGB image as it is (`registration`).

    `estimate` is the best homography found, with the evidence that it brings no gain.
    """

    def __init__(self, text: str, estimate: HomographyEstimate, registration: Registration) -> None:
        super().__init__(text)
        self.estimate = estimate
        self.registration = registration


class Gain(NamedTuple):
    """Rise of the structure correlation, see the attributes of `Evidence`."""

    correlation: float
    correlation_before: float
    gain: float
    gain_noise: float


def correlation_gain(
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
        maps: IR to RGB pixels [3, 3], the k-th estimated without the k-th group of pairs (or patches of a single pair).
        whole: the map without a calibration.
        shrink, size: RGB pixels to pixels of the compared images [3, 3], and their (width, height).
        blocks: of a single pair, the group of patches of each block, int64 [rows, columns].
    """
    rows: list[np.ndarray] = []  # per group: sums after, then before
    if len(grey) > 1:
        for group, matrix in enumerate(maps):
            members = [pair for k, pair in enumerate(grey) if k * len(maps) // len(grey) == group]
            sums = [[_sums(pair, shrink @ m, size)[0, 0] for m in (matrix, whole)] for pair in members]
            rows.append(np.sum(sums, axis=0))
    else:
        before = _sums(grey[0], shrink @ whole, size, blocks.shape)
        for group, matrix in enumerate(maps):
            after, own = _sums(grey[0], shrink @ matrix, size, blocks.shape), blocks == group
            rows.append(np.stack([after[own].sum(axis=0), before[own].sum(axis=0)]))
    correlation = np.array([[_correlation(part) for part in row] for row in rows])
    total = np.sum(rows, axis=0)
    gains = correlation[:, 0] - correlation[:, 1]
    return Gain(_correlation(total[0]), _correlation(total[1]), float(gains.mean()), mean_bound(gains))


def _sums(
    pair: tuple[np.ndarray, np.ndarray], matrix: np.ndarray, size: Size, blocks: tuple[int, ...] = (1, 1)
) -> np.ndarray:
    """Return products of structure and both energies by block: float64 [rows, columns, 3]."""
    colour, infrared = pair
    image, seen = warp_infrared(infrared, matrix, size)
    a = structure(cv2.resize(colour, size, interpolation=cv2.INTER_AREA)) * seen
    b = structure(image, seen) * seen
    planes = [np.einsum("chw,chw->hw", one, other) for one, other in ((a, b), (a, a), (b, b))]
    return np.stack(
        [cv2.resize(p.astype(np.float64), blocks[::-1], interpolation=cv2.INTER_AREA) for p in planes], axis=-1
    )


def _correlation(sums: np.ndarray) -> float:
    return float(sums[0] / math.sqrt(max(sums[1] * sums[2], 1e-12)))


def warp_infrared(infrared: np.ndarray, matrix: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Warp the IR image by a homography, see `warped`."""
    scale = math.sqrt(abs(np.linalg.det(jacobian(matrix, (infrared.shape[1], infrared.shape[0])))))
    return warped(infrared, matrix, size, max(scale, 0.05))


def jackknife_bound(estimates: Sequence[np.ndarray]) -> float:
    """Return the 95 % bound of the error at the worst of several points; infinite for fewer than two parts.

    The estimates are the positions of the points, float64 [P, 2], without each of the parts.
    """
    if len(estimates) < 2:
        return math.inf
    points = np.stack(estimates)
    away = points - points.mean(axis=0)
    variance = (len(points) - 1) / len(points) * (away**2).sum(axis=(0, 2))
    return _quantile(len(points)) * float(np.sqrt(variance.max()))


def mean_bound(values: np.ndarray) -> float:
    """Return the 95 % bound of the error of a mean of independent values [G]; infinite for fewer than two."""
    if len(values) < 2:
        return math.inf
    return _quantile(len(values)) * float(values.std(ddof=1)) / math.sqrt(len(values))


def _quantile(parts: int) -> float:
    # With few parts the spread itself is uncertain, so bounds widen, about as Student's quantiles do.
    return 2 + 4 / (parts - 1)
