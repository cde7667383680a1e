"""Two cameras of different bands before moving objects: small images at any time, and streams of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

__all__ = ["MS", "START_MS", "Shot", "shots", "view"]

MS = 1_000_000
START_MS = 1_700_000_000_000
SIZE = (128, 96)
_THINGS = 7


def view(
    stream: str, at_ms: float, seed: int = 0, size: tuple[int, int] = SIZE, noise_ms: float | None = None
) -> np.ndarray:
    """Render the image of the camera "rgb" (uint8 [h, w, 3]) or "ir" (uint16 [h, w]); contrasts differ by band.

    Args:
        stream: the camera.
        at_ms: time of the image.
        seed: seed of the scene.
        size: (width, height).
        noise_ms: time whose noise is used; None: `at_ms`.
    """
    image = np.full((size[1], size[0]), 110, np.uint8)
    cv2.rectangle(image, (size[0] // 3, 0), (size[0] // 2, size[1]), 150, cv2.FILLED)
    for periods, phases, width, height, shade, heat in _things(seed):
        swing = np.sin(2 * np.pi * at_ms / periods + phases).sum(axis=1) / 3
        left, top = ((0.5 + 0.48 * swing) * size).astype(int).tolist()
        corner = (left + width * size[0] // 160, top + height * size[0] // 160)
        cv2.rectangle(image, (left, top), corner, shade if stream == "rgb" else heat, cv2.FILLED)
    number = round((at_ms if noise_ms is None else noise_ms) * 7) + (stream == "ir")
    image = cv2.add(image, np.roll(_noise(size), number * 37))
    return cv2.merge([image] * 3) if stream == "rgb" else 7000 + 20 * image.astype(np.uint16)


@lru_cache
def _things(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.uniform(900, 5000, (2, 3)),
            rng.uniform(0, 2 * np.pi, (2, 3)),
            int(rng.integers(6, 16)),
            int(rng.integers(6, 16)),
            float(rng.uniform(0, 90)),
            float(rng.uniform(190, 245)),
        )
        for _ in range(_THINGS)
    ]


@lru_cache
def _noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 7, size[::-1]).astype(np.uint8)


@dataclass(frozen=True)
class Shot:
    """One frame as given to a feed."""

    stream: str
    seen_ms: float
    stamp_ns: int
    arrival_ns: int
    look: Callable[[], np.ndarray]


def shots(
    seconds: float,
    offset_ms: float = 0.0,
    rates: tuple[float, float] = (30.0, 30.0),
    delays_ms: tuple[float, float] = (20.0, 20.0),
    phase_ms: float = 0.0,
    jitter_ms: float = 0.3,
    seed: int = 0,
    start_ms: tuple[float, float] = (START_MS, START_MS),
    moving: bool = True,
    first_ms: float = 0.0,
) -> Iterator[Shot]:
    """Return both cameras' frames in order of arrival.

    Args:
        seconds: duration.
        offset_ms: delay of the infrared stamps.
        rates: rates of both cameras [Hz].
        delays_ms: from exposure to arrival.
        phase_ms: delay of the infrared exposures.
        jitter_ms: standard deviation of the exposure times.
        seed: seed of jitter and scene.
        start_ms: each camera's clock at the beginning.
        moving: objects move.
        first_ms: the scene's time at the beginning.
    """
    rng = random.Random(seed)
    made = []
    for place, stream in enumerate(("rgb", "ir")):
        for number in range(round(seconds * rates[place])):
            seen = first_ms + 1000 * number / rates[place] + place * phase_ms + rng.gauss(0, jitter_ms)
            stamp_ns = round((start_ms[place] + seen + place * offset_ms) * MS)
            arrival = 100 + seen + delays_ms[place] + rng.expovariate(1 / 3)
            at = seen if moving else 0.0

            def look(stream: str = stream, at: float = at, seen: float = seen) -> np.ndarray:
                return view(stream, at, seed, noise_ms=seen)

            made.append(Shot(stream, seen, stamp_ns, round(arrival * MS), look))
    yield from sorted(made, key=lambda shot: shot.arrival_ns)
