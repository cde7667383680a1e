"""Cars as solids: body and cabin extruded across the width, with windows, wheels, lights and warm parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np

from spectradino_core.scenes.canvas import Canvas
from spectradino_core.scenes.materials import MaterialTable
from spectradino_core.scenes.motion import follow, ground_rectangle
from spectradino_core.scenes.scene import MASK_CLASSES
from spectradino_core.scenes.shapes import circle

_CAR = MASK_CLASSES.index("car")
_SHAPES = {
    # length, width, height, belt, bonnet front height, cabin: rear bottom, rear top, front top, front bottom (fractions
    # of the length from the rear)
    "saloon": (4.6, 1.80, 1.44, 0.92, 0.72, 0.08, 0.24, 0.52, 0.72),
    "hatch": (4.0, 1.74, 1.50, 0.94, 0.74, 0.01, 0.08, 0.52, 0.74),
    "estate": (4.7, 1.82, 1.50, 0.94, 0.74, 0.01, 0.06, 0.54, 0.73),
    "suv": (4.6, 1.90, 1.74, 1.08, 0.98, 0.01, 0.05, 0.54, 0.70),
    "van": (5.0, 1.96, 2.15, 1.20, 1.05, 0.005, 0.02, 0.74, 0.90),
    "pickup": (5.3, 1.92, 1.80, 1.08, 1.02, 0.38, 0.40, 0.60, 0.72),
}


def draw_car_paint(rng: np.random.Generator, materials: MaterialTable) -> int:
    """Draw a car paint: mostly white, grey, silver or black, sometimes a colour."""
    u = rng.random(6)
    if u[0] < 0.72:
        value = (0.75, 0.45, 0.28, 0.12, 0.025)[int(u[1] * 5)]
        colour = value * (0.94 + 0.12 * u[2:5])
    else:
        colour = (np.array([0.5, 0.03, 0.03]), np.array([0.03, 0.08, 0.35]), np.array([0.04, 0.2, 0.1]))[int(u[1] * 3)]
        colour = np.clip(colour * (0.6 + 0.8 * u[2]) + 0.08 * u[3], 0.01, 0.9)
        if u[4] < 0.2:
            colour = np.array([0.65, 0.45, 0.05])
    return materials.add(
        colour,
        0.35 * colour.mean() + 0.12 + 0.35 * u[5],
        0.15 + 0.3 * u[4],
        gloss=0.12,
        # Dark paint absorbs more sun; metal over an air gap cools below air under a clear night sky.
        emissivity=0.88,
        sun_heat=float(20.0 - 14.0 * colour.mean()),
        night=-2.0,
        grain=0.05,
        thermal_grain=0.5,
    )


@dataclass
class Car:
    """A car.

    Attributes:
        heading: direction of the bonnet, radians from +z towards +x.
        running: engine on, with hot exhaust, bonnet and tyres.
        lights: head and tail lights on.
        sway: metres by which a car ahead of the ego car falls back and catches up.
        warm: engine warmth, 0 cold .. 1 hot.
        cabin: temperature offset of the panes in kelvin.
    """

    shape: str
    paint_material: int
    x: float
    z: float
    heading: float
    speed: float
    materials: MaterialTable
    running: bool
    lights: bool = False
    braking: bool = False
    sway: float = 0.0
    warm: float = 0.6
    cabin: float = 0.0
    instance: int = 0

    label = 2

    def position(self, t: float) -> tuple[float, float, float]:
        return follow(self.x, self.z, self.heading, self.speed * t + self.sway * np.sin(0.4 * t))

    @cached_property
    def _solid(self) -> _Solid:
        return _build(self)

    def paint(self, canvas: Canvas, t: float) -> None:
        x, z, heading = self.position(t)
        eye = canvas.camera.eye
        reach = 0.5 * _SHAPES[self.shape][0]
        if z - eye[2] - reach * abs(np.cos(heading)) < 1.0:
            return
        if not canvas.camera.sees(x, z - reach, reach):
            return
        vertices, ends, normals, centroids = self._solid.arrays
        c, s = np.cos(heading), np.sin(heading)
        # Local axes: along (bonnet first), up, left. World: x right, z ahead.
        turn = np.array([[s, 0.0, c], [0.0, 1.0, 0.0], [-c, 0.0, s]])
        world = vertices @ turn + (x, 0.0, z)
        normals = normals @ turn
        centroids = centroids @ turn + (x, 0.0, z) - eye
        ambient, sun = 0.55 + 0.45 * normals[:, 1], np.maximum(normals @ canvas.sun_direction, 0.0)
        # Plane n.(P - eye) = d in camera axes (y down): 1/z = n.ray / d.
        d = np.einsum("fi,fi->f", normals, centroids)
        planes = np.column_stack([normals[:, 0], -normals[:, 1], normals[:, 2]]) / np.where(d == 0.0, 1.0, d)[:, None]
        # The plane of an edge-on face may be metres away at the centres of the pixels it covers: use one depth.
        planes[-d < 0.2 * np.linalg.norm(centroids, axis=1), :2] = 0.0
        flat = (planes[:, :2] == 0.0).all(axis=1)
        planes[flat, 2] = 1.0 / centroids[flat, 2]
        outlines = np.split(world, ends[:-1])
        surface = partial(canvas.surface, mask_class=_CAR, instance=self.instance)
        polygons = []
        for k in np.flatnonzero(d < -1e-3):
            material, warmer = self._solid.looks[k]
            number = surface(material, ambient=ambient[k], sun=sun[k], warmer=warmer, plane=tuple(planes[k]))
            polygons.append((outlines[k], number))
        canvas.stamp(polygons, grain_m=0.02, z=z, instance=self.instance)

    def footprint(self, t: float) -> np.ndarray:
        """Return the world points [4, 3] of the ground under it."""
        length, width = _SHAPES[self.shape][:2]
        return ground_rectangle(*self.position(t), 0.5 * length, 0.52 * width)

    def shadow_points(self, t: float) -> np.ndarray:
        x, z, heading = self.position(t)
        length, width, height = _SHAPES[self.shape][:3]
        along = np.array([np.sin(heading), 0.0, np.cos(heading)])
        across = np.array([np.cos(heading), 0.0, -np.sin(heading)])
        centre = np.array([x, 0.0, z])
        return np.array(
            [
                centre + a * 0.5 * length * along + b * 0.5 * width * across + (0.0, y, 0.0)
                for ends, fraction, y in (((-1.0, 1.0), 1.0, 0.0), ((-0.8, 0.2), 0.8, height))
                for a in ends
                for b in (-fraction, fraction)
            ]
        )


class _Solid:
    """Faces of a solid: outlines, normals, and (material, warmer)."""

    def __init__(self) -> None:
        self.outlines: list[np.ndarray] = []
        self.normals: list[np.ndarray] = []
        self.looks: list[tuple[int, float]] = []

    def face(self, points: np.ndarray, normal: np.ndarray, material: int, warmer: float = 0.0) -> None:
        self.outlines.append(points)
        self.normals.append(normal)
        self.looks.append((material, warmer))

    def across(
        self,
        a: tuple[float, float],
        b: tuple[float, float],
        half: tuple[float, float],
        material: int,
        warmer: float,
        scale: tuple[float, float, float] | None = None,
    ) -> None:
        """Add a face across the car's width between profile points a and b (along, up), `half` wide at each; with
        `scale` smaller, about its centre."""
        points = np.array([(*a, -half[0]), (*b, -half[1]), (*b, half[1]), (*a, half[0])])
        if scale is not None:
            centre = points.mean(axis=0)
            points = centre + (points - centre) * scale
        self.face(points, np.array([-(b[1] - a[1]), b[0] - a[0], 0.0]), material, warmer)

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return vertices [n, 3] of all faces, end of each face's vertices, unit normals and centroids [faces, 3]."""
        sizes = np.array([len(points) for points in self.outlines])
        vertices, normals, ends = np.concatenate(self.outlines), np.array(self.normals), np.cumsum(sizes)
        centroids = np.add.reduceat(vertices, ends - sizes) / sizes[:, None]
        return vertices, ends, normals / np.linalg.norm(normals, axis=1, keepdims=True), centroids


def _build(car: Car) -> _Solid:
    length, width, height, belt, bonnet, rb, rt, ft, fb = _SHAPES[car.shape]
    m, paint = car.materials, car.paint_material
    rear, nose, half = -0.5 * length, 0.5 * length, 0.5 * width
    hot = 1.0 if car.running else 0.25 * car.warm
    build = _Solid()
    axles = (rear + 0.19 * length, nose - 0.18 * length)
    radius = 0.155 * height + 0.10
    sill = 0.24 + 0.06 * (height - 1.4)
    # Under and behind: a dark gap between the wheels, and the tyres' treads.
    ends = ((nose - 0.25, np.array([1.0, 0.0, 0.0])), (rear + 0.25, np.array([-1.0, 0.0, 0.0])))
    for along, normal in ends:
        build.face(_quad_across(along, -half + 0.05, half - 0.05, 0.13, 0.45), normal, m["shade"], 5.0 * hot)
    for axle, (_, normal) in zip((axles[1], axles[0]), ends, strict=True):
        for side in (-1.0, 1.0):
            inner, outer = side * (half - 0.24), side * (half - 0.01)
            tread = _quad_across(axle + normal[0] * radius * 0.9, inner, outer, 0.0, 0.42)
            build.face(tread, normal, m["tyre"], 9.0 * hot)
    belt_front = (nose - 0.06, bonnet)
    profile = [
        (rear + 0.02, sill),
        (rear, 0.45),
        (rear + 0.03, belt - 0.14),
        (rear + 0.10, belt),
        (rear + fb * length, belt),
        belt_front,
        (nose, bonnet - 0.15),
        (nose, 0.42),
        (nose - 0.05, sill),
    ]
    warm = [3.0 * hot, 0.0, 0.0, 0.0, 6.0 * hot, 5.0 * hot, 6.0 * hot, 4.0 * hot]
    for (a, b), w in zip(pairwise(profile), warm, strict=True):
        build.across(a, b, (half, half), paint, w)
    outline = np.array(profile)
    for side in (-1.0, 1.0):
        normal = np.array([0.0, 0.0, side])
        flank = np.column_stack([outline, np.full(len(outline), side * half)])
        build.face(flank, normal, paint, 0.8 * hot)
        for axle in axles:
            for size, material, warmer, out in (
                (radius + 0.07, m["shade"], 2.0 * hot, 0.002),
                (radius, m["tyre"], 7.0 * hot, 0.004),
                (0.62 * radius, m["rim"], 5.0 * hot, 0.006),
            ):
                disc = circle(14) * size + (axle, radius)
                disc[:, 1] = np.maximum(disc[:, 1], 0.0)
                build.face(np.column_stack([disc, np.full(14, side * (half + out))]), normal, material, warmer)
        build.face(_quad_along(rear + 0.3, nose - 0.3, sill, sill + 0.10, side * (half + 0.001)), normal, m["plastic"])
    # Cabin, narrower at the top.
    lower, upper = 0.94 * half, (0.90 if car.shape == "van" else 0.76) * half
    cabin = [(rear + fraction * length, y) for fraction, y in ((rb, belt), (rt, height), (ft, height), (fb, belt))]
    for (a, b), halves in zip(pairwise(cabin), ((lower, upper), (upper, upper), (upper, lower)), strict=True):
        build.across(a, b, halves, paint, 0.0)
    for side in (-1.0, 1.0):
        lean = np.array([0.0, lower - upper, side * (height - belt)])
        wall = np.array(
            [(*cabin[0], side * lower), (*cabin[1], side * upper), (*cabin[2], side * upper), (*cabin[3], side * lower)]
        )
        build.face(wall, lean, paint)
        first = 0.55 if car.shape == "van" else 0.05
        for low, high in ((first, 0.47), (0.53, 0.95)):
            if low < high:
                build.face(_pane(wall, low, high, 0.08, 0.88), lean, m["glass"], car.cabin)
    for (a, b), halves in (((cabin[0], cabin[1]), (lower, upper)), ((cabin[2], cabin[3]), (upper, lower))):
        build.across(a, b, halves, m["glass"], car.cabin, scale=(0.9, 0.8, 0.9))
    _lights(build, car, (rear, nose, half), belt, bonnet, hot)
    return build


def _lights(
    build: _Solid, car: Car, extent: tuple[float, float, float], belt: float, bonnet: float, hot: float
) -> None:
    rear, nose, half = extent
    m = car.materials
    front, back = np.array([1.0, 0.0, 0.0]), np.array([-1.0, 0.0, 0.0])
    head = m["lamp_white"] if car.lights else m["lens"]
    tail = m["tail_lit"] if car.lights or (car.running and car.braking) else m["tail_lens"]
    n, r = nose + 0.004, rear - 0.004
    build.face(_quad_across(n, -0.5 * half, 0.5 * half, bonnet - 0.28, bonnet - 0.10), front, m["plastic"], 12.0 * hot)
    build.face(_quad_across(n, -0.92 * half, 0.92 * half, 0.28, 0.40), front, m["plastic"], 6.0 * hot)
    build.face(_quad_across(n + 0.002, -0.26, 0.26, 0.42, 0.52), front, m["plate"])
    build.face(_quad_across(r, -0.92 * half, 0.92 * half, 0.27, 0.42), back, m["plastic"], 3.0 * hot)
    build.face(_quad_across(r - 0.002, -0.26, 0.26, 0.58, 0.69), back, m["plate"])
    build.face(_quad_across(r - 0.004, -0.75 * half, -0.6 * half, 0.20, 0.30), back, m["hot_metal"], 25.0 * hot - 10.0)
    for side in (-1.0, 1.0):
        lamp = _quad_across(n + 0.002, side * 0.60 * half, side * 0.94 * half, bonnet - 0.25, bonnet - 0.09)
        build.face(lamp, front, head)
        build.face(_quad_across(r, side * 0.68 * half, side * 0.97 * half, belt - 0.32, belt - 0.13), back, tail)


def _quad_across(along: float, one: float, other: float, low: float, high: float) -> np.ndarray:
    left, right = sorted((one, other))
    return np.array([(along, low, left), (along, high, left), (along, high, right), (along, low, right)])


def _quad_along(rear: float, front: float, low: float, high: float, across: float) -> np.ndarray:
    return np.array([(rear, low, across), (rear, high, across), (front, high, across), (front, low, across)])


def _pane(wall: np.ndarray, start: float, end: float, low: float, high: float) -> np.ndarray:
    """Return a window in the wall [rear bottom, rear top, front top, front bottom], as fractions of its sides."""

    def at(fraction: float, up: float) -> np.ndarray:
        bottom = wall[0] + fraction * (wall[3] - wall[0])
        top = wall[1] + fraction * (wall[2] - wall[1])
        return bottom + up * (top - bottom)

    return np.array([at(start, low), at(start, high), at(end, high), at(end, low)])
