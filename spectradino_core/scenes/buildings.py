"""Houses along the street: facade, gable end facing the camera, windows, doors, shop fronts and roof."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.scenes.canvas import Canvas, Polygons
from spectradino_core.scenes.materials import MaterialTable
from spectradino_core.scenes.scene import MASK_CLASSES
from spectradino_core.scenes.shapes import rectangle

_BUILDING = MASK_CLASSES.index("building")
_Wall = tuple[tuple[float, float, float], float]
"""Plane, as in `Canvas.surface`, and fraction of the sun's light."""


def draw_wall_material(rng: np.random.Generator, materials: MaterialTable) -> int:
    """Draw brick, plaster, stone or concrete in a random colour."""
    u = rng.random(6)
    base = np.array(
        [
            (0.28, 0.13, 0.09),
            (0.58, 0.53, 0.43),
            (0.42, 0.40, 0.37),
            (0.30, 0.30, 0.31),
            (0.55, 0.36, 0.22),
            (0.7, 0.69, 0.66),
        ]
    )[int(u[0] * 6)]
    colour = np.clip(base * (0.7 + 0.5 * u[1]) * (0.92 + 0.16 * u[2:5]), 0.03, 0.85)
    return materials.add(
        colour,
        colour.mean() * 1.15 + 0.05,
        colour.mean() * 1.1 + 0.08,
        sun_heat=9.0,
        night=float(0.5 + 2.5 * u[5]),
        grain=0.18,
        thermal_grain=0.7,
    )


@dataclass
class House:
    """A house.

    Attributes:
        side: -1 left of the street, 1 right of it.
        x, z1, z2: position of the facade and of its near and far end, metres.
        depth, height: extent away from the street and height of the eaves, metres.
        lit: fraction of windows that are lit.
        gable: height of the roof above the eaves; 0: flat.
    """

    side: float
    x: float
    z1: float
    z2: float
    depth: float
    height: float
    wall: int
    materials: MaterialTable
    floors: int
    gable: float
    lit: float
    shop: bool
    seed: int

    @property
    def far(self) -> float:
        return self.z2

    def paint(self, canvas: Canvas, t: float) -> None:
        eye, sun = canvas.camera.eye, canvas.sun_direction
        near = max(self.z1, eye[2] + 0.6)
        if self.z2 <= near + 0.5:
            return
        m, h = self.materials, self.height
        back = self.x + self.side * self.depth
        draws = np.random.default_rng(self.seed).random(400)
        polygons: list[Polygons] = []
        # Plane and sunlight of the two walls that the camera may see.
        end = (0.0, 0.0, 1.0 / max(self.z1 - eye[2], 0.3)), max(-sun[2], 0.0)
        facade = (1.0 / (self.x - eye[0]), 0.0, 0.0), max(-self.side * sun[0], 0.0)

        def add(
            outlines: np.ndarray,
            material: int,
            wall: _Wall,
            light: float = 1.0,
            ambient: float = 0.72,
            warm: float = 0.0,
        ) -> None:
            plane, sunlight = wall
            number = canvas.surface(
                material, ambient=ambient, sun=light * sunlight, warmer=warm, plane=plane, mask_class=_BUILDING
            )
            polygons.append((outlines, number))

        def add_panes(outlines: np.ndarray, lit: np.ndarray, wall: _Wall) -> None:
            for group, name in ((outlines[~lit], "window"), (outlines[lit], "lit_window")):
                if len(group):
                    add(group, m[name], wall)

        def on_end(quads: np.ndarray) -> np.ndarray:
            """Convert points (away from the street, up) on the near end to world points."""
            return np.stack(
                [self.x + self.side * quads[..., 0], quads[..., 1], np.full(quads.shape[:-1], self.z1)], axis=-1
            )

        def on_facade(quads: np.ndarray) -> np.ndarray:
            """Convert points (z, up) on the facade to world points in front of the camera."""
            return np.stack(
                [np.full(quads.shape[:-1], self.x), quads[..., 1], np.maximum(quads[..., 0], near)], axis=-1
            )

        def add_row(quads: np.ndarray, lit: np.ndarray) -> None:
            keep = quads[:, :, 0].max(axis=1) > near + 0.3
            add_panes(on_facade(quads[keep]), lit[keep], facade)

        middle = 0.5 * (self.x + back)
        if self.z1 > eye[2] + 0.6:
            if self.gable > 0:
                top = [(self.x - 0.3 * self.side, h, self.z1), (middle, h + self.gable, self.z1), (back, h, self.z1)]
                add(np.array(top), self.wall, end, 0.95, 0.7)
            add(on_end(rectangle(0.0, self.depth, 0.0, h)), self.wall, end)
            quads = self._grid(self.depth, draws[:40] < 0.7, first_floor=0)
            add_panes(on_end(quads), draws[40 : 40 + len(quads)] < self.lit, end)
        if self.gable > 0:
            light = max(0.7 * sun[1] - 0.5 * self.side * sun[0], 0.0)
            eaves, ridge = (self.x, h), (middle, h + self.gable)
            roof = np.array([(*eaves, near), (*ridge, near), (*ridge, self.z2), (*eaves, self.z2)])
            add(roof, m["roof"], (facade[0], light), ambient=0.9)
        add(on_facade(rectangle(near, self.z2, 0.0, h)), self.wall, facade)
        add(on_facade(rectangle(near, self.z2, h - 0.35, h)), self.wall, facade, 0.8, 0.55, -0.3)
        length, start = self.z2 - self.z1, (self.z1, 0.0)
        if self.shop:
            fronts = [rectangle(along, along + 3.0, 0.4, 2.9) + start for along in np.arange(0.8, length - 2.5, 4.0)]
            if fronts:
                add_row(np.stack(fronts), draws[300 : 300 + len(fronts)] < 0.3 + self.lit)
        else:
            door = rectangle(0.45 * length, 0.45 * length + 1.1, 0.0, 2.2) + start
            add(on_facade(door), m["door"], facade, ambient=0.7)
        quads = self._grid(length, draws[100:200] < 0.93, first_floor=1 if self.shop else 0) + start
        add_row(quads, draws[200 : 200 + len(quads)] < self.lit)
        canvas.stamp(polygons, grain_m=0.05, z=max(0.5 * (near + self.z2), near + 2), piece=self.seed % 1024)

    def _grid(self, length: float, is_window: np.ndarray, first_floor: int) -> np.ndarray:
        """Return the windows of a wall, [n, 4, 2] of (along, up); `is_window` selects and limits them."""
        storey = self.height / self.floors
        columns = max(1, int(length / 3.0))
        pitch = length / columns
        boxes = [
            rectangle((c + 0.5) * pitch - 0.55, (c + 0.5) * pitch + 0.55, (f + 0.32) * storey, (f + 0.80) * storey)
            for f in range(first_floor, self.floors)
            for c in range(columns)
        ][: len(is_window)]
        return np.array(boxes).reshape(-1, 4, 2)[is_window[: len(boxes)]]

    def shadow_points(self) -> np.ndarray:
        back = self.x + self.side * self.depth
        return np.array([(x, y, z) for x in (self.x, back) for y in (0.0, self.height) for z in (self.z1, self.z2)])
