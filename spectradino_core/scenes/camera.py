"""Pinhole camera at the ego vehicle's windscreen, followed by a homography.

World axes: x right, y up, z forward, metres; the ego vehicle starts at z = 0.
Pixels: continuous; the centre of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_NEAREST_M = 0.4


@dataclass(frozen=True)
class Camera:
    """Camera with size and focal length in pixels, principal point (v0 is the horizon) and eye position in metres.

    `post` is the homography [3, 3] from pinhole pixels to pixels of this image; `pinhole_width` is the width of the
    pinhole image, which `post` may change."""

    width: int
    height: int
    focal: float
    u0: float
    v0: float
    eye: tuple[float, float, float]
    post: np.ndarray
    pinhole_width: int

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project world points [..., 3] to pixels [..., 2]; depths below 0.4 m are clamped to it."""
        offset = points - np.asarray(self.eye)
        scale = self.focal / np.maximum(offset[..., 2], _NEAREST_M)
        pixels = np.empty((*points.shape[:-1], 2))
        pixels[..., 0] = self.u0 + scale * offset[..., 0]
        pixels[..., 1] = self.v0 - scale * offset[..., 1]
        mapped = pixels @ self.post[:, :2].T + self.post[:, 2]
        return mapped[..., :2] / mapped[..., 2:]

    @cached_property
    def _back(self) -> np.ndarray:
        return np.linalg.inv(self.post)

    def unwarp(self, u: float, v: float) -> tuple[tuple[float, float], np.ndarray]:
        """Return the pinhole pixel that `post` maps to (u, v) and its Jacobian [2, 2], d pinhole / d image."""
        (a, b, c), (d, e, f), (g, h, i) = self._back.tolist()
        w = g * u + h * v + i
        x, y = (a * u + b * v + c) / w, (d * u + e * v + f) / w
        return (x, y), np.array([[a - g * x, b - h * x], [d - g * y, e - h * y]]) / w

    def sees(self, x: float, z: float, reach: float) -> bool:
        """Return whether anything within `reach` metres to either side of (x, z) may be visible (conservative)."""
        distance = max(z - self.eye[2], _NEAREST_M)
        middle = self.u0 + self.focal * (x - self.eye[0]) / distance
        half = self.focal * reach / distance + 0.15 * self.pinhole_width
        return middle + half > 0.0 and middle - half < self.pinhole_width

    def metres_per_pixel(self, z: float) -> float:
        """Return the size of a pixel at world depth z, metres."""
        return max(z - self.eye[2], _NEAREST_M) / self.focal

    @cached_property
    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the slopes of each pixel's ray, x/z (right) and y/z (down): float32, broadcastable to [H, W]."""
        u, v = np.arange(self.width) + 0.5, np.arange(self.height)[:, None] + 0.5
        (a, b, c), (d, e, f), (g, h, i) = self._back
        w = g * u + h * v + i
        u, v = (a * u + b * v + c) / w, (d * u + e * v + f) / w
        return ((u - self.u0) / self.focal).astype(np.float32), ((v - self.v0) / self.focal).astype(np.float32)


def seeded_homography(rng: np.random.Generator, width: int, height: int, limit_px: float) -> np.ndarray:
    """Draw a homography (shift, small scale, rotation, perspective) that moves no pixel by more than `limit_px`.

    Returns:
        float64 [3, 3]; the identity for a limit of zero.
    """
    if limit_px == 0.0:
        return np.eye(3)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    shift = rng.uniform(0.45, 0.7) * np.array([np.cos(angle), np.sin(angle)])
    corners = np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    moved = shift + rng.uniform(-0.19, 0.19, size=(4, 2))
    edge = np.linspace(0.0, 1.0, 9)
    grid = np.stack(np.meshgrid(edge * width, edge * height), axis=-1).reshape(-1, 2)
    scale = limit_px
    for _ in range(8):
        homography = _from_corners(corners, corners + scale * moved)
        mapped = grid @ homography[:, :2].T + homography[:, 2]
        furthest = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - grid, axis=1).max()
        if furthest <= limit_px:
            return homography
        scale *= 0.98 * limit_px / furthest
    raise AssertionError("the homography did not shrink to its limit")


def _from_corners(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    rows, right = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(right)), 1.0).reshape(3, 3)
