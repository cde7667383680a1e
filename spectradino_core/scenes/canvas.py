"""Canvas for painting back to front: each pixel holds the number of its visible surface.

An object is a list of polygons, each of one surface. A surface is a plane in camera space with a material, light
fractions, a temperature offset, a class and an instance. Depth, masks and all bands are looked up from this one index
image, so every band shows exactly the same scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.scenes.camera import Camera
from spectradino_core.scenes.scene import FAR_M, UNLABELLED
from spectradino_core.scenes.textures import TILE, grain_tile

Polygons = tuple[np.ndarray, int]
"""(points, surface): the outline [n, 3] of a polygon in the world, or those of several convex ones, [k, n, 3]."""

_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Silhouette:
    """Unoccluded extent of an object: box in canvas pixels (x1, y1, x2, y2; exclusive ends), its number of pixels, and
    the fraction of its bounding box that lies in the image."""

    box: tuple[int, int, int, int]
    pixels: int
    in_image: float


class Canvas:
    """Attributes: `index` uint16 [H, W] of surface numbers (0: empty), `grain` uint8 [H, W, 2] of texture,
    `silhouettes` by instance number."""

    def __init__(self, camera: Camera, sun_direction: np.ndarray) -> None:
        self.camera = camera
        self.sun_direction = sun_direction
        self.index = np.zeros((camera.height, camera.width), np.uint16)
        self.grain = np.full((camera.height, camera.width, 2), 128, np.uint8)
        self.silhouettes: dict[int, Silhouette] = {}
        self.first_ground = self.last_ground = 0
        self._rows: list[tuple[float, ...]] = [(0, 0, 0, 0, 0, 0, 1.0 / FAR_M, UNLABELLED, 0)]

    def surface(
        self,
        material: int,
        *,
        ambient: float = 1.0,
        sun: float = 0.5,
        warmer: float = 0.0,
        plane: tuple[float, float, float] = (0.0, 0.0, 1.0 / FAR_M),
        mask_class: int = UNLABELLED,
        instance: int = 0,
    ) -> int:
        """Register a surface and return its number.

        Args:
            material: index into the scene's material table.
            ambient, sun: fractions of sky and sun light that reach it.
            warmer: temperature offset in kelvin from what material and light give.
            plane: (a, b, c) with 1 / depth = a * ray_x + b * ray_y + c.
            mask_class: index into MASK_CLASSES, or UNLABELLED.
            instance: number of the labelled object it belongs to, 0 for none.
        """
        self._rows.append((material, ambient, sun, warmer, *plane, mask_class, instance))
        return len(self._rows) - 1

    def facing(self, z: float) -> tuple[float, float, float]:
        """Return the plane, for `surface`, of a flat object that faces the camera at world depth z."""
        return 0.0, 0.0, 1.0 / (z - self.camera.eye[2])

    def stamp(
        self,
        polygons: Sequence[Polygons],
        *,
        grain_m: float,
        z: float,
        x: float | None = None,
        order: Iterable[int] | None = None,
        piece: int = 0,
        instance: int = 0,
    ) -> None:
        """Paint an object over the canvas.

        Args:
            polygons: of the object.
            grain_m: metres per texel; 0 for a smooth object.
            z: depth in the world, which scales the texture.
            x: the points are (right, up), [..., 2], of a flat object that stands at (x, z).
            order: painting order, as indices into `polygons`; None: as listed.
            piece: any number; selects the section of the texture.
            instance: record the silhouette under this number.
        """
        vertices = [outline.reshape(-1, outline.shape[-1]) for outline, _ in polygons]
        ends = np.cumsum([len(each) for each in vertices]).tolist()
        points = np.concatenate(vertices)
        if x is not None:
            points = np.column_stack([x + points[:, 0], points[:, 1], np.full(len(points), z)])
        pixels = self.camera.project(points)
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        x1, y1 = max(int(np.floor(low[0])) - 1, 0), max(int(np.floor(low[1])) - 1, 0)
        x2, y2 = min(int(np.ceil(high[0])) + 1, self.camera.width), min(int(np.ceil(high[1])) + 1, self.camera.height)
        if x1 >= x2 or y1 >= y2:
            return
        patch = np.zeros((y2 - y1, x2 - x1), np.uint16)
        corner = (x1 + 0.5, y1 + 0.5)
        fixed = np.rint(np.clip(pixels - corner, -1e5, 1e5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        for k in range(len(polygons)) if order is None else order:
            outline, surface = polygons[k]
            own = fixed[ends[k] - len(vertices[k]) : ends[k]]
            if outline.ndim == 2 or len(outline) == 1:
                cv2.fillPoly(patch, [own], surface, cv2.LINE_8, _SUBPIXEL_BITS)
            else:
                for convex in own.reshape(*outline.shape[:2], 2):
                    cv2.fillConvexPoly(patch, convex, surface, cv2.LINE_8, _SUBPIXEL_BITS)
        covered = patch != 0
        np.copyto(self.index[y1:y2, x1:x2], patch, where=covered)
        self._texture((x1, y1, x2, y2), pixels[0], covered, grain_m, z, instance or piece)
        if instance:
            self._note(instance, covered, (x1, y1), low, high)

    def __len__(self) -> int:
        return len(self._rows)

    def add_shaded_ground(self, ambient_fraction: float, still: bool, warmer: float = 0.0) -> int:
        """Register a shaded twin of every ground surface and return the offset to the twins.

        Args:
            ambient_fraction: fraction of the sky's light that still reaches it.
            still: the shadow is stationary, so the ground in it has cooled down.
            warmer: kelvin by which the object above warms the ground.
        """
        offset = len(self._rows) - self.first_ground
        for row in self._rows[self.first_ground : self.last_ground + 1]:
            material, ambient, sun, own, *rest = row
            # Ground under a passing shadow keeps the temperature of sunlit ground, marked by a negative fraction.
            self._rows.append((material, ambient_fraction * ambient, 0.0 if still else -sun, own + warmer, *rest))
        return offset

    def table(self) -> np.ndarray:
        """Return float64 [surfaces, 9]: material, ambient, sun, warmer, plane a, b, c, class, instance."""
        return np.array(self._rows)

    def _texture(
        self,
        roi: tuple[int, int, int, int],
        anchor: np.ndarray,
        covered: np.ndarray,
        grain_m: float,
        z: float,
        piece: int,
    ) -> None:
        x1, y1, x2, y2 = roi
        target = self.grain[y1:y2, x1:x2]
        if grain_m <= 0.0:
            target[covered] = 128
            return
        texels = self.camera.metres_per_pixel(z) / grain_m
        # The texture is anchored at the object's first vertex so that it moves with it.
        middle = (0.5 * (x2 - x1), 0.5 * (y2 - y1))
        (u, v), turn = self.camera.unwarp(x1 + middle[0], y1 + middle[1])
        (u0, v0), _ = self.camera.unwarp(*anchor)
        turn = texels * turn
        column = (u - u0) * texels + 389.0 * piece - turn[0] @ middle
        row = (v - v0) * texels + 577.0 * piece - turn[1] @ middle
        way = cv2.INTER_LINEAR if texels < 1.0 else cv2.INTER_NEAREST
        texture = cv2.warpAffine(
            grain_tile(),
            np.array([[*turn[0], column % TILE], [*turn[1], row % TILE]]),
            (x2 - x1, y2 - y1),
            flags=way | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_WRAP,
        )
        np.copyto(target, texture, where=covered[..., None])

    def _note(
        self, instance: int, covered: np.ndarray, corner: tuple[int, int], low: np.ndarray, high: np.ndarray
    ) -> None:
        rows, columns = covered.any(axis=1).nonzero()[0], covered.any(axis=0).nonzero()[0]
        if len(rows) == 0:
            return
        x, y = corner
        box = (x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1)
        size = np.array([self.camera.width, self.camera.height])
        inside = np.clip(high, 0, size) - np.clip(low, 0, size)
        fraction = float(np.prod(inside) / max(float(np.prod(high - low)), 1e-6))
        self.silhouettes[instance] = Silhouette(box, int(covered.sum()), fraction)
