"""Street furniture without a class: lamp posts, poles with wires, signs, traffic lights, bins and cabinets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from spectradino_core.scenes.canvas import Canvas
from spectradino_core.scenes.materials import MaterialTable
from spectradino_core.scenes.shapes import capsules, circle, rectangle

_Ends = tuple[float, float, float, float, float, float]


@dataclass
class Furniture:
    """A piece of furniture: `kind` is "lamp", "sign", "signal", "pole", "bin" or "cabinet"; `variant` 0..1 selects the
    look; `side` is -1 or 1, the side of the street; `lit` marks a lamp that is on."""

    kind: str
    x: float
    z: float
    side: float
    variant: float
    materials: MaterialTable
    lit: bool = False

    @property
    def far(self) -> float:
        return self.z

    @property
    def lamp_position(self) -> tuple[float, float, float]:
        """Return the position of a street lamp's light source."""
        return self.x - self.side * 1.6, 6.6 + 1.5 * self.variant, self.z

    def paint(self, canvas: Canvas, t: float) -> None:
        if self.z - canvas.camera.eye[2] < 1.0 or not canvas.camera.sees(self.x, self.z, 2.5):
            return
        limbs, plates = self._outlines(t)
        surface = partial(canvas.surface, ambient=0.8, sun=0.6, plane=canvas.facing(self.z))
        polygons = []
        if limbs:
            ends = np.array(limbs, dtype=float)
            ends[:, [2, 5]] = np.maximum(ends[:, [2, 5]], 0.45 * canvas.camera.metres_per_pixel(self.z))
            name = "trunk" if self.kind == "pole" else "pole"
            polygons.append((capsules(ends), surface(self.materials[name])))
        polygons += [(outline, surface(self.materials[name])) for outline, name in plates]
        canvas.stamp(polygons, x=self.x, z=self.z, grain_m=0.02, piece=int(97 * self.variant))

    def _outlines(self, t: float) -> tuple[list[_Ends], list[tuple[np.ndarray, str]]]:
        """Return the ends of the limbs, as in `capsules`, and the plates with their materials."""
        v = self.variant
        limbs: list[_Ends] = []
        if self.kind == "lamp":
            x, y, _ = self.lamp_position
            x -= self.x
            limbs = [(0, 0, 0.09, 0, y - 0.3, 0.06), (0, y - 0.3, 0.05, x, y, 0.045)]
            head = np.array([(x - 0.32, y - 0.08), (x + 0.32, y - 0.08), (x + 0.2, y + 0.12), (x - 0.2, y + 0.12)])
            return limbs, [(head, ("lamp_sodium" if v < 0.55 else "lamp_white") if self.lit else "pole")]
        if self.kind == "sign":
            height = 2.1 + 0.5 * v
            name, outline = (
                ("sign_red", circle(8) * 0.34),
                ("sign_blue", circle(14) * 0.34),
                ("sign_yellow", circle(4) * 0.42),
                ("sign_white", rectangle(-0.55, 0.55, -0.2, 0.2)),
            )[int(v * 3.999)]
            limbs = [(0, 0, 0.035, 0, height, 0.035)]
            return limbs, [(outline + (0.0, height), name)]
        if self.kind == "signal":
            height = 3.2 + v
            red = (t / 12.0 + v) % 1.0 < 0.5
            limbs = [(0, 0, 0.07, 0, height, 0.06)]
            return limbs, [
                (rectangle(-0.17, 0.17, height, height + 0.95), "plastic"),
                (circle(10) * 0.11 + (0, height + 0.76), "signal_red" if red else "plastic"),
                (circle(10) * 0.11 + (0, height + 0.20), "plastic" if red else "signal_green"),
            ]
        if self.kind == "pole":
            height = 8.5 + 2.0 * v
            transformer = (rectangle(0.15, 0.5, height - 2.0, height - 1.2), "hot_metal")
            limbs = [(0, 0, 0.14, 0, height, 0.10), (-1.0, height - 0.7, 0.05, 1.0, height - 0.7, 0.05)]
            return limbs, [transformer] if v > 0.6 else []
        if self.kind == "bin":
            return limbs, [
                (np.array([(-0.27, 0), (-0.32, 1.0), (0.32, 1.0), (0.27, 0)]), "bin"),
                (np.array([(-0.36, 1.0), (-0.33, 1.08), (0.33, 1.08), (0.36, 1.0)]), "plastic"),
            ]
        return limbs, [(rectangle(-0.4, 0.4, 0, 1.25), "pole")]  # cabinet

    def shadow_points(self) -> np.ndarray:
        height = {"lamp": 7.0, "sign": 2.5, "signal": 4.0, "pole": 9.0}.get(self.kind, 1.1)
        w = 0.3 if height < 2.0 else 0.07
        return np.array([(self.x + a, y, self.z) for a in (-w, w) for y in (0.0, height)])
