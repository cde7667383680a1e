"""Scene layout: from a seed to a street with houses, trees, furniture, cars, people and bicycles.

Everything is drawn in metres, so a seed gives the same scene at any image size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.scenes.buildings import House, draw_wall_material
from spectradino_core.scenes.furniture import Furniture
from spectradino_core.scenes.materials import MaterialTable
from spectradino_core.scenes.plants import Hedge, Horizon, Tree, draw_leaf_material
from spectradino_core.scenes.street import Road
from spectradino_core.scenes.traffic import Actor, draw_traffic
from spectradino_core.scenes.weather import Weather, draw_weather

Thing = House | Tree | Hedge | Horizon | Furniture


@dataclass(frozen=True)
class View:
    """Camera view: focal length and principal column in image widths, horizon in image heights, eye height in metres,
    roll in radians, ego speed in metres per second, stopping distance in metres."""

    focal: float
    horizon: float
    column: float
    eye_height: float
    roll: float
    speed: float
    way: float

    def travelled(self, t: float) -> float:
        """Return the ego car's distance travelled at time t; it slows to a halt within `way`."""
        return self.way * (1.0 - float(np.exp(-self.speed * t / self.way))) if self.way > 0.0 else 0.0


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
    """Draw the street of a seed; each part has its own generator, so an extra draw changes nothing else."""
    sky, plan, sides, crowd = (np.random.default_rng([seed, k]) for k in range(4))
    weather = draw_weather(sky, time_of_day)
    materials = MaterialTable()
    u = plan.random(8)
    road = _draw_road(plan)
    things = _Roadside(sides, road, weather, materials).things
    actors = draw_traffic(crowd, road, weather, materials, traffic)
    # Obstacles in the ego car's path limit how far it may roll.
    ahead = [actor.z for actor in actors if abs(actor.x) < 2.5]
    view = View(
        focal=0.72 + 0.62 * u[0],
        horizon=0.36 + 0.2 * u[1],
        column=0.5 + 0.16 * (u[2] - 0.5),
        eye_height=1.2 + 0.6 * u[3],
        roll=np.deg2rad(3.0) * (u[4] - 0.5),
        speed=0.0 if u[5] < 0.5 else 1.4 * u[6],
        way=float(np.clip(min(ahead, default=20.0) - 9.0, 0.0, 10.0)),
    )
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


class _Roadside:
    """Things beside the road."""

    def __init__(self, rng: np.random.Generator, road: Road, weather: Weather, materials: MaterialTable) -> None:
        self.rng, self.road, self.weather, self.materials = rng, road, weather, materials
        self.urban = rng.random()
        self.leaves = [draw_leaf_material(rng, materials) for _ in range(3)]
        self.walls = [draw_wall_material(rng, materials) for _ in range(5)]
        self.things: list[Thing] = [self._horizon()]
        lit_fraction = {"day": 0.0, "dusk": 0.3, "night": 0.35}[weather.time_of_day] * rng.random()
        self.lit_fraction = float(lit_fraction)
        self.palms = weather.air_c > 16 and rng.random() < 0.35
        for side in (-1.0, 1.0):
            self._plots(side)
            self._kerbside(side)

    def _horizon(self) -> Horizon:
        rng = self.rng
        height = 22.0 * rng.random() ** 2
        hills = 6.0 + height * (1.0 + np.sin(np.linspace(0, 7, 60) * (0.5 + rng.random()) + 6 * rng.random()))
        hills = hills + 1.6 * rng.standard_normal(60).cumsum() * 0.25 + 0.5 * rng.standard_normal(60)
        count = int(rng.integers(0, 14)) if self.urban > 0.4 else 0
        skyline = np.column_stack(
            [rng.uniform(-220, 220, count), rng.uniform(10, 35, count), rng.uniform(12, 50, count)]
        )
        return Horizon(self.leaves[0], self.walls[0], np.maximum(hills, 2.0), skyline)

    def _plots(self, side: float) -> None:
        """Add houses, hedges and trees behind the sidewalk."""
        rng, road, urban = self.rng, self.road, self.urban
        edge = road.edge(side, road.sidewalk[0] if side < 0 else road.sidewalk[1])
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
            x = edge + side * (0.3 + (0.0 if urban > 0.6 else 6.0 * rng.random())) + road.shift(z + 0.5 * length)
            kind = rng.random()
            if kind < 0.2 + 0.6 * urban:
                self.things.append(self._house(side, x, z, length))
            else:
                if kind > 0.55:
                    height = rng.uniform(0.7, 2.4)
                    self.things.append(Hedge(x, z, z + length, height, self.leaves[1], int(rng.integers(0, 2**31))))
                for _ in range(int(rng.integers(1, 4))):
                    self._tree(x + side * rng.uniform(0.5, 9.0), z + length * rng.random())
            z += length + (rng.uniform(0.0, 1.0) if urban > 0.7 else rng.uniform(0.5, 7.0))

    def _house(self, side: float, x: float, z: float, length: float) -> House:
        rng, urban = self.rng, self.urban
        floors = int(rng.integers(1, 4)) + (int(rng.integers(0, 5)) if urban > 0.65 else 0)
        return House(
            side=side,
            x=x,
            z1=z,
            z2=z + length,
            depth=rng.uniform(7.0, 14.0),
            height=3.0 * floors + rng.uniform(0.3, 1.2),
            wall=self.walls[int(rng.integers(0, 5))],
            materials=self.materials,
            floors=floors,
            gable=rng.uniform(1.5, 3.5) if floors < 4 and rng.random() < 0.6 else 0.0,
            lit=self.lit_fraction,
            shop=bool(rng.random() < 0.6 * urban),
            seed=int(rng.integers(0, 2**31)),
        )

    def _kerbside(self, side: float) -> None:
        """Add lamps, trees and small furniture along the kerb."""
        rng, road, materials = self.rng, self.road, self.materials
        kerb = road.edge(side, 0.5)
        pitch, first = rng.uniform(18, 32), rng.uniform(4, 20)
        lit = self.weather.lights_on and rng.random() < 0.9
        variant = 0.3 if self.weather.lamp[2] < 0.5 * self.weather.lamp[0] else 0.8
        if rng.random() < 0.75:
            for z in np.arange(first, 110.0, pitch):
                self.things.append(Furniture("lamp", kerb + road.shift(z), z, side, variant, materials, lit))
        if rng.random() < 0.4:
            for z in np.arange(rng.uniform(5, 12), 90.0, rng.uniform(8, 16)):
                if not road.near_crossing(z, 2):
                    self._tree(kerb + 0.4 * side + road.shift(z), z, 0.7)
        for _ in range(int(rng.integers(0, 5))):
            kind = ("sign", "sign", "pole", "bin", "bin", "cabinet")[int(rng.integers(0, 6))]
            z = rng.uniform(5, 55)
            x = kerb + side * (0.2 + (1.0 if kind in ("bin", "cabinet") else 0.0) * rng.random()) + road.shift(z)
            self.things.append(Furniture(kind, x, z, side, rng.random(), materials))
        if road.crossing is not None and rng.random() < 0.5:
            self.things.append(Furniture("signal", kerb, road.crossing - 1.5, side, rng.random(), materials))

    def _tree(self, x: float, z: float, size: float = 1.0) -> None:
        u = self.rng.random(4)
        kind = "palm" if self.palms and u[0] < 0.5 else ("conifer" if u[0] > 0.82 else "round")
        height = size * (5.0 + 7.0 * u[1])
        spread = height * ((0.35 if kind != "round" else 0.65) + 0.3 * u[2])
        leaf, trunk = self.leaves[int(u[3] * 3)], self.materials["trunk"]
        self.things.append(Tree(kind, x, z, height, spread, leaf, trunk, int(self.rng.integers(0, 2**31))))
