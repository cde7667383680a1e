"""Bicycles: two wheels, frame, fork, handlebar and saddle; parked or under a rider."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.scenes.canvas import Canvas
from spectradino_core.scenes.motion import follow
from spectradino_core.scenes.scene import MASK_CLASSES
from spectradino_core.scenes.shapes import CAPSULE_VERTICES, capsules, ring

__all__ = ["Bicycle"]

_BICYCLE = MASK_CLASSES.index("bicycle")
_WHEEL, _AXLES = 0.345, (-0.53, 0.55)
# One tube per row: both ends as (forward, up, right), then the radius; painted frame tubes first, dark parts after.
_TUBES = np.array(
    [
        (-0.53, 0.345, 0, -0.05, 0.28, 0, 0.017),
        (-0.53, 0.345, 0, -0.18, 0.80, 0, 0.014),
        (-0.05, 0.28, 0, -0.20, 0.90, 0, 0.020),
        (-0.05, 0.28, 0, 0.33, 0.72, 0, 0.024),
        (-0.18, 0.80, 0, 0.33, 0.80, 0, 0.020),
        (0.32, 0.88, 0, 0.55, 0.345, 0, 0.020),
        (0.32, 0.85, 0, 0.36, 1.02, 0, 0.018),
        (0.40, 1.03, -0.27, 0.40, 1.03, 0.27, 0.018),
        (-0.32, 0.93, 0, -0.10, 0.93, 0, 0.042),
        (-0.05, 0.28, 0.08, -0.05, 0.13, 0.10, 0.018),
        (-0.05, 0.28, -0.08, -0.05, 0.43, -0.10, 0.018),
    ]
)
_PAINTED = 6


@dataclass
class Bicycle:
    """A bicycle; attributes as in `Person`, with `paint_material` for the frame."""

    paint_material: int
    tyre_material: int
    dark_material: int
    x: float
    z: float
    heading: float
    speed: float
    instance: int = 0
    warm: float = 0.0

    label = 1

    def position(self, t: float) -> tuple[float, float, float]:
        return follow(self.x, self.z, self.heading, self.speed * t)

    def paint(self, canvas: Canvas, t: float) -> None:
        x, z, heading = self.position(t)
        distance = z - canvas.camera.eye[2]
        if distance < 1.5:
            return
        seen = heading - np.arctan2(x - canvas.camera.eye[0], distance)
        side, front = np.sin(seen), np.cos(seen)
        pixel = canvas.camera.metres_per_pixel(z)
        thick = max(0.042, 1.1 * pixel)
        outlines = []
        for axle in _AXLES:
            outer = (max(abs(side) * _WHEEL, 0.5 * thick), _WHEEL)
            inner = (max(outer[0] - thick * max(abs(side), 0.4), 0.0), _WHEEL - thick)
            outlines.append(ring(outer, inner) + np.array([side * axle, _WHEEL]))
        rows = np.empty((len(_TUBES), 6))
        rows[:, 0], rows[:, 1] = side * _TUBES[:, 0] + front * _TUBES[:, 2], _TUBES[:, 1]
        rows[:, 3], rows[:, 4] = side * _TUBES[:, 3] + front * _TUBES[:, 5], _TUBES[:, 4]
        rows[:, 2] = rows[:, 5] = np.maximum(_TUBES[:, 6], 0.45 * pixel)
        tubes = capsules(rows)
        flat = np.concatenate([*outlines, tubes.reshape(-1, 2)])
        world = np.column_stack([x + flat[:, 0], flat[:, 1], np.full(len(flat), z)])

        def surface(material: int, warmer: float) -> int:
            return canvas.surface(
                material,
                ambient=0.8,
                sun=0.6,
                warmer=warmer,
                plane=(0.0, 0.0, 1.0 / distance),
                mask_class=_BICYCLE,
                instance=self.instance,
            )

        tyre, frame, dark = (
            surface(self.tyre_material, self.warm),
            surface(self.paint_material, 0.0),
            surface(self.dark_material, 0.3 * self.warm),
        )
        wheel = len(outlines[0])
        first = 2 * wheel
        painted = first + _PAINTED * CAPSULE_VERTICES
        parts = [(0, wheel, wheel, tyre), (wheel, first, wheel, tyre)]
        parts += [(first, painted, CAPSULE_VERTICES, frame), (painted, len(flat), CAPSULE_VERTICES, dark)]
        canvas.stamp(canvas.camera.project(world), parts, grain_m=0.0, z=z, instance=self.instance)

    def footprint(self, t: float) -> np.ndarray:
        """Return the world points [n, 3] of its ground contact area."""
        x, z, heading = self.position(t)
        along = 0.75 * np.array([np.sin(heading), 0.0, np.cos(heading)])
        across = 0.06 * np.array([np.cos(heading), 0.0, -np.sin(heading)])
        return np.array([x, 0.0, z]) + np.array([along + across, along - across, -along - across, across - along])

    def shadow_points(self, t: float) -> np.ndarray:
        x, z, heading = self.position(t)
        dx, dz = 0.8 * np.sin(heading), 0.8 * np.cos(heading)
        return np.array([[x - dx, 0, z - dz], [x + dx, 0, z + dz], [x, 0.9, z], [x + 0.4 * dx, 1.0, z + 0.4 * dz]])
