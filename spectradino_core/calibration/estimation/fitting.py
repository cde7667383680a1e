"""Robust, regularised homography fit to patch matches.

Wrong matches (parallax, moving objects, ambiguous texture) are rejected by Geman-McClure weights whose width shrinks
from step to step (graduated non-convexity). Each match is weighted by the curvature of its correlation, so that an edge
counts across and not along. Two cameras side by side differ mainly by scale, shift and a small roll; stretch, shear
and perspective are limited by a prior as wide as in real rigs, which a few dozen good matches outweigh and a handful
do not.

Letters: N matches; u, v pixel coordinates from the image centre in units of half its width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.calibration.estimation.matching import Matches

__all__ = ["INLIER_PX", "Fit", "fit", "relative_information", "transfer"]

INLIER_PX = 2.5
"""Inlier threshold in pixels."""

_STRETCH, _PERSPECTIVE = 0.01, 0.02
"""Standard deviations of stretch and shear, and of perspective, per half image width."""

_WIDTHS = (12.0, 8.0, 5.5, 4.0, 3.0, 2.5)
_STEPS = 3


@dataclass(frozen=True)
class Fit:
    """Fitted correction.

    Attributes:
        correction: float64 [3, 3], maps the points of the matches to where they were found.
        inliers: bool [N].
    """

    correction: np.ndarray
    inliers: np.ndarray


def fit(matches: Matches, size: tuple[int, int]) -> Fit:
    """Fit a correction near the identity.

    Args:
        matches: at least one.
        size: (width, height) of the image they lie on.
    """
    half = size[0] / 2
    to_uv = np.array([[1 / half, 0, (1 - size[0]) / size[0]], [0, 1 / half, (1 - size[1]) / size[0]], [0, 0, 1]])
    from_uv = np.linalg.inv(to_uv)
    uv, wanted = transfer(to_uv, matches.points), matches.shifts / half
    known, prior = relative_information(matches.information), _prior()
    # (1 + g·uv) (uv + shift) = uv + a uv + b is linear in all eight parameters of a, b and g.
    design = np.zeros((len(uv), 2, 8))
    for row in (0, 1):
        design[:, row, 3 * row] = 1.0
        design[:, row, 3 * row + 1 : 3 * row + 3] = uv
        design[:, row, 6:] = -(uv + wanted)[:, row, None] * uv
    made = np.eye(3)
    for width in _WIDTHS:
        for _ in range(_STEPS):
            rest = (wanted - (transfer(made, uv) - uv)) * half
            weight = half**2 / (1 + _squared(rest, known) / width**2) ** 2
            below = 1 + uv @ made[2, :2]
            rows, right = design / below[:, None, None], wanted / below[:, None]
            weighted = known * weight[:, None, None]
            normal = np.einsum("nik,nij,njl->kl", rows, weighted, rows, optimize=True) + prior
            a = np.linalg.solve(normal, np.einsum("nik,nij,nj->k", rows, weighted, right, optimize=True))
            made = np.array([[1 + a[1], a[2], a[0]], [a[4], 1 + a[5], a[3]], [a[6], a[7], 1.0]])
    correction = from_uv @ made @ to_uv
    rest = matches.shifts - (transfer(correction, matches.points) - matches.points)
    return Fit(correction / correction[2, 2], _squared(rest, known) < INLIER_PX**2)


def transfer(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points [N, 2] through a homography [3, 3]."""
    mapped = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def _prior() -> np.ndarray:
    """Return the precision [8, 8] of b_x, a_xx, a_xy, b_y, a_yx, a_yy, g_x, g_y; shift, scale and roll are free."""
    precision = 1e-6 * np.eye(8)
    for first, second, sign in ((1, 5, -1.0), (2, 4, 1.0)):
        along = np.zeros(8)
        along[first], along[second] = 1.0, sign
        precision += np.outer(along, along) / (2 * _STRETCH) ** 2
    precision[6, 6] = precision[7, 7] = 1 / _PERSPECTIVE**2
    return precision


def relative_information(information: np.ndarray) -> np.ndarray:
    """Scale curvatures to weights: 1 in a direction of usual accuracy, less for a blunt peak."""
    values, vectors = np.linalg.eigh(information)
    values = np.clip(values / np.median(values[:, 1]), 1e-4, 1.0)
    return np.einsum("nij,nj,nkj->nik", vectors, values, vectors)


def _squared(rest: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.einsum("ni,nij,nj->n", rest, known, rest)
