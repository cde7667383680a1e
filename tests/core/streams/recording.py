"""Two simulated cameras for tests of the pairer: stamps, delays, and the optimal pairing."""

from __future__ import annotations

import random
from dataclasses import dataclass

from spectradino_core.streams.pairing import Pair, Pairer

MS = 1_000_000
START = 1_700_000_000_000  # milliseconds: stamps as large as real ones


def push(pairer: Pairer, *frames: tuple[str, float]) -> list[tuple[float, float]]:
    """Push (stream, milliseconds after START); returns the pairs' stamps in the same unit."""
    pairs = []
    for stream, at in frames:
        pairs += pairer.push(stream, round((START + at) * MS), (stream, at))
    return stamps(pairs)


def stamps(pairs: list[Pair]) -> list[tuple[float, float]]:
    return [(pair.rgb_stamp_ns / MS - START, pair.ir_stamp_ns / MS - START) for pair in pairs]


@dataclass
class Recording:
    """Stamps of both cameras in milliseconds, and the delay of each stream."""

    rgb: list[float]
    ir: list[float]
    rgb_delay: float = 0.0
    ir_delay: float = 0.0

    def arrivals(self) -> list[tuple[float, str, float]]:
        return sorted(
            [(t + self.rgb_delay, "rgb", t) for t in self.rgb] + [(t + self.ir_delay, "ir", t) for t in self.ir]
        )

    def play(self, pairer: Pairer) -> list[Pair]:
        pairs = []
        for _, stream, stamp in self.arrivals():
            pairs += pairer.push(stream, round(stamp * MS), stamp)
        return pairs + pairer.flush()


def camera(rate: float, seconds: float, phase: float, jitter: float, lost: float, rng: random.Random) -> list[float]:
    """Return stamps in milliseconds of a camera at `rate` Hz with jitter and lost frames."""
    period, out, last = 1000 / rate, [], START
    for i in range(int(rate * seconds)):
        last = max(last + 1, START + phase + i * period + rng.uniform(-jitter, jitter))
        if rng.random() >= lost:
            out.append(round(last, 6))
    return out


def best_matching(a: list[float], b: list[float], slop: float) -> tuple[int, float]:
    """Return the maximum number of ordered pairs with the minimum mean distance, by dynamic programming."""
    table = [[(0, 0.0)] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, at in enumerate(a, 1):
        for j, bt in enumerate(b, 1):
            choice = max(table[i - 1][j], table[i][j - 1])
            if abs(at - bt) <= slop:
                count, gain = table[i - 1][j - 1]
                choice = max(choice, (count + 1, gain - abs(at - bt)))
            table[i][j] = choice
    count, gain = table[-1][-1]
    return count, -gain / max(count, 1)


def mean_error(pairs: list[Pair]) -> float:
    return sum(abs(pair.error_ns) for pair in pairs) / MS / max(len(pairs), 1)
