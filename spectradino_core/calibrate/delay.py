"""The error of a time offset from displaced patches: what of their displacement goes with their velocity.

A patch lies off by the registration's error at its place, and by velocity times the error of the offset. The former is
a slowly varying shift (fitted along, and held by what stands still), the latter is found because not all things move
alike. Weights are robust (Geman-McClure, of shrinking width) and follow how sharply each patch is known.

An edge is drawn to one side by what only one band shows beside it: a seventh of a pixel is lost in that even with many
patches, which of fast things is a millisecond or two, of walkers far away ten. It counts into the standard deviation.

Letters: N patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.calibrate.displacements import Displacements
from spectradino_core.calibrate.fitting import relative_information

__all__ = ["Delay", "fit_delay"]

_LEAST_SPEED = 6.0  # pixels/s of a picture 320 wide; slower patches are still, or their velocity is noise
_LEAST_PATCHES = 60
_STILL_WEIGHT = 0.1  # the same still patches come again at every moment
_PRIOR_PX = 2.0
_DRAWN_PX = 0.15
_WIDTHS = (3.0, 2.5, 2.1, 1.8, 1.5, 1.3, 1.1, 1.0, 1.0, 1.0)
_STRETCH_S, _DRAWS = 2.0, 40


@dataclass(frozen=True)
class Delay:
    """What moving patches say.

    Attributes:
        ms: to be added to the offset with which they were found.
        spread_ms: its standard deviation: over draws of stretches, and for edges that are drawn aside.
        patches: how many moving patches.
    """

    ms: float
    spread_ms: float
    patches: int


def fit_delay(found: Displacements) -> Delay | None:
    """Fits the delay; None where too few patches move."""
    speed = np.linalg.norm(found.velocities, axis=1)
    found = found[(speed == 0) | (speed > _LEAST_SPEED)]
    moving = np.linalg.norm(found.velocities, axis=1) > 0
    stretch = (found.seconds // _STRETCH_S).astype(int)
    stretches = np.unique(stretch[moving])
    if moving.sum() < _LEAST_PATCHES or len(stretches) < 4:
        return None
    information = relative_information(found.information) * np.where(moving, 1.0, _STILL_WEIGHT)[:, None, None]
    # An offset that is too small looks for things too late in the colour camera's time, where they have moved on.
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
    answer = np.zeros(7)
    for width in _WIDTHS:
        rest = shifts - design @ answer
        weight = 1 / (1 + np.einsum("ni,nij,nj->n", rest, relative, rest) / width**2) ** 2
        weighted = known * weight[:, None, None]
        left = np.einsum("nij,njl->nil", weighted, design)
        normal = np.einsum("nik,nil->kl", design, left) + prior
        answer = np.linalg.solve(normal, np.einsum("nil,ni->l", left, shifts))
    return float(answer[0])
