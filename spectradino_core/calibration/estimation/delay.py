"""Residual error of a time offset: the part of patch displacements proportional to velocity.

A patch is displaced by the registration's local error, plus velocity times the error of the offset. The former is a
smooth shift, fitted jointly and anchored by static patches; the latter is separable because objects move differently.
Weights are robust (Geman-McClure of shrinking width) and follow the localisation accuracy of each patch.

Content that only one band shows beside an edge biases the edge's position. With many patches a seventh of a pixel
remains: one or two milliseconds for fast objects, ten for distant walkers. The standard deviation includes it.

Letters: N patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.calibration.estimation.displacements import Displacements
from spectradino_core.calibration.estimation.fitting import relative_information

__all__ = ["Delay", "fit_delay"]

_MIN_SPEED = 6.0  # pixels/s in an image 320 wide; below it patches are static, or their velocity is noise
_MIN_PATCHES = 60
_STILL_WEIGHT = 0.1  # the same static patches recur at every moment
_PRIOR_PX = 2.0
_DRAWN_PX = 0.15
_WIDTHS = (3.0, 2.5, 2.1, 1.8, 1.5, 1.3, 1.1, 1.0, 1.0, 1.0)
_STRETCH_S, _DRAWS = 2.0, 40


@dataclass(frozen=True)
class Delay:
    """Correction of a time offset from moving patches.

    Attributes:
        ms: to be added to the offset that was used to find the patches.
        spread_ms: its standard deviation, over bootstrap samples of stretches and for biased edges.
        patches: number of moving patches.
    """

    ms: float
    spread_ms: float
    patches: int


def fit_delay(found: Displacements) -> Delay | None:
    """Fit the delay; None if too few patches move."""
    speed = np.linalg.norm(found.velocities, axis=1)
    found = found[(speed == 0) | (speed > _MIN_SPEED)]
    moving = np.linalg.norm(found.velocities, axis=1) > 0
    stretch = (found.seconds // _STRETCH_S).astype(int)
    stretches = np.unique(stretch[moving])
    if moving.sum() < _MIN_PATCHES or len(stretches) < 4:
        return None
    information = relative_information(found.information) * np.where(moving, 1.0, _STILL_WEIGHT)[:, None, None]
    # With an offset that is too small, RGB frames are taken too late, when objects have moved on.
    design = np.zeros((len(found), 2, 7))
    design[:, :, 0] = found.velocities
    for axis in (0, 1):
        design[:, axis, 1 + 3 * axis] = 1.0
        design[:, axis, 2 + 3 * axis : 4 + 3 * axis] = found.points
    whole = _solved(design, found.shifts, information, np.ones(len(found)))
    rng = np.random.default_rng(0)
    place = np.searchsorted(stretches, stretch).clip(0, len(stretches) - 1)
    drawn = []
    for _ in range(_DRAWS):
        counts = np.bincount(rng.integers(0, len(stretches), len(stretches)), minlength=len(stretches))
        drawn.append(_solved(design, found.shifts, information, np.where(moving, counts[place], 1.0)))
    usual = float(np.sqrt(np.mean(np.sum(found.velocities[moving] ** 2, axis=1))))
    spread = float(np.hypot(np.std(drawn), _DRAWN_PX / usual))
    return Delay(1e3 * whole, 1e3 * spread, int(moving.sum()))


def _solved(design: np.ndarray, shifts: np.ndarray, information: np.ndarray, counts: np.ndarray) -> float:
    prior = np.diag([1.0] + [1 / _PRIOR_PX**2] * 6)
    kept = counts > 0
    design, shifts, known = design[kept], shifts[kept], information[kept] * counts[kept, None, None]
    relative = information[kept]
    solution = np.zeros(7)
    for width in _WIDTHS:
        rest = shifts - design @ solution
        weight = 1 / (1 + np.einsum("ni,nij,nj->n", rest, relative, rest) / width**2) ** 2
        weighted = known * weight[:, None, None]
        left = np.einsum("nij,njl->nil", weighted, design)
        normal = np.einsum("nik,nil->kl", design, left) + prior
        solution = np.linalg.solve(normal, np.einsum("nil,ni->l", left, shifts))
    return float(solution[0])
