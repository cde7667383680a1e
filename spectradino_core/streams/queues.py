"""One camera's frames that wait for a partner, and what two of them become. Times are integers in nanoseconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

__all__ = ["Frame", "Pair", "Payload", "Queue", "Stream"]

Payload = TypeVar("Payload")

_INTERVALS = 9


class Stream(str, Enum):
    """Which camera a frame is from."""

    RGB = "rgb"
    IR = "ir"

    @property
    def other(self) -> Stream:
        return Stream.IR if self is Stream.RGB else Stream.RGB


@dataclass(frozen=True)
class Frame(Generic[Payload]):
    """A frame that was accepted: its stamp, as in its header, and what was pushed with it."""

    stamp_ns: int
    payload: Payload
    time_ns: int
    """The stamp, or the time paired by in its place, with the infrared camera's constant offset taken out."""
    arrival: int
    """How many frames, of both streams, were accepted before it."""


@dataclass(frozen=True)
class Pair(Generic[Payload]):
    """Two frames taken at one time.

    Attributes:
        rgb, ir: what was pushed.
        rgb_stamp_ns, ir_stamp_ns: the stamps as in the headers.
        offset_ns: infrared stamp minus colour stamp, as in the headers.
        error_ns: the same after the constant offset is subtracted; limited by the slop.
        reused: the infrared frame was in an earlier pair.
    """

    rgb: Payload
    ir: Payload
    rgb_stamp_ns: int
    ir_stamp_ns: int
    error_ns: int
    reused: bool = False

    @property
    def offset_ns(self) -> int:
        return self.ir_stamp_ns - self.rgb_stamp_ns


@dataclass
class Queue(Generic[Payload]):
    """One stream's frames without a partner yet, oldest first, and what is known of its rhythm."""

    frames: deque[Frame[Payload]] = field(default_factory=deque)
    last_ns: int | None = None
    last_arrival: int = -1
    intervals: deque[int] = field(default_factory=lambda: deque(maxlen=_INTERVALS))
    behind: list[int] = field(default_factory=list)
    in_past_loop: bool = False
    since_pair: int = 0

    @property
    def period_ns(self) -> int | None:
        """The usual time from frame to frame: the median of the last intervals."""
        return sorted(self.intervals)[len(self.intervals) // 2] if self.intervals else None

    @property
    def least_period_ns(self) -> int | None:
        """How soon a next frame is to be reckoned with: the lower quartile of the last intervals."""
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
