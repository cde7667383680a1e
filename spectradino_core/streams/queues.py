"""Frames of one camera that wait for a partner, and pairs. Times are integers in nanoseconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

Payload = TypeVar("Payload")

_INTERVALS = 9


class Stream(str, Enum):
    """Camera of a frame."""

    RGB = "rgb"
    IR = "ir"

    @property
    def other(self) -> Stream:
        return Stream.IR if self is Stream.RGB else Stream.RGB


@dataclass(frozen=True)
class Frame(Generic[Payload]):
    """An accepted frame: its header stamp and payload."""

    stamp_ns: int
    payload: Payload
    time_ns: int
    """Stamp, or time to pair by, minus the infrared camera's constant offset."""
    arrival: int
    """Number of frames, of both streams, accepted before it."""


@dataclass(frozen=True)
class Pair(Generic[Payload]):
    """An RGB and an infrared frame.

    Attributes:
        rgb, ir: payloads.
        rgb_stamp_ns, ir_stamp_ns: header stamps.
        error_ns: IR time minus RGB time minus the constant offset; limited by the slop.
        time_ns: time of the RGB frame to pair by: its stamp or arrival time.
    """

    rgb: Payload
    ir: Payload
    rgb_stamp_ns: int
    ir_stamp_ns: int
    error_ns: int
    time_ns: int


@dataclass
class Queue(Generic[Payload]):
    """Frames of one stream without a partner, oldest first, and its periods."""

    frames: deque[Frame[Payload]] = field(default_factory=deque)
    last_ns: int | None = None
    last_arrival: int = -1
    intervals: deque[int] = field(default_factory=lambda: deque(maxlen=_INTERVALS))
    behind: list[int] = field(default_factory=list)
    in_past_loop: bool = False
    since_pair: int = 0

    @property
    def period_ns(self) -> int | None:
        """Median of the last intervals."""
        return sorted(self.intervals)[len(self.intervals) // 2] if self.intervals else None

    @property
    def min_period_ns(self) -> int | None:
        """Lower quartile of the last intervals: how soon a next frame may come."""
        return sorted(self.intervals)[len(self.intervals) // 4] if self.intervals else None

    def accept(self, frame: Frame[Payload]) -> None:
        if self.last_ns is not None:
            self.intervals.append(frame.time_ns - self.last_ns)
        self.last_ns, self.last_arrival = frame.time_ns, frame.arrival
        self.behind.clear()
        self.since_pair += 1
        self.frames.append(frame)

    def restart(self) -> None:
        self.last_ns = None
        self.intervals.clear()
        self.behind.clear()
        self.in_past_loop = False
