"""Outlines as arrays: rectangles, capsules (limbs, tubes, heads), rings (wheels), ragged blobs (tree crowns)."""

from __future__ import annotations

from functools import cache

import numpy as np

_CAP = np.linspace(0.5 * np.pi, 1.5 * np.pi, 6)
_TURN = np.concatenate([_CAP, _CAP + np.pi])


def rectangle(left: float, right: float, low: float, high: float) -> np.ndarray:
    """Return the outline [4, 2] of an upright rectangle."""
    return np.array([(left, low), (left, high), (right, high), (right, low)])


def capsules(ends: np.ndarray) -> np.ndarray:
    """Return the outlines of limbs with round ends.

    Args:
        ends: [K, 6], rows ax, ay, ra, bx, by, rb: the two centres and radii, any unit.

    Returns:
        [K, 12, 2] outlines in the same unit.
    """
    a, ra, b, rb = ends[:, None, 0:2], ends[:, 2:3], ends[:, None, 3:5], ends[:, 5:6]
    along = np.arctan2(ends[:, 4] - ends[:, 1], ends[:, 3] - ends[:, 0])[:, None]
    angle = along + _TURN
    half = len(_CAP)
    radius = np.concatenate([np.repeat(ra, half, 1), np.repeat(rb, half, 1)], axis=1)
    centre = np.concatenate([np.repeat(a, half, 1), np.repeat(b, half, 1)], axis=1)
    return centre + radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


@cache
def circle(vertices: int) -> np.ndarray:
    """Return the unit circle [vertices, 2]; cached, so do not modify it."""
    angle = np.linspace(0.0, 2.0 * np.pi, vertices, endpoint=False)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    points.flags.writeable = False
    return points


def ring(outer: tuple[float, float], inner: tuple[float, float]) -> np.ndarray:
    """Return an elliptic annulus as one outline, outer edge then reversed inner edge: [36, 2]."""
    angle = np.linspace(0.0, 2.0 * np.pi, 18)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return np.concatenate([unit * outer, unit[::-1] * inner])


def blobs(rng: np.random.Generator, centres: np.ndarray, radii: np.ndarray, vertices: int, ragged: float) -> np.ndarray:
    """Return leafy outlines [K, vertices, 2] around `centres` [K, 2] with mean `radii` [K] (or [K, 2])."""
    unit = circle(vertices)
    wobble = 1.0 + ragged * rng.standard_normal((len(centres), vertices))
    radii = radii[:, None, None] if radii.ndim == 1 else radii[:, None, :]
    return centres[:, None] + radii * np.clip(wobble, 0.5, 1.5)[..., None] * unit
