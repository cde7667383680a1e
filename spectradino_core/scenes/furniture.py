"""Street furniture without a class: lamp posts, poles with wires, signs, traffic lights, bins and cabinets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.scenes.canvas import Canvas
from spectradino_core.scenes.materials import MaterialTable
from spectradino_core.scenes.shapes import CAPSULE_VERTICES, capsules, circle

__all__ = ["Furniture"]


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
    instance: int = 0

    @property
    def far(self) -> float:
        return self.z

    @property
    def lamp_position(self) -> tuple[float, float, float]:
        """Return the position of a street lamp's light source."""
        return self.x - self.side * 1.6, 6.6 + 1.5 * self.variant, self.z

    def paint(self, canvas: Canvas, t: float) -> None:
        distance = self.z - canvas.camera.eye[2]
        if distance < 1.0 or not canvas.camera.sees(self.x, self.z, 2.5):
            return
        thin = 0.45 * canvas.camera.metres_per_pixel(self.z)
        limbs: list[tuple[float, float, float, float, float, float]] = []
        plates: list[tuple[np.ndarray, str]] = []
        v = self.variant
        if self.kind == "lamp":
            x, y, _ = self.lamp_position
            limbs = [(0, 0, 0.09, 0, y - 0.3, 0.06), (0, y - 0.3, 0.05, x - self.x, y, 0.045)]
            head = np.array(
                [
                    (x - self.x - 0.32, y - 0.08),
                    (x - self.x + 0.32, y - 0.08),
                    (x - self.x + 0.2, y + 0.12),
                    (x - self.x - 0.2, y + 0.12),
                ]
            )
            plates = [(head, ("lamp_sodium" if v < 0.55 else "lamp_white") if self.lit else "pole")]
        elif self.kind == "sign":
            height = 2.1 + 0.5 * v
            limbs = [(0, 0, 0.035, 0, height, 0.035)]
            name = ("sign_red", "sign_blue", "sign_yellow", "sign_white")[int(v * 3.999)]
            if name == "sign_yellow":
                outline = circle(4) * 0.42
            elif name == "sign_white":
                outline = np.array([(-0.55, -0.2), (-0.55, 0.2), (0.55, 0.2), (0.55, -0.2)])
            else:
                outline = circle(8 if name == "sign_red" else 14) * 0.34
            plates = [(outline + np.array([0.0, height]), name)]
        elif self.kind == "signal":
            height = 3.2 + v
            limbs = [(0, 0, 0.07, 0, height, 0.06)]
            plates = [
                (np.array([(-0.17, height), (-0.17, height + 0.95), (0.17, height + 0.95), (0.17, height)]), "plastic")
            ]
            red = (t / 12.0 + v) % 1.0 < 0.5
            plates.append((circle(10) * 0.11 + (0, height + 0.76), "signal_red" if red else "plastic"))
            plates.append((circle(10) * 0.11 + (0, height + 0.20), "plastic" if red else "signal_green"))
        elif self.kind == "pole":
            height = 8.5 + 2.0 * v
            limbs = [(0, 0, 0.14, 0, height, 0.10), (-1.0, height - 0.7, 0.05, 1.0, height - 0.7, 0.05)]
            plates = (
                [
                    (
                        np.array(
                            [(0.15, height - 2.0), (0.15, height - 1.2), (0.5, height - 1.2), (0.5, height - 2.0)]
                        ),
                        "hot_metal",
                    )
                ]
                if v > 0.6
                else []
            )
        elif self.kind == "bin":
            plates = [(np.array([(-0.27, 0), (-0.32, 1.0), (0.32, 1.0), (0.27, 0)]), "bin")]
            plates.append((np.array([(-0.36, 1.0), (-0.33, 1.08), (0.33, 1.08), (0.36, 1.0)]), "plastic"))
        else:
            plates = [(np.array([(-0.4, 0), (-0.4, 1.25), (0.4, 1.25), (0.4, 0)]), "pole")]
        self._stamp(canvas, limbs, plates, distance, thin)

    def _stamp(
        self,
        canvas: Canvas,
        limbs: list[tuple[float, float, float, float, float, float]],
        plates: list[tuple[np.ndarray, str]],
        distance: float,
        thin: float,
    ) -> None:
        plane = (0.0, 0.0, 1.0 / distance)
        flat, parts, count = [], [], 0
        if limbs:
            ends = np.array(limbs, dtype=float)
            ends[:, [2, 5]] = np.maximum(ends[:, [2, 5]], thin)
            outline = capsules(ends).reshape(-1, 2)
            name = "trunk" if self.kind == "pole" else "pole"
            parts.append(
                (
                    0,
                    len(outline),
                    CAPSULE_VERTICES,
                    canvas.surface(self.materials[name], ambient=0.8, sun=0.6, plane=plane),
                )
            )
            flat.append(outline)
            count = len(outline)
        for outline, name in plates:
            number = canvas.surface(self.materials[name], ambient=0.8, sun=0.6, plane=plane)
            parts.append((count, count + len(outline), len(outline), number))
            flat.append(outline)
            count += len(outline)
        points = np.concatenate(flat)
        world = np.column_stack([self.x + points[:, 0], points[:, 1], np.full(len(points), self.z)])
        canvas.stamp(canvas.camera.project(world), parts, grain_m=0.02, z=self.z, piece=int(97 * self.variant))

    def shadow_points(self, t: float) -> np.ndarray:
        del t
        height = {"lamp": 7.0, "sign": 2.5, "signal": 4.0, "pole": 9.0}.get(self.kind, 1.1)
        w = 0.3 if height < 2.0 else 0.07
        return np.array([(self.x + a, y, self.z) for a in (-w, w) for y in (0.0, height)])
