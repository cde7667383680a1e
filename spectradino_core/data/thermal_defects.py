"""Simulated defects of 16-bit thermal frames: dead and stuck pixels, dead lines, borders and telemetry rows.

Real thermal cameras and drivers write values into their frames that are not measurements. These functions add such
values to a copy of clean counts, uint16 [h, w], for training (`Augmentation.thermal_defects`), tests and the benchmark
of their detection.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_CONSTANTS = (0, 0, 0, 65535, 65535, 16383)
"""Values that cameras write for invalid pixels; repetition reflects their frequency."""
_SIDES = ("top", "bottom", "left", "right")


def add_dead_pixels(
    frame: np.ndarray, fraction: float, rng: np.random.Generator, values: Sequence[int] = (0,)
) -> np.ndarray:
    """Replace an expected fraction (0..1) of single pixels by constants, which have equal probabilities."""
    out = frame.copy()
    dead = rng.random(frame.shape) < fraction
    out[dead] = rng.choice(np.array(values, np.uint16), int(np.count_nonzero(dead)))
    return out


def add_clusters(
    frame: np.ndarray, fraction: float, rng: np.random.Generator, values: Sequence[int] = (0,), side: int = 4
) -> np.ndarray:
    """Replace a fraction of the pixels by constants in clusters, each round and about `side` pixels wide."""
    out = frame.copy()
    height, width = frame.shape
    for _ in range(max(1, round(fraction * frame.size / (0.785 * side * side)))):
        centre = int(rng.integers(width)), int(rng.integers(height))
        radii = tuple(max(0, round((side * rng.uniform(0.7, 1.3) - 1) / 2)) for _ in range(2))
        cv2.ellipse(out, centre, radii, 0, 0, 360, int(rng.choice(values)), cv2.FILLED)
    return out


def add_dead_lines(
    frame: np.ndarray, rng: np.random.Generator, rows: int = 0, columns: int = 0, value: int = 0
) -> np.ndarray:
    """Replace random rows and columns by a constant."""
    out = frame.copy()
    out[rng.choice(frame.shape[0], rows, replace=False)] = value
    out[:, rng.choice(frame.shape[1], columns, replace=False)] = value
    return out


def add_border(
    frame: np.ndarray, fraction: float, value: int = 0, sides: Sequence[str] = _SIDES, skew: float = 0.0
) -> np.ndarray:
    """Add a constant border, as rectification and registration leave it.

    Args:
        frame: counts.
        fraction: fraction of the frame covered by the border, 0..1, exact for `skew` 0.
        value: the constant.
        sides: sides with a border, of "top", "bottom", "left" and "right", all equally wide.
        skew: 0: straight; up to 1: wider towards one end of each side, like the border of a rotated image.
    """
    height, width = frame.shape
    across, down = len({"left", "right"} & set(sides)), len({"top", "bottom"} & set(sides))
    # (w - across b)(h - down b) = (1 - fraction) w h, solved for the border width b.
    a, b = across * down, across * height + down * width
    area = fraction * width * height
    wide = area / b if not a else (b - np.sqrt(b * b - 4 * a * area)) / (2 * a)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    along_x, along_y = 1 + skew * (2 * columns / width - 1), 1 + skew * (2 * rows / height - 1)
    covered = np.zeros(frame.shape, bool)
    for side in sides:
        distance = {"top": rows, "bottom": height - 1 - rows, "left": columns, "right": width - 1 - columns}[side]
        covered |= distance + 0.5 < wide * (along_x if side in ("top", "bottom") else along_y)
    out = frame.copy()
    out[covered] = value
    return out


def add_telemetry_rows(frame: np.ndarray, rows: int, rng: np.random.Generator, bottom: bool = True) -> np.ndarray:
    """Replace the last (or first) rows by telemetry: counters, flags, ASCII text and zeros."""
    data = np.zeros((rows, frame.shape[1]), np.uint16)
    for row in data:
        used = int(rng.integers(1, max(9, len(row) // 2)))
        row[:used] = rng.integers(0, 1 << rng.integers(1, 17, used))[: len(row)]
    out = frame.copy()
    out[-rows if bottom else 0 : None if bottom else rows] = data
    return out


def random_defects(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add one to three kinds of defects to a clean frame.

    Strengths are drawn log-uniformly, from a few pixels to a tenth of the frame.
    """
    kinds = rng.choice(5, int(rng.integers(1, 4)), replace=False)
    for kind in kinds:
        value = int(rng.choice(_CONSTANTS))
        fraction = float(np.exp(rng.uniform(np.log(0.0005), np.log(0.1))))
        if kind == 0:
            values = (value,) if rng.random() < 0.7 else (0, 65535)
            frame = add_dead_pixels(frame, fraction, rng, values)
        elif kind == 1:
            frame = add_clusters(frame, min(fraction, 0.02), rng, (value,), int(rng.integers(2, 7)))
        elif kind == 2:
            rows, columns = (int(n) for n in rng.multinomial(int(rng.integers(1, 5)), (0.5, 0.5)))
            frame = add_dead_lines(frame, rng, min(rows, frame.shape[0]), min(columns, frame.shape[1]), value)
        elif kind == 3:
            sides = rng.choice(_SIDES, int(rng.integers(1, 5)), replace=False)
            frame = add_border(frame, fraction, value, [str(s) for s in sides], float(rng.uniform(-1, 1)))
        else:
            rows = min(int(rng.integers(1, 5)), max(1, frame.shape[0] // 8))
            frame = add_telemetry_rows(frame, rows, rng, bool(rng.random() < 0.5))
    return frame
