"""What stands where: from a seed to a street with houses, trees, furniture, cars, people and bicycles.

Everything is drawn in metres, so that one seed is one street at any image size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.data.scenes.bicycles import Bicycle
from spectradino_core.data.scenes.buildings import House, draw_wall_material
from spectradino_core.data.scenes.cars import Car, draw_car_paint
from spectradino_core.data.scenes.furniture import Furniture
from spectradino_core.data.scenes.materials import Material, MaterialTable
from spectradino_core.data.scenes.people import Person, draw_outfit
from spectradino_core.data.scenes.plants import Hedge, Horizon, Tree, draw_leaf_material
from spectradino_core.data.scenes.street import Road
from spectradino_core.data.scenes.weather import Weather, draw_weather

__all__ = ["Street", "View", "draw_street"]

Actor = Person | Bicycle | Car
Thing = House | Tree | Hedge | Horizon | Furniture


@dataclass(frozen=True)
class View:
    """How the camera looks: focal length in image widths, horizon in image heights, principal column in image widths,
    eye height in metres, roll in radians, speed of the ego car in metres per second."""

    focal: float
    horizon: float
    column: float
    eye_height: float
    roll: float
    speed: float


@dataclass
class Street:
    weather: Weather
    view: View
    road: Road
    materials: MaterialTable
    things: list[Thing]
    actors: list[Actor]
    cloud_offset: tuple[int, int]

    @property
    def lamps(self) -> list[tuple[float, float, float]]:
        return [t.lamp_position for t in self.things if isinstance(t, Furniture) and t.kind == "lamp" and t.lit]


def draw_street(seed: int, time_of_day: str | None = None, traffic: float = 1.0) -> Street:
    """Draw the street of a seed. Each concern has its own generator, so that one draw more does not change the rest."""
    sky, plan, sides, crowd = (np.random.default_rng([seed, k]) for k in range(4))
    weather = draw_weather(sky, time_of_day)
    materials = MaterialTable()
    u = plan.random(8)
    view = View(
        focal=0.72 + 0.62 * u[0],
        horizon=0.36 + 0.2 * u[1],
        column=0.5 + 0.16 * (u[2] - 0.5),
        eye_height=1.2 + 0.6 * u[3],
        roll=np.deg2rad(3.0) * (u[4] - 0.5),
        speed=0.0 if u[5] < 0.5 else 1.4 * u[6],
    )
    road = _draw_road(plan)
    things = _draw_sides(sides, road, weather, materials)
    actors = _draw_traffic(crowd, road, weather, materials, traffic)
    for number, actor in enumerate(actors, start=1):
        actor.instance = number
    offset = (int(sky.integers(0, 300)), int(sky.integers(0, 300)))
    return Street(weather, view, road, materials, things, actors, offset)


def _draw_road(rng: np.random.Generator) -> Road:
    u = rng.random(24)
    lane = 3.0 + 0.6 * u[0]
    lanes_each = 1 if u[1] < 0.72 else 2
    own = rng.integers(0, lanes_each)
    centre = -lane * (0.5 + own)
    parking = (2.2 if u[2] < 0.5 else 0.0, 2.2 if u[3] < 0.55 else 0.0)
    right = centre + lane * lanes_each + parking[1] + 0.3
    left = centre - lane * lanes_each - parking[0] - 0.3
    lanes = tuple(float(centre + sign * lane * (0.5 + k)) for sign in (-1.0, 1.0) for k in range(lanes_each))
    urban = u[4] < 0.8
    walks = (1.6 + 2.6 * u[5] if urban or u[6] < 0.5 else 0.0, 1.6 + 2.6 * u[7] if urban or u[8] < 0.5 else 0.0)
    crossing = 9.0 + 26.0 * u[9] if u[10] < 0.42 else None
    zebra = crossing - 4.5 if crossing is not None and u[11] < 0.6 else (7.0 + 18.0 * u[12] if u[11] < 0.25 else None)
    verges = ("paving", "paving", "concrete", "grass", "grass", "dry_grass", "soil")
    if not urban:
        verges = ("grass", "grass", "dry_grass", "dry_grass", "soil", "grass", "grass")
    patches = np.column_stack(
        [
            left + (right - left) * rng.random(7),
            3.0 + 35.0 * rng.random(7),
            0.3 + 1.8 * rng.random(7),
            0.3 + 3.5 * rng.random(7),
        ]
    )[: int(7 * u[13])]
    return Road(
        left=float(left),
        right=float(right),
        bend=float(0.0013 * (2 * u[14] - 1) ** 3 * 2),
        centre=float(centre),
        lanes=lanes,
        sidewalk=walks,
        parking=parking,
        crossing=crossing,
        crossing_width=7.0 + 3.0 * u[15],
        zebra=zebra,
        surface="asphalt" if u[16] < 0.6 else "worn_asphalt",
        walk="concrete" if u[17] < 0.55 else "paving",
        verge=(verges[int(u[18] * 7)], verges[int(u[19] * 7)]),
        yellow=bool(u[20] < 0.4),
        edge_line=bool(u[21] < 0.55),
        dash=(2.0 + 2.0 * u[22], 3.0 + 4.0 * u[23]),
        patches=patches,
    )


def _draw_sides(rng: np.random.Generator, road: Road, weather: Weather, materials: MaterialTable) -> list[Thing]:
    things: list[Thing] = []
    urban = rng.random()
    leaves = [draw_leaf_material(rng, materials, weather.air_c) for _ in range(3)]
    walls = [draw_wall_material(rng, materials) for _ in range(5)]
    hills = 6.0 + 22.0 * rng.random() ** 2 * (
        1.0 + np.sin(np.linspace(0, 7, 60) * (0.5 + rng.random()) + 6 * rng.random())
    )
    hills = hills + 1.6 * rng.standard_normal(60).cumsum() * 0.25 + 0.5 * rng.standard_normal(60)
    count = int(rng.integers(0, 14)) if urban > 0.4 else 0
    skyline = np.column_stack([rng.uniform(-220, 220, count), rng.uniform(10, 35, count), rng.uniform(12, 50, count)])
    things.append(Horizon(leaves[0], walls[0], np.maximum(hills, 2.0), skyline))
    lit_share = {"day": 0.0, "dusk": 0.3, "night": 0.35}[weather.time_of_day] * rng.random()
    palms = weather.air_c > 16 and rng.random() < 0.35
    for side in (-1.0, 1.0):
        edge = road.left - road.sidewalk[0] if side < 0 else road.right + road.sidewalk[1]
        z = 2.0 + 3.0 * rng.random()
        while z < 130.0:
            length = rng.uniform(8.0, 24.0)
            if (
                road.crossing is not None
                and z - 1.0 < road.crossing + road.crossing_width
                and z + length > road.crossing - 1.0
            ):
                if z > road.crossing - 5.0:
                    z = road.crossing + road.crossing_width + 1.5
                    continue
                length = road.crossing - 1.0 - z
            x = edge + side * (0.3 + (0.0 if urban > 0.6 else 6.0 * rng.random())) + float(road.shift(z + 0.5 * length))
            kind = rng.random()
            if kind < 0.2 + 0.6 * urban:
                floors = int(rng.integers(1, 4)) + (int(rng.integers(0, 5)) if urban > 0.65 else 0)
                things.append(
                    House(
                        side=side,
                        x=x,
                        z1=z,
                        z2=z + length,
                        depth=rng.uniform(7.0, 14.0),
                        height=3.0 * floors + rng.uniform(0.3, 1.2),
                        wall=walls[int(rng.integers(0, 5))],
                        materials=materials,
                        floors=floors,
                        gable=rng.uniform(1.5, 3.5) if floors < 4 and rng.random() < 0.6 else 0.0,
                        lit=float(lit_share),
                        shop=bool(rng.random() < 0.6 * urban),
                        seed=int(rng.integers(0, 2**31)),
                    )
                )
            else:
                if kind > 0.55:
                    things.append(
                        Hedge(x, z, z + length, rng.uniform(0.7, 2.4), leaves[1], int(rng.integers(0, 2**31)))
                    )
                for _ in range(int(rng.integers(1, 4))):
                    things.append(
                        _tree(
                            rng, x + side * rng.uniform(0.5, 9.0), z + length * rng.random(), leaves, materials, palms
                        )
                    )
            z += length + (rng.uniform(0.0, 1.0) if urban > 0.7 else rng.uniform(0.5, 7.0))
        _kerbside(rng, things, road, side, weather, leaves, materials, palms)
    return things


def _kerbside(
    rng: np.random.Generator,
    things: list[Thing],
    road: Road,
    side: float,
    weather: Weather,
    leaves: list[int],
    materials: MaterialTable,
    palms: bool,
) -> None:
    """Lamps, trees and small furniture along the kerb."""
    kerb = road.left - 0.5 if side < 0 else road.right + 0.5
    pitch, first = rng.uniform(18, 32), rng.uniform(4, 20)
    lit = weather.lights_on and rng.random() < 0.9
    variant = 0.3 if weather.lamp[2] < 0.5 * weather.lamp[0] else 0.8
    if rng.random() < 0.75:
        for z in np.arange(first, 110.0, pitch):
            things.append(Furniture("lamp", kerb + float(road.shift(z)), z, side, variant, materials, lit))
    if rng.random() < 0.4:
        for z in np.arange(rng.uniform(5, 12), 90.0, rng.uniform(8, 16)):
            if road.crossing is None or not road.crossing - 2 < z < road.crossing + road.crossing_width + 2:
                things.append(_tree(rng, kerb + 0.4 * side + float(road.shift(z)), z, leaves, materials, palms, 0.7))
    for _ in range(int(rng.integers(0, 5))):
        kind = ("sign", "sign", "pole", "bin", "bin", "cabinet")[int(rng.integers(0, 6))]
        z = rng.uniform(5, 55)
        x = kerb + side * (0.2 + (1.0 if kind in ("bin", "cabinet") else 0.0) * rng.random()) + float(road.shift(z))
        things.append(Furniture(kind, x, z, side, rng.random(), materials))
    if road.crossing is not None and rng.random() < 0.5:
        things.append(Furniture("signal", kerb, road.crossing - 1.5, side, rng.random(), materials))


def _tree(
    rng: np.random.Generator,
    x: float,
    z: float,
    leaves: list[int],
    materials: MaterialTable,
    palms: bool,
    size: float = 1.0,
) -> Tree:
    u = rng.random(4)
    kind = "palm" if palms and u[0] < 0.5 else ("conifer" if u[0] > 0.82 else "round")
    height = size * (5.0 + 7.0 * u[1])
    return Tree(
        kind=kind,
        x=x,
        z=z,
        height=height,
        spread=height * ((0.35 if kind != "round" else 0.65) + 0.3 * u[2]),
        leaf=leaves[int(u[3] * 3)],
        trunk=materials["trunk"],
        seed=int(rng.integers(0, 2**31)),
    )


def _draw_traffic(
    rng: np.random.Generator, road: Road, weather: Weather, materials: MaterialTable, traffic: float
) -> list[Actor]:
    actors: list[Actor] = []
    taken: list[tuple[float, float, float]] = []

    def free(x: float, z: float, room: float) -> bool:
        if any(abs(x - a) < room + r and abs(z - b) < (room + r) * 1.3 for a, b, r in taken):
            return False
        taken.append((x, z, room))
        return True

    def many(mean: float, most: int) -> int:
        return min(int(rng.poisson(mean * traffic)), most)

    _driving_cars(rng, actors, road, weather, materials, free, many)
    _parked_cars(rng, actors, road, weather, materials, free, traffic)
    _people(rng, actors, road, weather, materials, free, many)
    _bicycles(rng, actors, road, weather, materials, free, many)
    return actors


def _car(rng: np.random.Generator, weather: Weather, materials: MaterialTable, **place: float | bool) -> Car:
    shape = ("saloon", "saloon", "hatch", "hatch", "estate", "suv", "suv", "suv", "van", "pickup")[
        int(rng.integers(0, 10))
    ]
    running = bool(place.get("running", True))
    return Car(
        shape=shape,
        paint_material=draw_car_paint(rng, materials),
        x=float(place["x"]),
        z=float(place["z"]),
        heading=float(place["heading"]),
        speed=float(place["speed"]),
        materials=materials,
        running=running,
        lights=bool(running and (weather.lights_on or rng.random() < 0.15)),
        braking=bool(rng.random() < 0.4),
        sway=float(place.get("sway", 0.0)),
        warm=float(rng.random() ** 1.5) if not running else 1.0,
    )


def _driving_cars(rng, actors, road, weather, materials, free, many) -> None:
    ahead, oncoming = many(0.9, 3), many(1.0, 3)
    lanes_own = [lane for lane in road.lanes if lane > road.centre]
    lanes_other = [lane for lane in road.lanes if lane < road.centre]
    for count, lanes, heading in ((ahead, lanes_own, 0.0), (oncoming, lanes_other, np.pi)):
        for _ in range(count):
            z = 7.0 + 48.0 * rng.random() ** 1.4
            x = lanes[int(rng.integers(0, len(lanes)))] + 0.25 * rng.standard_normal() + float(road.shift(z))
            slope = np.arctan(2.0 * road.bend * z)
            if free(x, z, 2.6):
                speed = 0.0 if heading == 0.0 else rng.uniform(0.0, 9.0)
                sway = rng.uniform(-1.5, 1.5) if heading == 0.0 else 0.0
                turn = heading + slope + 0.03 * rng.standard_normal()
                actors.append(_car(rng, weather, materials, x=x, z=z, heading=turn, speed=speed, sway=sway))
    if road.crossing is not None:
        for _ in range(many(0.8, 2)):
            side = 1.0 if rng.random() < 0.5 else -1.0
            z = road.crossing + road.crossing_width * (0.3 if side > 0 else 0.7)
            x = rng.uniform(-0.6, 0.6) * z
            if free(x, z, 2.6):
                heading = side * 0.5 * np.pi + (0.5 * rng.standard_normal() if rng.random() < 0.3 else 0.0)
                actors.append(_car(rng, weather, materials, x=x, z=z, heading=heading, speed=rng.uniform(0, 7)))


def _parked_cars(rng, actors, road, weather, materials, free, traffic) -> None:
    for side, width in ((-1.0, road.parking[0]), (1.0, road.parking[1])):
        if width == 0.0:
            continue
        edge = road.left if side < 0 else road.right
        fill, z = rng.uniform(0.15, 0.8) * min(traffic, 1.4), rng.uniform(5.5, 10.0)
        for _ in range(6):
            if z > 60.0:
                break
            blocked = road.crossing is not None and road.crossing - 6 < z < road.crossing + road.crossing_width + 6
            if not blocked and rng.random() < fill:
                x = edge - side * (0.5 * width + 0.1) + float(road.shift(z))
                if free(x, z, 2.0):
                    away = rng.random() < (0.85 if side > 0 else 0.15)
                    heading = (0.0 if away else np.pi) + 0.04 * rng.standard_normal()
                    running = bool(rng.random() < 0.12)
                    actors.append(_car(rng, weather, materials, x=x, z=z, heading=heading, speed=0.0, running=running))
            z += rng.uniform(5.6, 7.5)


def _people(rng, actors, road, weather, materials, free, many) -> None:
    def add(x: float, z: float, heading: float, speed: float) -> None:
        outfit = draw_outfit(rng, materials, weather.air_c)
        actors.append(Person(outfit, x, z, heading, speed, phase=rng.uniform(0, 2 * np.pi)))

    for _ in range(many(2.4, 6)):  # on the sidewalks
        side = -1.0 if rng.random() < 0.5 else 1.0
        width = road.sidewalk[0] if side < 0 else road.sidewalk[1]
        edge = road.left if side < 0 else road.right
        z = 5.0 + 40.0 * rng.random() ** 1.5
        x = edge + side * (0.5 + max(width - 0.8, 0.3) * rng.random()) + float(road.shift(z))
        if free(x, z, 0.3):
            along = 0.0 if rng.random() < 0.5 else np.pi
            add(x, z, along + 0.15 * rng.standard_normal(), rng.uniform(0.9, 1.6) if rng.random() < 0.75 else 0.0)
            if rng.random() < 0.3 and free(x + 0.62, z + 0.2, 0.2):
                add(x + 0.62, z + 0.2, along, actors[-1].speed)
    across = many(0.9, 3) + (many(1.2, 3) if road.zebra is not None else 0)
    for _ in range(across):
        z = (road.zebra + 3.0 * rng.random()) if road.zebra is not None else 6.0 + 28.0 * rng.random() ** 1.3
        x = rng.uniform(road.left, road.right) + float(road.shift(z))
        if free(x, z, 0.35):
            side = 1.0 if rng.random() < 0.5 else -1.0
            add(x, z, side * 0.5 * np.pi + 0.25 * rng.standard_normal(), rng.uniform(0.9, 1.7))
    if rng.random() < 0.2:  # a group that stands and talks
        side = -1.0 if rng.random() < 0.5 else 1.0
        z, x = rng.uniform(7, 25), (road.left - 1.3 if side < 0 else road.right + 1.3)
        for k in range(int(rng.integers(2, 5))):
            if free(x + 0.55 * k * side, z + 0.4 * (k % 2), 0.2):
                add(x + 0.55 * k * side, z + 0.4 * (k % 2), rng.uniform(0, 2 * np.pi), 0.0)


def _bicycles(rng, actors, road, weather, materials, free, many) -> None:
    def machine(x: float, z: float, heading: float, speed: float) -> Bicycle:
        u = rng.random(4)
        colour = np.clip(0.03 + 0.6 * u[:3] ** 2, 0.02, 0.8)
        frame = materials.add(
            Material((*(float(c) for c in colour), 0.3, 0.25), gloss=0.1, emissivity=0.88, sun_heat=7.0, night=-1.2)
        )
        warm = 3.5 * u[3] if speed > 0 else 0.0
        return Bicycle(frame, materials["tyre"], materials["plastic"], x, z, heading, speed, warm=warm)

    for _ in range(many(0.75, 3)):  # ridden
        z = 6.0 + 26.0 * rng.random() ** 1.2
        crossing = rng.random() < 0.45
        if crossing:
            x, heading = rng.uniform(road.left, road.right), (0.5 if rng.random() < 0.5 else -0.5) * np.pi
            heading += 0.3 * rng.standard_normal()
        else:
            side = 1.0 if rng.random() < 0.6 else -1.0
            x = (road.right - road.parking[1] - 0.6) if side > 0 else (road.left + road.parking[0] + 0.6)
            heading = (0.0 if side > 0 else np.pi) + 0.3 * rng.standard_normal()
        x += float(road.shift(z))
        if free(x, z, 0.8):
            speed = rng.uniform(2.0, 5.0)
            actors.append(machine(x, z, heading, speed))
            outfit = draw_outfit(rng, materials, weather.air_c)
            # The rider is painted just over the machine: a hand's breadth nearer.
            actors.append(Person(outfit, x, z - 0.02, heading, speed, phase=rng.uniform(0, 2 * np.pi), riding=True))
    for _ in range(many(0.55, 3)):  # parked
        side = -1.0 if rng.random() < 0.5 else 1.0
        z = 5.5 + 18.0 * rng.random()
        x = (road.left - 0.7 if side < 0 else road.right + 0.7) + 0.4 * side * rng.random() + float(road.shift(z))
        if free(x, z, 0.7):
            actors.append(machine(x, z, rng.uniform(0, 2 * np.pi), 0.0))
