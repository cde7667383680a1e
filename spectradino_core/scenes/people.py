"""People, drawn limb by limb: walking, standing, carrying things or riding a bicycle; and bicycles, tube by tube.

Both are flat and face the camera at one depth, but limbs and tubes are posed in three dimensions (forward, up, right):
the gait is visible from the side and foreshortened from the front.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from spectradino_core.scenes.canvas import Canvas
from spectradino_core.scenes.materials import MaterialTable
from spectradino_core.scenes.motion import follow, ground_rectangle, pace
from spectradino_core.scenes.scene import MASK_CLASSES
from spectradino_core.scenes.shapes import capsules, ring

_PERSON, _BICYCLE = MASK_CLASSES.index("person"), MASK_CLASSES.index("bicycle")
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


@dataclass(frozen=True)
class Outfit:
    """Material numbers and cut of a person's clothes."""

    skin: int
    hair: int
    top: int
    legs: int
    shoes: int
    bag: int
    height: float
    girth: float
    short_sleeves: bool
    bare_legs: bool
    coat: bool
    skirt: bool
    hat: bool
    backpack: bool


def draw_outfit(rng: np.random.Generator, materials: MaterialTable, air_c: float) -> Outfit:
    """Draw clothes for the weather: few and thin in heat, a coat in the cold."""
    u = rng.random(16)
    tone = 0.30 + 0.70 * u[0]
    skin = materials.add(
        np.array([0.50, 0.31, 0.22]) * tone,
        0.45 + 0.1 * tone,
        0.07,
        body=0.92,
        sun_heat=1.0,
        grain=0.08,
        thermal_grain=0.6,
        emissivity=0.98,
    )
    cold = air_c < 12.0
    warmth = (0.10 if cold else 0.28) + 0.26 * u[1]
    return Outfit(
        skin=skin,
        hair=materials["hair"],
        top=_cloth(rng, materials, warmth),
        legs=_cloth(rng, materials, warmth + 0.05 + 0.12 * u[2], dark=u[3] < 0.7),
        shoes=materials["shoe"],
        bag=_cloth(rng, materials, 0.03),
        height=1.08 + 0.25 * u[4] if u[5] < 0.08 else 1.56 + 0.34 * u[4],
        girth=0.88 + 0.35 * u[6],
        short_sleeves=bool(air_c > 17.0 and u[7] < 0.7),
        bare_legs=bool(air_c > 21.0 and u[8] < 0.5),
        coat=bool(cold and u[9] < 0.6),
        skirt=bool(u[10] < 0.14),
        hat=bool(u[11] < (0.45 if cold else 0.12)),
        backpack=bool(u[12] < 0.25),
    )


def _cloth(rng: np.random.Generator, materials: MaterialTable, warmth: float, dark: bool = False) -> int:
    u = rng.random(6)
    value = 0.02 + (0.10 * u[0] if dark or u[1] < 0.45 else 0.75 * u[0])
    colour = value * (1.0 + (1.0 if u[1] > 0.6 else 0.25) * (1.6 * u[2:5] - 0.8))
    colour = np.clip(colour, 0.012, 0.85)
    return materials.add(
        # Dyes hardly absorb beyond 0.75 um: cloth is bright in NIR whatever its colour.
        colour,
        0.30 + 0.45 * u[5],
        0.20 + 0.35 * u[3],
        body=float(np.clip(warmth, 0.0, 0.85)),
        sun_heat=7.0,
        grain=0.22,
        thermal_grain=1.2,
        emissivity=0.96,
    )


@dataclass
class Person:
    """A pedestrian or rider.

    Attributes:
        x, z: position at time 0, metres.
        heading: walking direction, radians from +z (away from the camera) towards +x.
        speed: metres per second; 0 stands.
        phase: gait phase at time 0, radians.
        riding: sits on a bicycle.
    """

    outfit: Outfit
    x: float
    z: float
    heading: float
    speed: float
    phase: float
    instance: int = 0
    riding: bool = False

    label = 0

    def position(self, t: float) -> tuple[float, float, float]:
        """Return x, z, heading at time t (seconds)."""
        if self.riding:
            return follow(self.x, self.z, self.heading, self.speed * t)
        return pace(self.x, self.z, self.heading, self.speed, t) if self.speed > 0.0 else (self.x, self.z, self.heading)

    def paint(self, canvas: Canvas, t: float) -> None:
        x, z, heading = self.position(t)
        if z - canvas.camera.eye[2] < 1.5:
            return
        stride = 1.45 * self.outfit.height / 1.7
        phase = self.phase + 2.0 * np.pi * self.speed * t / (3.0 if self.riding else stride)
        side, front = _seen(canvas, x, z, heading)
        limbs = _riding(self.outfit, phase) if self.riding else _upright(self.outfit, phase, self.speed > 0.05)
        rows, looks, depths = [], [], []
        for material, tone, a, ra, b, rb in limbs:
            rows.append((side * a[0] + front * a[2], a[1], ra, side * b[0] + front * b[2], b[1], rb))
            depths.append(0.5 * (front * (a[0] + b[0]) - side * (a[2] + b[2])) - 1e-6 * len(rows))
            looks.append((material, tone))
        ends = np.array(rows)
        ends[:, [2, 5]] = np.maximum(ends[:, [2, 5]], 0.35 * canvas.camera.metres_per_pixel(z))
        surface = partial(canvas.surface, plane=canvas.facing(z), mask_class=_PERSON, instance=self.instance)
        numbers = {look: surface(look[0], ambient=0.85 * look[1], sun=0.75 * look[1]) for look in dict.fromkeys(looks)}
        polygons = [(outline, numbers[look]) for outline, look in zip(capsules(ends), looks, strict=True)]
        order = sorted(range(len(rows)), key=lambda limb: -depths[limb])
        canvas.stamp(polygons, x=x, z=z, order=order, grain_m=0.012, instance=self.instance)

    def footprint(self, t: float) -> np.ndarray:
        """Return the world points [n, 3] of its ground contact area."""
        x, z, _ = self.position(t)
        return np.array(
            [[x - 0.22, 0, z - 0.15], [x + 0.22, 0, z - 0.15], [x + 0.22, 0, z + 0.2], [x - 0.22, 0, z + 0.2]]
        )

    def shadow_points(self, t: float) -> np.ndarray:
        """Return world points [n, 3] whose hull, projected on the ground, is the shadow."""
        x, z, _ = self.position(t)
        w, h = 0.2, self.outfit.height + (0.2 if self.riding else 0.0)
        return np.array([[x - w, 0, z], [x + w, 0, z], [x - w, h * 0.8, z], [x + w, h * 0.8, z], [x, h, z]])


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
        if z - canvas.camera.eye[2] < 1.5:
            return
        side, front = _seen(canvas, x, z, heading)
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
        surface = partial(
            canvas.surface, ambient=0.8, sun=0.6, plane=canvas.facing(z), mask_class=_BICYCLE, instance=self.instance
        )
        tyre = surface(self.tyre_material, warmer=self.warm)
        polygons = [(outline, tyre) for outline in outlines]
        polygons.append((tubes[:_PAINTED], surface(self.paint_material)))
        polygons.append((tubes[_PAINTED:], surface(self.dark_material, warmer=0.3 * self.warm)))
        canvas.stamp(polygons, x=x, z=z, grain_m=0.0, instance=self.instance)

    def footprint(self, t: float) -> np.ndarray:
        """Return the world points [n, 3] of its ground contact area."""
        return ground_rectangle(*self.position(t), 0.75, 0.06)

    def shadow_points(self, t: float) -> np.ndarray:
        x, z, heading = self.position(t)
        dx, dz = 0.8 * np.sin(heading), 0.8 * np.cos(heading)
        return np.array([[x - dx, 0, z - dz], [x + dx, 0, z + dz], [x, 0.9, z], [x + 0.4 * dx, 1.0, z + 0.4 * dz]])


def _seen(canvas: Canvas, x: float, z: float, heading: float) -> tuple[float, float]:
    """Return sine and cosine of the heading against the viewing direction, which is not that of the road."""
    eye = canvas.camera.eye
    angle = heading - np.arctan2(x - eye[0], z - eye[2])
    return np.sin(angle), np.cos(angle)


Limb = tuple[int, float, tuple[float, float, float], float, tuple[float, float, float], float]
"""material, tone, start (forward, up, right), start radius, end, end radius; metres."""


def _upright(outfit: Outfit, phase: float, walking: bool) -> list[Limb]:
    h, g = outfit.height, outfit.height * outfit.girth
    swing = 0.46 if walking else 0.06
    thigh, shank = 0.245 * h, 0.246 * h
    legs = []
    for sign in (-1.0, 1.0):
        turn = phase + (np.pi if sign > 0 else 0.0)
        angle = swing * np.sin(turn)
        bend = 0.10 + 0.75 * max(0.0, np.cos(turn)) if walking else 0.04
        knee = (thigh * np.sin(angle), -thigh * np.cos(angle))
        ankle = (knee[0] + shank * np.sin(angle - bend), knee[1] - shank * np.cos(angle - bend))
        legs.append((sign, knee, ankle, angle - bend))
    hip = max(-ankle[1] for _, _, ankle, _ in legs) + 0.035 * h
    skin, top, trousers = outfit.skin, outfit.top, outfit.legs
    shank_material = skin if outfit.bare_legs or outfit.skirt else trousers
    limbs: list[Limb] = []
    for sign, knee, ankle, tilt in legs:
        right = sign * 0.052 * g
        k, a = (knee[0], hip + knee[1], right), (ankle[0], hip + ankle[1], right)
        limbs.append((trousers, 1.0 if sign > 0 else 0.82, (0.0, hip, right), 0.058 * g, k, 0.041 * g))
        limbs.append((shank_material, 1.0 if sign > 0 else 0.82, k, 0.040 * g, a, 0.026 * g))
        toe = (a[0] + 0.10 * h * np.cos(tilt), a[1] - 0.018 * h + 0.10 * h * np.sin(tilt) * 0.5, right * 1.25)
        limbs.append((outfit.shoes, 1.0, (a[0] - 0.015 * h, a[1] - 0.012 * h, right), 0.026 * h, toe, 0.018 * h))
    chest, pelvis = hip + 0.225 * h, hip + 0.015 * h
    for right in (-1.0, 1.0):
        limbs.append(
            (top, 1.0, (0.0, pelvis, right * 0.028 * g), 0.072 * g, (0.0, chest, right * 0.052 * g), 0.068 * g)
        )
    limbs.append((trousers, 0.95, (0.0, hip, -0.025 * g), 0.070 * g, (0.0, hip, 0.025 * g), 0.070 * g))
    if outfit.coat or outfit.skirt:
        cloth = top if outfit.coat else trousers
        limbs.append((cloth, 0.96, (0.0, hip + 0.02 * h, 0.0), 0.095 * g, (0.0, hip - 0.15 * h, 0.0), 0.105 * g))
    limbs += _arms(outfit, phase, walking, chest + 0.035 * h, swing)
    limbs += _head(outfit, hip + 0.30 * h, 0.0)
    if outfit.backpack:
        limbs.append(
            (outfit.bag, 1.0, (-0.11 * g, pelvis + 0.06 * h, 0.0), 0.07 * g, (-0.10 * g, chest, 0.0), 0.07 * g)
        )
    return limbs


def _arms(outfit: Outfit, phase: float, walking: bool, shoulder: float, swing: float) -> list[Limb]:
    h, g = outfit.height, outfit.height * outfit.girth
    limbs: list[Limb] = []
    fore = outfit.skin if outfit.short_sleeves else outfit.top
    for sign in (-1.0, 1.0):
        angle = -0.85 * swing * np.sin(phase + (np.pi if sign > 0 else 0.0)) - 0.05
        bend = 0.35 if walking else 0.12
        right = sign * 0.118 * g
        s = (0.0, shoulder, right)
        e = (0.17 * h * np.sin(angle), shoulder - 0.17 * h * np.cos(angle), right * 1.12)
        w = (e[0] + 0.15 * h * np.sin(angle + bend), e[1] - 0.15 * h * np.cos(angle + bend), right * 1.12)
        tone = 1.08 if sign > 0 else 0.86
        limbs.append((outfit.top, tone, s, 0.036 * g, e, 0.029 * g))
        limbs.append((fore, tone, e, 0.028 * g, w, 0.021 * g))
        limbs.append((outfit.skin, 1.0, w, 0.022 * h, (w[0] + 0.02 * h, w[1] - 0.03 * h, w[2]), 0.021 * h))
    return limbs


def _head(outfit: Outfit, base: float, forward: float) -> list[Limb]:
    """Return neck, face and hair; `base` is the height of the lower end of the neck."""
    h = outfit.height
    f = forward
    cover = outfit.bag if outfit.hat else outfit.hair
    return [
        (outfit.skin, 0.9, (f, base - 0.01 * h, 0.0), 0.030 * h, (f, base + 0.05 * h, 0.0), 0.030 * h),
        (outfit.skin, 1.0, (f + 0.012 * h, base + 0.075 * h, 0.0), 0.042 * h, (f, base + 0.115 * h, 0.0), 0.050 * h),
        (
            cover,
            1.0,
            (f - 0.022 * h, base + 0.10 * h, 0.0),
            0.044 * h,
            (f - 0.022 * h, base + 0.125 * h, 0.0),
            0.047 * h,
        ),
        (cover, 1.0, (f, base + 0.137 * h, -0.012 * h), 0.037 * h, (f, base + 0.137 * h, 0.012 * h), 0.037 * h),
    ]


def _riding(outfit: Outfit, phase: float) -> list[Limb]:
    """Pose on a `Bicycle`: saddle at (-0.2, 0.93), handlebar at (0.42, 1.02), crank at (-0.05, 0.28)."""
    h, g = outfit.height, outfit.height * outfit.girth
    hip = (-0.18, 0.98)
    chest = (0.06, 0.98 + 0.225 * h)
    shank_material = outfit.skin if outfit.bare_legs else outfit.legs
    limbs: list[Limb] = []
    for sign in (-1.0, 1.0):
        turn = phase + (np.pi if sign > 0 else 0.0)
        foot = (-0.05 + 0.17 * np.sin(turn), 0.30 + 0.17 * np.cos(turn))
        reach = np.array([foot[0] - hip[0], foot[1] - hip[1]])
        length = float(np.hypot(*reach))
        bone = max(0.255 * h, 0.505 * length)
        out = np.sqrt(max(bone**2 - 0.25 * length**2, 0.0))
        knee = (hip[0] + 0.5 * reach[0] - out * reach[1] / length, hip[1] + 0.5 * reach[1] + out * reach[0] / length)
        right, tone = sign * 0.075 * g, 1.0 if sign > 0 else 0.82
        limbs.append((outfit.legs, tone, (*hip, right), 0.060 * g, (*knee, right), 0.042 * g))
        limbs.append((shank_material, tone, (*knee, right), 0.040 * g, (*foot, right), 0.027 * g))
        limbs.append(
            (outfit.shoes, 1.0, (foot[0] - 0.05, foot[1], right), 0.035, (foot[0] + 0.10, foot[1], right), 0.03)
        )
        shoulder = (chest[0] + 0.02, chest[1] + 0.03 * h, sign * 0.115 * g)
        hand = (0.42, 1.04, sign * 0.22)
        elbow = (0.5 * shoulder[0] + 0.18, 0.5 * shoulder[1] + 0.46, 0.5 * shoulder[2] + sign * 0.16)
        fore = outfit.skin if outfit.short_sleeves else outfit.top
        limbs.append((outfit.top, 1.05 * tone, shoulder, 0.036 * g, elbow, 0.029 * g))
        limbs.append((fore, 1.05 * tone, elbow, 0.028 * g, hand, 0.022 * g))
        limbs.append((outfit.skin, 1.0, hand, 0.038, hand, 0.038))
        limbs.append((outfit.top, 1.0, (*hip, sign * 0.03 * g), 0.075 * g, (*chest, sign * 0.052 * g), 0.070 * g))
    limbs += _head(outfit, chest[1] + 0.075 * h, chest[0] + 0.05)
    return limbs
