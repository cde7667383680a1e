"""Actors of a scene: driving and parked cars, people on sidewalks and road, bicycles and their riders."""

from __future__ import annotations

import numpy as np

from spectradino_core.scenes.cars import Car, draw_car_paint
from spectradino_core.scenes.materials import MaterialTable
from spectradino_core.scenes.people import Bicycle, Person, draw_outfit
from spectradino_core.scenes.street import Road
from spectradino_core.scenes.weather import Weather

Actor = Person | Bicycle | Car

_SHAPE_DRAW = ("saloon", "saloon", "hatch", "hatch", "estate", "suv", "suv", "suv", "van", "pickup")


def draw_traffic(
    rng: np.random.Generator, road: Road, weather: Weather, materials: MaterialTable, traffic: float
) -> list[Actor]:
    """Draw the actors of a scene, with instances numbered from 1; `traffic` scales their number."""
    crowd = _Crowd(rng, road, weather, materials, traffic)
    crowd.driving_cars()
    crowd.parked_cars()
    crowd.people()
    crowd.bicycles()
    for number, actor in enumerate(crowd.actors, start=1):
        actor.instance = number
    return crowd.actors


class _Crowd:
    """Actors placed so far and the space they occupy."""

    def __init__(
        self, rng: np.random.Generator, road: Road, weather: Weather, materials: MaterialTable, traffic: float
    ) -> None:
        self.rng, self.road, self.weather, self.materials, self.traffic = rng, road, weather, materials, traffic
        self.actors: list[Actor] = []
        self._taken: list[tuple[float, float, float]] = []

    def driving_cars(self) -> None:
        rng, road = self.rng, self.road
        own = [lane for lane in road.lanes if lane > road.centre]
        other = [lane for lane in road.lanes if lane < road.centre]
        for count, lanes, heading in ((self._poisson(0.9, 3), own, 0.0), (self._poisson(1.0, 3), other, np.pi)):
            for _ in range(count):
                z = 7.0 + 48.0 * rng.random() ** 1.4
                x = lanes[int(rng.integers(0, len(lanes)))] + 0.25 * rng.standard_normal() + road.shift(z)
                if self._free(x, z, 2.6):
                    turn = heading + np.arctan(2.0 * road.bend * z) + 0.03 * rng.standard_normal()
                    if heading == 0.0:
                        self._car(x, z, turn, sway=rng.uniform(-1.5, 1.5))
                    else:
                        self._car(x, z, turn, speed=rng.uniform(0.0, 9.0))
        if road.crossing is not None:
            for _ in range(self._poisson(0.8, 2)):
                side = -self._side()
                z = road.crossing + road.crossing_width * (0.3 if side > 0 else 0.7)
                x = rng.uniform(-0.6, 0.6) * z
                if self._free(x, z, 2.6):
                    heading = side * 0.5 * np.pi + (0.5 * rng.standard_normal() if rng.random() < 0.3 else 0.0)
                    self._car(x, z, heading, speed=rng.uniform(0, 7))

    def parked_cars(self) -> None:
        rng, road = self.rng, self.road
        for side, width in ((-1.0, road.parking[0]), (1.0, road.parking[1])):
            if width == 0.0:
                continue
            fill, z = rng.uniform(0.15, 0.8) * min(self.traffic, 1.4), rng.uniform(5.5, 10.0)
            across = rng.random() < 0.15
            for _ in range(6):
                if z > 60.0:
                    break
                if not road.near_crossing(z, 6) and rng.random() < fill:
                    x = road.edge(side, -(0.5 * width + 0.1)) + road.shift(z)
                    if self._free(x, z, 2.0):
                        away = rng.random() < (0.85 if side > 0 else 0.15)
                        heading = (0.0 if away else np.pi) + 0.04 * rng.standard_normal()
                        if across:  # nose to the kerb, or backed in
                            heading = side * (0.5 if away else -0.5) * np.pi + 0.25 * rng.standard_normal()
                        self._car(x, z, heading, running=bool(rng.random() < 0.12))
                z += rng.uniform(5.6, 7.5)

    def people(self) -> None:
        rng, road = self.rng, self.road
        for _ in range(self._poisson(3.4, 7)):  # on the sidewalks
            side = self._side()
            width = road.sidewalk[0] if side < 0 else road.sidewalk[1]
            z = 5.0 + 50.0 * rng.random() ** 1.5
            x = road.edge(side, 0.5 + max(width - 0.8, 0.3) * rng.random()) + road.shift(z)
            if self._free(x, z, 0.3):
                along = 0.0 if rng.random() < 0.5 else np.pi
                speed = rng.uniform(0.9, 1.6) if rng.random() < 0.75 else 0.0
                self._person(x, z, along + 0.15 * rng.standard_normal(), speed)
                if rng.random() < 0.3 and self._free(x + 0.62, z + 0.2, 0.2):
                    self._person(x + 0.62, z + 0.2, along, speed)
        # across the road
        for _ in range(self._poisson(1.3, 3) + (self._poisson(1.2, 3) if road.zebra is not None else 0)):
            z = (road.zebra + 3.0 * rng.random()) if road.zebra is not None else 6.0 + 28.0 * rng.random() ** 1.3
            x = rng.uniform(road.left, road.right) + road.shift(z)
            if self._free(x, z, 0.35):
                self._person(x, z, -self._side() * 0.5 * np.pi + 0.25 * rng.standard_normal(), rng.uniform(0.9, 1.7))
        if rng.random() < 0.2 * min(self.traffic, 1.0):  # a standing group
            side = self._side()
            z, x = rng.uniform(7, 25), road.edge(side, 1.3)
            for k in range(int(rng.integers(2, 5))):
                if self._free(x + 0.55 * k * side, z + 0.4 * (k % 2), 0.2):
                    self._person(x + 0.55 * k * side, z + 0.4 * (k % 2), rng.uniform(0, 2 * np.pi), 0.0)

    def bicycles(self) -> None:
        rng, road = self.rng, self.road
        for _ in range(self._poisson(1.4, 3)):  # ridden
            z = 6.0 + 26.0 * rng.random() ** 1.2
            if rng.random() < 0.45:  # across
                x, heading = rng.uniform(road.left, road.right), -0.5 * self._side() * np.pi
            else:
                ahead = rng.random() < 0.6
                x = (road.right - road.parking[1] - 0.6) if ahead else (road.left + road.parking[0] + 0.6)
                heading = 0.0 if ahead else np.pi
            heading += 0.3 * rng.standard_normal()
            x += road.shift(z)
            if self._free(x, z, 0.8):
                speed = rng.uniform(2.0, 5.0)
                self._bicycle(x, z, heading, speed)
                # The rider is slightly nearer, so that it is painted over the bicycle.
                self._person(x, z - 0.02, heading, speed, riding=True)
        for _ in range(self._poisson(1.1, 3)):  # parked
            side = self._side()
            z = 6.0 + 24.0 * rng.random()
            x = road.edge(side, 0.7) + 0.4 * side * rng.random() + road.shift(z)
            if self._free(x, z, 0.7):
                self._bicycle(x, z, rng.uniform(0, 2 * np.pi), 0.0)

    def _free(self, x: float, z: float, clearance: float) -> bool:
        """Return whether the place is free, and reserve it if so."""
        if any(abs(x - a) < clearance + r and abs(z - b) < (clearance + r) * 1.3 for a, b, r in self._taken):
            return False
        self._taken.append((x, z, clearance))
        return True

    def _side(self) -> float:
        return -1.0 if self.rng.random() < 0.5 else 1.0

    def _poisson(self, mean: float, max_count: int) -> int:
        return min(int(self.rng.poisson(mean * self.traffic)), max_count)

    def _person(self, x: float, z: float, heading: float, speed: float, riding: bool = False) -> None:
        outfit = draw_outfit(self.rng, self.materials, self.weather.air_c)
        phase = self.rng.uniform(0, 2 * np.pi)
        self.actors.append(Person(outfit, x, z, heading, speed, phase, riding=riding))

    def _bicycle(self, x: float, z: float, heading: float, speed: float) -> None:
        u = self.rng.random(4)
        colour = np.clip(0.03 + 0.6 * u[:3] ** 2, 0.02, 0.8)
        m = self.materials
        frame = m.add(colour, 0.3, 0.25, gloss=0.1, emissivity=0.88, sun_heat=7.0, night=-1.2, grain=0.05)
        warm = 3.5 * float(u[3]) if speed > 0 else 0.0
        self.actors.append(Bicycle(frame, m["tyre"], m["plastic"], x, z, heading, speed, warm=warm))

    def _car(
        self, x: float, z: float, heading: float, speed: float = 0.0, sway: float = 0.0, running: bool = True
    ) -> None:
        rng = self.rng
        u = rng.random(4)
        self.actors.append(
            Car(
                shape=_SHAPE_DRAW[int(rng.integers(0, len(_SHAPE_DRAW)))],
                paint_material=draw_car_paint(rng, self.materials),
                x=x,
                z=z,
                heading=heading,
                speed=speed,
                materials=self.materials,
                running=running,
                lights=bool(running and (self.weather.lights_on or u[0] < 0.15)),
                braking=bool(u[1] < 0.4),
                sway=sway,
                warm=1.0 if running else float(u[2] ** 1.5),
                cabin=float(6.0 * u[3] - 1.0) if running else float(-1.5 * u[3]),
            )
        )
