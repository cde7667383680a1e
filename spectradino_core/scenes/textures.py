"""Noise tiles, computed once and cropped: cheap surface grain and sensor noise."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

TILE = 1024
"""Side of every tile in texels; the grain and smooth tiles wrap around."""


@cache
def grain_tile() -> np.ndarray:
    """Return uint8 [TILE, TILE, 2], 128 neutral: channel 0 fine (reflectance), channel 1 blotchy (temperature)."""
    rng = np.random.default_rng(20_240_001)
    planes = []
    for weights in (
        ((1, 0.8), (2.5, 1.2), (6, 1.0), (14, 0.6), (45, 0.6)),
        ((2, 0.8), (5, 0.8), (12, 0.8), (30, 0.8), (90, 0.8)),
    ):
        total = np.sum([weight * _octave(rng, sigma) for sigma, weight in weights], axis=0)
        planes.append(np.clip(128 + 42 * total / total.std(), 0, 255).astype(np.uint8))
    return np.ascontiguousarray(np.dstack(planes))


@cache
def smooth_tile() -> np.ndarray:
    """Return float32 [TILE, TILE], about -1..1: clouds, stretched along the rows, and slow drifts."""
    rng = np.random.default_rng(20_240_002)
    octaves = ((60, 1.0), (25, 0.6), (9, 0.35), (3, 0.15))
    total = np.sum([weight * _octave(rng, sigma, 0.45) for sigma, weight in octaves], axis=0)
    return np.clip(total / (2.0 * total.std()), -1.0, 1.0).astype(np.float32)


@cache
def noise_tile() -> np.ndarray:
    """Return white standard normal noise, float32 [TILE, TILE]."""
    return np.random.default_rng(20_240_003).standard_normal((TILE, TILE), dtype=np.float32)


def _octave(rng: np.random.Generator, sigma: float, squash: float = 1.0) -> np.ndarray:
    """Return wrapped noise of one scale with unit variance, computed at low resolution and enlarged."""
    step = max(1, int(sigma / 2))
    step = 1 << (step.bit_length() - 1)
    small = rng.standard_normal((TILE // step, TILE // step)).astype(np.float32)
    margin = int(4 * sigma / step) + 2
    small = cv2.copyMakeBorder(small, margin, margin, margin, margin, cv2.BORDER_WRAP)
    small = cv2.GaussianBlur(small, (0, 0), sigmaX=sigma / step, sigmaY=squash * sigma / step)
    large = cv2.resize(small, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
    plane = large[margin * step :, margin * step :][:TILE, :TILE]
    return plane / plane.std()
