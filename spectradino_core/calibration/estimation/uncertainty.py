"""Jackknife uncertainty of estimates: their spread when parts of the evidence are left out.

With few parts the spread itself is uncertain, so bounds widen, about as Student's quantiles do.

Letters: G parts, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["GROUPS", "jackknife_bound", "mean_bound"]

GROUPS = 8
"""Maximum number of parts that the evidence is divided into."""


def jackknife_bound(estimates: Sequence[np.ndarray]) -> float:
    """Return the 95 % bound of the error at the worst of several points; infinite for fewer than two parts.

    Args:
        estimates: per left-out part, the positions of the points, float64 [P, 2].
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
    return 2 + 4 / (parts - 1)
