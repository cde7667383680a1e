"""A feed with a clock in milliseconds, and simulated cameras, for tests of the feed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from spectradino_core.streams.feed import Capture, Feed
from spectradino_core.streams.settings import Settings
from tests.core.streams.scene import Shot

__all__ = ["IMAGES", "MS", "START", "Rig", "camera", "play", "real_errors"]

MS = 1_000_000
START = 1_700_000_000_000
"""Milliseconds: stamps as large as real ones; arrivals count from 0."""

IMAGES = [np.random.default_rng(i).integers(0, 4000, (32, 40)).astype(np.uint16) for i in range(50)]


class Rig:
    """A feed with a clock in milliseconds, used like the node or a replay."""

    def __init__(self, **asked) -> None:
        self.feed: Feed[tuple[str, float]] = Feed(Settings(**asked), 0)
        self.captures: list[Capture] = []
        self.pushed = 0
        self.modes: list[tuple[float, str]] = []
        self.lines: list[str] = []

    def push(self, stream: str, stamp: float, arrival: float | None = None, image: int | None = None) -> list[Capture]:
        arrival = stamp if arrival is None else arrival
        pixels = IMAGES[(self.pushed if image is None else image) % len(IMAGES)]
        self.pushed += 1
        got = self.feed.frame(
            stream, round((START + stamp) * MS) if stamp >= 0 else 0, round(arrival * MS), (stream, stamp), pixels
        )
        return self._note(got)

    def watch(self, now: float) -> list[Capture]:
        return self._note(self.feed.watch(round(now * MS)))

    def _note(self, captures: list[Capture]) -> list[Capture]:
        self.captures += captures
        for event in self.feed.take_events():
            self.lines.append(event.text)
            if event.change is not None:
                self.modes.append((event.time_ns / MS, event.change.mode.value))
        return captures

    def run(self, frames: list[tuple[float, str, float]]) -> Rig:
        for arrival, stream, stamp in sorted(frames):
            self.push(stream, stamp, arrival)
        return self

    @property
    def counts(self) -> dict[str, int]:
        counts = dict.fromkeys(("fused", "rgb_only", "ir_only"), 0)
        for capture in self.captures:
            counts[capture.mode.value] += 1
        return counts


def camera(stream: str, first: float, last: float, period: float, delay: float = 0.0) -> list[tuple[float, str, float]]:
    return [(t + delay, stream, t) for t in np.arange(first, last, period).tolist()]


def play(rig: Rig, frames: Iterable[Shot]) -> Rig:
    """Feed rendered frames; payloads are the stream and the true time."""
    for shot in frames:
        payload = (shot.stream, shot.seen_ms)
        rig._note(rig.feed.frame(shot.stream, shot.stamp_ns, shot.arrival_ns, payload, shot.look))
    return rig


def real_errors(rig: Rig, after_ms: float = 0.0) -> list[float]:
    """Return the true time difference of the frames of each pair in milliseconds."""
    return [c.ir[1] - c.rgb[1] for c in rig.captures if c.rgb and c.ir and c.rgb[1] >= after_ms]
