"""Houses along the street: facade, gable end facing the camera, windows, doors, shop fronts and roof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spectradino_core.scenes.canvas import Canvas
from spectradino_core.scenes.materials import Material, MaterialTable, channels
from spectradino_core.scenes.scene import MASK_CLASSES

__all__ = ["House", "draw_wall_material"]

_BUILDING = MASK_CLASSES.index("building")


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
        Material(
            channels(colour, colour.mean() * 1.15 + 0.05, colour.mean() * 1.1 + 0.08),
            sun_heat=9.0,
            night=float(0.5 + 2.5 * u[5]),
            grain=0.18,
            thermal_grain=0.7,
        )
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
    instance: int = 0

    @property
    def far(self) -> float:
        return self.z2

    def paint(self, canvas: Canvas, t: float) -> None:
        del t
        eye = canvas.camera.eye
        near = max(self.z1, eye[2] + 0.6)
        if self.z2 <= near + 0.5:
            return
        sun = canvas.sun_direction
        points: list[np.ndarray] = []
        parts: list[tuple[int, int, int, int]] = []
        count = 0

        def add(polygons: np.ndarray, number: int) -> None:
            nonlocal count
            points.append(polygons.reshape(-1, 3))
            size = polygons.shape[0] * polygons.shape[1]
            parts.append((count, count + size, polygons.shape[1], number))
            count += size

        def facing(
            material: int, plane: tuple[float, float, float], light: float, ambient: float, warm: float = 0.0
        ) -> int:
            return canvas.surface(material, ambient=ambient, sun=light, warmer=warm, plane=plane, mask_class=_BUILDING)

        rng = np.random.default_rng(self.seed)
        m = self.materials
        end_plane = (0.0, 0.0, 1.0 / max(self.z1 - eye[2], 0.3))
        side_plane = (1.0 / (self.x - eye[0]), 0.0, 0.0)
        end_light, side_light = max(-sun[2], 0.0), max(-self.side * sun[0], 0.0)
        back = self.x + self.side * self.depth
        h = self.height
        draws = rng.random(400)
        if self.z1 > eye[2] + 0.6:
            if self.gable > 0:
                roof = np.array(
                    [
                        [
                            (self.x - 0.3 * self.side, h, self.z1),
                            (0.5 * (self.x + back), h + self.gable, self.z1),
                            (back, h, self.z1),
                        ]
                    ]
                )
                add(roof, facing(self.wall, end_plane, 0.95 * end_light, 0.7))
            wall = np.array([[(self.x, 0, self.z1), (self.x, h, self.z1), (back, h, self.z1), (back, 0, self.z1)]])
            add(wall, facing(self.wall, end_plane, end_light, 0.72))
            quads = self._grid(self.depth, draws[:40] < 0.7, first_floor=0)
            if len(quads):
                quads = np.stack(
                    [self.x + self.side * quads[..., 0], quads[..., 1], np.full(quads.shape[:2], self.z1)], -1
                )
                lit = draws[40 : 40 + len(quads)] < self.lit
                for group, name in ((quads[~lit], "window"), (quads[lit], "lit_window")):
                    if len(group):
                        add(group, facing(m[name], end_plane, end_light, 0.72))
        facade = np.array([[(self.x, 0, near), (self.x, h, near), (self.x, h, self.z2), (self.x, 0, self.z2)]])
        if self.gable > 0:
            top = 0.5 * (self.x + back)
            roof = np.array(
                [[(self.x, h, near), (top, h + self.gable, near), (top, h + self.gable, self.z2), (self.x, h, self.z2)]]
            )
            add(roof, facing(m["roof"], side_plane, max(0.7 * sun[1] - 0.5 * self.side * sun[0], 0.0), 0.9))
        add(facade, facing(self.wall, side_plane, side_light, 0.72))
        ledge = np.array(
            [[(self.x, h - 0.35, near), (self.x, h, near), (self.x, h, self.z2), (self.x, h - 0.35, self.z2)]]
        )
        add(ledge, facing(self.wall, side_plane, 0.8 * side_light, 0.55, -0.3))
        quads = self._grid(self.z2 - self.z1, draws[100:200] < 0.93, first_floor=1 if self.shop else 0)
        z0 = self.z1
        if self.shop:
            fronts = np.arange(0.8, self.z2 - self.z1 - 2.5, 4.0)
            if len(fronts):
                shop = np.stack([_rectangle(start, start + 3.0, 0.4, 2.9) for start in fronts])
                self._panes(
                    add, facing, shop, z0, near, side_plane, side_light, draws[300 : 300 + len(shop)] < 0.3 + self.lit
                )
        else:
            door = _rectangle(0.45 * (self.z2 - self.z1), 0.45 * (self.z2 - self.z1) + 1.1, 0.0, 2.2)[None]
            door = np.stack([np.full(door.shape[:2], self.x), door[..., 1], np.maximum(z0 + door[..., 0], near)], -1)
            add(door, facing(m["door"], side_plane, side_light, 0.7))
        if len(quads):
            self._panes(add, facing, quads, z0, near, side_plane, side_light, draws[200 : 200 + len(quads)] < self.lit)
        world = np.concatenate(points)
        canvas.stamp(
            canvas.camera.project(world),
            parts,
            grain_m=0.05,
            z=max(0.5 * (near + self.z2), near + 2),
            piece=self.seed % 1024,
        )

    def _panes(
        self,
        add: Callable[[np.ndarray, int], None],
        facing: Callable[..., int],
        quads: np.ndarray,
        z0: float,
        near: float,
        plane: tuple[float, float, float],
        light: float,
        lit: np.ndarray,
    ) -> None:
        keep = z0 + quads[:, :, 0].max(axis=1) > near + 0.3
        quads, lit = quads[keep], lit[: len(keep)][keep]
        world = np.stack(
            [np.full(quads.shape[:2], self.x), quads[..., 1], np.maximum(z0 + quads[..., 0], near)], axis=-1
        )
        for group, name in ((world[~lit], "window"), (world[lit], "lit_window")):
            if len(group):
                add(group, facing(self.materials[name], plane, light, 0.72))

    def _grid(self, length: float, there: np.ndarray, first_floor: int) -> np.ndarray:
        """Return the windows of a wall, [n, 4, 2] of (along, up); `there` selects and limits them."""
        storey = self.height / self.floors
        columns = max(1, int(length / 3.0))
        pitch = length / columns
        boxes = [
            _rectangle((c + 0.5) * pitch - 0.55, (c + 0.5) * pitch + 0.55, (f + 0.32) * storey, (f + 0.80) * storey)
            for f in range(first_floor, self.floors)
            for c in range(columns)
        ][: len(there)]
        if not boxes:
            return np.zeros((0, 4, 2))
        return np.stack(boxes)[there[: len(boxes)]]

    def shadow_points(self, t: float) -> np.ndarray:
        del t
        back = self.x + self.side * self.depth
        return np.array([(x, y, z) for x in (self.x, back) for y in (0.0, self.height) for z in (self.z1, self.z2)])


def _rectangle(a: float, b: float, low: float, high: float) -> np.ndarray:
    return np.array([(a, low), (a, high), (b, high), (b, low)])
