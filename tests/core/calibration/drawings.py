"""Synthetic images for calibration tests: one drawing seen by two cameras of different bands."""

from __future__ import annotations

import cv2
import numpy as np


def drawing(seed: int = 0, size: tuple[int, int] = (640, 480)) -> tuple[np.ndarray, np.ndarray]:
    """Draw outlined shapes with random greys per band: RGB uint8 [h, w, 3] and IR uint16 [h, w]."""
    rng = np.random.default_rng(seed)
    width, height = size
    rgb = np.full((height, width, 3), 120, np.uint8)
    infrared = np.full((height, width), 29500, np.uint16)
    for _ in range(90):
        centre = rng.uniform((0, 0), size)
        corners = centre + rng.uniform(15, 70) * rng.uniform(-1, 1, (int(rng.integers(3, 6)), 2))
        hull = cv2.convexHull(corners.astype(np.int32))
        cv2.fillConvexPoly(rgb, hull, rng.integers(20, 235, 3).tolist())
        cv2.fillConvexPoly(infrared, hull, int(rng.integers(29000, 30500)))
    rgb = np.clip(rgb + rng.normal(0, 4, rgb.shape), 0, 255).astype(np.uint8)
    return rgb, np.clip(infrared + rng.normal(0, 25, infrared.shape), 0, 65535).astype(np.uint16)


def seen_through(infrared: np.ndarray, ir_to_rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the view of an IR camera of another size, whose pixels `ir_to_rgb` maps to the drawing's."""
    return cv2.warpPerspective(
        infrared, ir_to_rgb, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )


def distance(found: np.ndarray, true: np.ndarray, size: tuple[int, int]) -> float:
    """Return the median distance between two maps over the IR image."""
    columns, rows = np.meshgrid(np.linspace(0, size[0] - 1, 16), np.linspace(0, size[1] - 1, 12))
    points = np.stack([columns.ravel(), rows.ravel(), np.ones(columns.size)])
    a, b = found @ points, true @ points
    return float(np.median(np.linalg.norm(a[:2] / a[2] - b[:2] / b[2], axis=0)))
