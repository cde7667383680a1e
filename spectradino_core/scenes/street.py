"""Ground and sky: carriageway with markings, sidewalks, crossing street, verges, shadows, horizon."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from spectradino_core.scenes.canvas import Canvas
from spectradino_core.scenes.materials import MaterialTable
from spectradino_core.scenes.scene import MASK_CLASSES, UNLABELLED
from spectradino_core.scenes.textures import TILE, grain_tile, smooth_tile

_ROAD, _VEGETATION, _SKY = (MASK_CLASSES.index(name) for name in ("road", "vegetation", "sky"))
SKY_STRIPS = 64
"""Number of strips of the sky's colour gradient above the horizon."""
_TEXELS_PER_M = 14.0
_SKY_TOP = 0.75  # slope (up / ahead) where the last strip ends


@dataclass(frozen=True)
class Road:
    """Plan of the street; the ego car drives in a lane whose centre passes near x = 0.

    Attributes:
        left, right: edges of the carriageway at z = 0, metres.
        bend: x = bend * z ** 2 is added along the road.
        centre: x of the line between the two directions.
        sidewalk: width of the sidewalks, (left, right); 0: none.
        parking: width of the parking strip inside each edge, (left, right); 0: none.
        crossing: z of a crossing street's near edge, or None; `crossing_width` is its width.
        zebra: z of a zebra crossing's near edge, or None.
    """

    left: float
    right: float
    bend: float
    centre: float
    lanes: tuple[float, ...]
    sidewalk: tuple[float, float]
    parking: tuple[float, float]
    crossing: float | None
    crossing_width: float
    zebra: float | None
    surface: str
    walk: str
    verge: tuple[str, str]
    yellow: bool
    edge_line: bool
    dash: tuple[float, float]
    patches: np.ndarray

    def shift(self, z: float) -> float:
        """Return how far the street has bent to the right at z, metres."""
        return self.bend * max(float(z), 0.0) ** 2

    def edge(self, side: float, beyond: float = 0.0) -> float:
        """Return x of the carriageway's left (-1) or right (1) edge at z = 0, or `beyond` metres outside it."""
        return (self.left if side < 0 else self.right) + side * beyond

    def near_crossing(self, z: float, margin: float) -> bool:
        """Return whether z is within `margin` metres of the crossing street."""
        return self.crossing is not None and self.crossing - margin < z < self.crossing + self.crossing_width + margin


def paint_sky(canvas: Canvas, materials: MaterialTable, cloud_offset: tuple[int, int]) -> None:
    """Fill the canvas with sky strips by elevation; strip k is surface k + 1, so paint the sky first."""
    height, width = canvas.index.shape
    for k in range(SKY_STRIPS):
        canvas.surface(materials["sky"], ambient=0.0, sun=(k + 0.5) / SKY_STRIPS, mask_class=_SKY)
    _, down = canvas.camera.rays
    canvas.index[:] = np.clip(-down * (SKY_STRIPS / _SKY_TOP), 0, SKY_STRIPS - 1).astype(np.uint16) + 1
    scale = max(width / 640.0, 1e-3)
    rows, columns = int(min(TILE, height / scale)), int(min(TILE, width / scale))
    piece = smooth_tile()[cloud_offset[0] :, cloud_offset[1] :][:rows, :columns]
    piece = cv2.resize((128 + 110 * piece).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    piece = cv2.warpPerspective(piece, canvas.camera.post, (width, height), borderMode=cv2.BORDER_REFLECT)
    canvas.grain[..., 0] = canvas.grain[..., 1] = piece


def paint_ground(canvas: Canvas, road: Road, materials: MaterialTable) -> None:
    """Paint the ground with textures fixed to the world."""
    camera = canvas.camera
    plane = (0.0, 1.0 / camera.eye[1], 0.0)
    up = max(float(canvas.sun_direction[1]), 0.0)

    def ground(name: str, mask_class: int = _ROAD, warmer: float = 0.0, tone: float = 1.0) -> int:
        return canvas.surface(
            materials[name], ambient=tone, sun=tone * up, warmer=warmer, plane=plane, mask_class=mask_class
        )

    def verge(name: str) -> int:
        return ground(name, {"grass": _VEGETATION, "dry_grass": _VEGETATION, "soil": UNLABELLED}.get(name, _ROAD))

    canvas.first_ground = len(canvas)
    z = np.concatenate([[0.5, 1.0, 1.5, 2.0, 2.7], np.geomspace(3.5, 400.0, 26)])

    def band(left: np.ndarray | float, right: np.ndarray | float, start: float = 0.5, end: float = 400.0) -> np.ndarray:
        near, far = start - camera.eye[2], end - camera.eye[2]
        at = np.concatenate([[near], z[(z > near) & (z < far)], [far]]) if near > 0.5 else np.append(z[z < far], far)
        at = at + camera.eye[2]
        bend = road.bend * np.maximum(at, 0.0) ** 2
        a = np.column_stack([left + bend, np.zeros_like(at), at])
        b = np.column_stack([right + bend, np.zeros_like(at), at])
        return np.concatenate([a, b[::-1]])

    polygons: list[tuple[np.ndarray, int]] = []
    # Limited to what any lens sees: points far off the axis would fall behind a tilted image plane.
    reach = np.column_stack([8.0 + 2.0 * z, np.zeros_like(z), z + camera.eye[2]])
    middle = np.column_stack([road.centre + road.bend * z**2, np.zeros_like(z), z + camera.eye[2]])
    for sign, name in ((-1.0, road.verge[0]), (1.0, road.verge[1])):
        polygons.append((np.concatenate([reach * (sign, 1.0, 1.0), middle[::-1]]), verge(name)))
    walk, curb, asphalt = ground(road.walk), ground("curb"), ground(road.surface)
    for side, edge, width in ((-1.0, road.left, road.sidewalk[0]), (1.0, road.right, road.sidewalk[1])):
        if width > 0.0:
            a, b = sorted((edge, edge + side * width))
            polygons.append((band(a, b), walk))
            a, b = sorted((edge, edge + side * 0.16))
            polygons.append((band(a, b), curb))
    polygons.append((band(road.left, road.right), asphalt))
    track = ground(road.surface, warmer=1.2, tone=0.94)
    for lane in road.lanes:
        for offset in (-0.75, 0.75):
            polygons.append((band(lane + offset - 0.22, lane + offset + 0.22), track))
    if road.crossing is not None:
        low, high = road.crossing, road.crossing + road.crossing_width
        polygons.append((_flat(-120.0, 120.0, low, high, road), asphalt))
    worn, dark = ground("worn_asphalt"), ground(road.surface, tone=0.7, warmer=-0.3)
    for k, (x, at, width, length) in enumerate(road.patches):
        polygons.append((_flat(x, x + width, at, at + length, road), worn if k % 2 else dark))
    marking, centre = ground("marking"), ground("yellow_marking" if road.yellow else "marking")
    for line, number, solid in _lines(road, marking, centre):
        if solid:
            polygons.append((band(line - 0.07, line + 0.07, 0.5, 120.0), number))
        else:
            length, gap = road.dash
            for start in np.arange(1.0, 90.0, length + gap):
                polygons.append((band(line - 0.065, line + 0.065, start, start + length), number))
    if road.zebra is not None:
        for x in np.arange(road.left + 0.3, road.right - 0.5, 1.0):
            polygons.append((_flat(x, x + 0.5, road.zebra, road.zebra + 3.0, road), marking))
        stop = road.zebra - 1.2
        polygons.append((_flat(road.centre, road.right - 0.2, stop - 0.35, stop, road), marking))
    canvas.last_ground = len(canvas) - 1
    _fill(canvas, polygons)
    _ground_texture(canvas)


def _lines(road: Road, marking: int, centre: int) -> list[tuple[float, int, bool]]:
    lines = [(road.centre, centre, road.yellow)]
    if road.yellow:
        lines.append((road.centre + 0.28, centre, True))
    if road.edge_line:
        lines += [
            (road.left + road.parking[0] + 0.15, marking, True),
            (road.right - road.parking[1] - 0.15, marking, True),
        ]
    own = sorted(lane for lane in road.lanes if lane > road.centre)
    lines += [(0.5 * (a + b), marking, False) for a, b in pairwise(own)]
    return lines


def _flat(x1: float, x2: float, z1: float, z2: float, road: Road) -> np.ndarray:
    bend = road.shift(0.5 * (z1 + z2))
    return np.array([(x1 + bend, 0, z1), (x1 + bend, 0, z2), (x2 + bend, 0, z2), (x2 + bend, 0, z1)])


def _fill(canvas: Canvas, polygons: list[tuple[np.ndarray, int]]) -> None:
    camera = canvas.camera
    for points, number in polygons:
        if points[:, 2].max() < camera.eye[2] + 0.5:
            continue
        fixed = np.rint((camera.project(points) - 0.5) * 16).clip(-1e6, 1e6).astype(np.int32)
        cv2.fillPoly(canvas.index, [fixed], number, cv2.LINE_8, 4)


def _ground_texture(canvas: Canvas) -> None:
    camera = canvas.camera
    right, down = camera.rays
    rows = np.flatnonzero((down > 0.004).any(axis=1))
    if len(rows) == 0:
        return
    top = int(rows[0])
    below = np.maximum(down[top:], 0.004)
    z = camera.eye[1] / below
    x = right[top:] * z
    column = ((x + camera.eye[0]) * _TEXELS_PER_M).astype(np.int32) & (TILE - 1)
    row = ((z + camera.eye[2]) * _TEXELS_PER_M).astype(np.int32) & (TILE - 1)
    piece = np.take(grain_tile().view(np.uint16).reshape(-1), row * TILE + column)
    piece = piece.view(np.uint8).reshape(*piece.shape, 2)
    # At a distance a pixel averages many texels, so the texture fades.
    fade = np.clip(9.0 / z, 0.12, 1.0).astype(np.float32)
    target = canvas.grain[top:]
    mean = np.int16(128)
    for plane in range(2):
        faded = 128.0 + (piece[..., plane].astype(np.int16) - mean) * fade
        target[..., plane] = faded.astype(np.uint8)


def paint_shadows(canvas: Canvas, hulls: list[np.ndarray], strength_of: int) -> None:
    """Add `strength_of` to the surface numbers of ground pixels in shadow.

    Args:
        hulls: per caster, world points [n, 3] of its outline, projected along the sun's direction.
        strength_of: offset from a ground surface to its shaded twin.
    """
    sun = canvas.sun_direction
    shade = np.zeros(canvas.index.shape, np.uint8)
    for points in hulls:
        projected = points - points[:, 1:2] / max(sun[1], 0.12) * sun
        projected[:, 1] = 0.0
        if projected[:, 2].min() < canvas.camera.eye[2] + 0.8:
            projected = projected[projected[:, 2] > canvas.camera.eye[2] + 0.8]
            if len(projected) < 3:
                continue
        pixels = np.rint((canvas.camera.project(projected) - 0.5) * 16).clip(-1e6, 1e6).astype(np.int32)
        cv2.fillConvexPoly(shade, cv2.convexHull(pixels), 1, cv2.LINE_8, 4)
    ground = (canvas.index >= canvas.first_ground) & (canvas.index <= canvas.last_ground) & (shade > 0)
    np.add(canvas.index, np.uint16(strength_of), out=canvas.index, where=ground)
