"""Trees, palms, conifers, hedges, and the wooded or built-up horizon."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.scenes.canvas import Canvas
from spectradino_core.scenes.materials import MaterialTable
from spectradino_core.scenes.scene import MASK_CLASSES
from spectradino_core.scenes.shapes import blobs, capsules, rectangle

_VEGETATION, _BUILDING = MASK_CLASSES.index("vegetation"), MASK_CLASSES.index("building")


def draw_leaf_material(rng: np.random.Generator, materials: MaterialTable) -> int:
    """Draw green, occasionally autumnal, leaves."""
    u = rng.random(5)
    colour = np.array([0.055, 0.10, 0.03]) * (0.6 + 0.9 * u[0]) * (0.85 + 0.3 * u[1:4])
    if u[4] < 0.15:
        colour = np.array([0.25, 0.15, 0.03]) * (0.6 + 0.8 * u[0])
    return materials.add(
        colour,
        0.40 + 0.22 * u[1],
        0.16 + 0.14 * u[2],
        sun_heat=3.0 + 2.0 * float(u[3]),
        night=0.3,
        grain=1.25,
        thermal_grain=1.8,
    )


@dataclass
class Tree:
    """A tree of total `height`, in metres; `kind` is "round", "conifer" or "palm"."""

    kind: str
    x: float
    z: float
    height: float
    spread: float
    leaf: int
    trunk: int
    seed: int

    @property
    def far(self) -> float:
        return self.z

    def paint(self, canvas: Canvas, t: float) -> None:
        distance = self.z - canvas.camera.eye[2]
        if distance < 1.5 or not canvas.camera.sees(self.x, self.z, 0.8 * self.spread):
            return
        rng = np.random.default_rng(self.seed)
        h = self.height
        bole = {"round": 0.45, "conifer": 0.12, "palm": 0.93}[self.kind] * h
        thick = max(0.022 * h + 0.05, 0.5 * canvas.camera.metres_per_pixel(self.z))
        lean = 0.09 * bole * rng.standard_normal()
        trunk = capsules(np.array([[0.0, -0.02, thick, lean, bole, 0.65 * thick]]))
        layers = {"round": self._round, "conifer": self._conifer, "palm": self._palm}[self.kind](rng, lean)
        plane = canvas.facing(self.z)

        def surface(material: int, tone: float, warmer: float = 0.0) -> int:
            return canvas.surface(
                material, ambient=0.8 * tone, sun=0.85 * tone, warmer=warmer, plane=plane, mask_class=_VEGETATION
            )

        polygons = [(trunk, surface(self.trunk, 0.8))]
        for outlines, tone, warmer in layers:
            number = surface(self.leaf, tone, warmer)
            polygons += [(outline, number) for outline in outlines]
        canvas.stamp(polygons, x=self.x, z=self.z, grain_m=0.035, piece=self.seed % 1024)

    def _round(self, rng: np.random.Generator, lean: float) -> list[tuple[np.ndarray, float, float]]:
        h, w = self.height, self.spread
        count = 7
        angle = rng.uniform(0, 2 * np.pi, count)
        radius = np.sqrt(rng.random(count)) * 0.5
        centres = np.column_stack([lean + w * radius * np.cos(angle), h * (0.68 + 0.32 * radius * np.sin(angle))])
        radii = np.column_stack([w * rng.uniform(0.28, 0.45, count), 0.32 * h * rng.uniform(0.45, 0.75, count)])
        under = blobs(rng, centres - np.array([0.0, 0.03 * h]), radii * 1.05, 34, 0.09)
        upper = blobs(rng, centres + np.array([0.0, 0.05 * h]), radii * 0.85, 30, 0.10)
        bright = blobs(rng, centres[:5] + np.array([0.06 * w, 0.10 * h]), radii[:5] * 0.5, 24, 0.14)
        return [(under, 0.55, -0.4), (upper, 0.85, 0.0), (bright, 1.2, 0.8)]

    def _conifer(self, rng: np.random.Generator, lean: float) -> list[tuple[np.ndarray, float, float]]:
        layers = []
        for k in range(7):
            low, high = self.height * (0.08 + 0.125 * k), self.height * (0.34 + 0.125 * k)
            half = 0.5 * self.spread * (1.0 - k / 7.5)
            ragged = np.linspace(-1, 1, 9)
            bottom = np.column_stack([half * ragged, low + 0.05 * self.height * rng.random(9)])
            outline = np.vstack(
                [bottom, [[0.08 * half, min(high, self.height)], [-0.08 * half, min(high, self.height)]]]
            )
            layers.append((outline[None], 0.6 + 0.35 * (k % 2) + 0.03 * k, 0.0))
        return layers

    def _palm(self, rng: np.random.Generator, lean: float) -> list[tuple[np.ndarray, float, float]]:
        top = np.array([lean, 0.93 * self.height])
        fronds = []
        for angle in np.linspace(-0.4, np.pi + 0.4, 13):
            length = 0.45 * self.spread * rng.uniform(0.8, 1.1)
            along = np.array([np.cos(angle), np.sin(angle)]) * length
            drop = np.array([0.0, -0.35 * length])
            mid, tip = top + 0.6 * along, top + along + drop
            wide = np.array([0.0, 0.08 * self.spread])
            fronds.append(np.array([top, mid + wide, tip, mid - wide]))
        return [(np.array(fronds[::2]), 0.65, 0.0), (np.array(fronds[1::2]), 1.05, 0.3)]

    def shadow_points(self) -> np.ndarray:
        h, w = self.height, 0.45 * self.spread
        low = 0.85 if self.kind == "palm" else 0.4
        return np.array(
            [(self.x + w * a, y * h, self.z + w * b) for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1)) for y in (low, 0.9)]
        )


@dataclass
class Hedge:
    """A hedge along the street."""

    x: float
    z1: float
    z2: float
    height: float
    leaf: int
    seed: int

    @property
    def far(self) -> float:
        return self.z2

    def paint(self, canvas: Canvas, t: float) -> None:
        eye = canvas.camera.eye
        near = max(self.z1, eye[2] + 0.7)
        if self.z2 < near + 0.5:
            return
        rng = np.random.default_rng(self.seed)
        z = np.geomspace(near - eye[2], self.z2 - eye[2], 30) + eye[2]
        plane = (1.0 / (self.x - eye[0]), 0.0, 0.0)
        polygons = []
        for level, tone in ((1.0, 0.8), (0.72, 0.6)):
            top = self.height * level * (1.0 + 0.07 * rng.standard_normal(30))
            upper = np.column_stack([np.full(30, self.x), top, z])
            outline = np.vstack([upper, [[self.x, 0, z[-1]], [self.x, 0, z[0]]]])
            number = canvas.surface(self.leaf, ambient=tone, sun=0.8 * tone, plane=plane, mask_class=_VEGETATION)
            polygons.append((outline, number))
        canvas.stamp(polygons, grain_m=0.03, z=near + 5.0, piece=self.seed % 1024)

    def shadow_points(self) -> np.ndarray:
        return np.array([(self.x, y, z) for y in (0.0, self.height) for z in (self.z1, self.z2)])


@dataclass
class Horizon:
    """Distant woods and hills, sometimes with a skyline of houses."""

    leaf: int
    wall: int
    hills: np.ndarray
    skyline: np.ndarray
    z: float = 260.0

    @property
    def far(self) -> float:
        return 1e6

    def paint(self, canvas: Canvas, t: float) -> None:
        plane = canvas.facing(self.z)
        x = np.linspace(-1.4, 1.4, len(self.hills)) * (self.z - canvas.camera.eye[2])
        outline = np.vstack([np.column_stack([x, self.hills]), [[x[-1], -1], [x[0], -1]]])
        wood = canvas.surface(self.leaf, ambient=0.75, sun=0.6, plane=plane, mask_class=_VEGETATION)
        houses = canvas.surface(self.wall, ambient=0.75, sun=0.35, plane=plane, mask_class=_BUILDING)
        polygons = [(outline, wood)]
        polygons += [(rectangle(left, left + width, -1, height), houses) for left, width, height in self.skyline]
        canvas.stamp(polygons, x=0.0, z=self.z, grain_m=0.9)

    def shadow_points(self) -> np.ndarray:
        return np.zeros((0, 3))
