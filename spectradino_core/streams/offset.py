"""The constant by which the infrared camera's stamps are late, learnt from both streams while they run.

What can honestly be known, and what cannot:

- From the stamps alone, an offset shows only in how the infrared frames lie between the colour frames, so only modulo
  the colour camera's period, and only if the two cameras are triggered together (at equal rates or whole multiples).
  Of cameras that run freely the phase says nothing about the clocks; it drifts, or is spread, and is not used.
- The arrival times at this computer tell which of those whole periods it is, and for free-running cameras all there is
  to know: stamp minus arrival is the clock's offset minus the delay on the way, so what the cameras differ by is the
  offset plus the difference of their delays. Up to `plausible_delay_ms` it is taken to be delay, not offset; what is
  beyond may be either.

So an offset of 100 to 900 ms that differs from start to start is found: to about a millisecond with triggered cameras
whose delays differ by less than half a period, to the difference of delays with free-running ones. Whether it is an
offset at all, or frames that are long on their way, only images show: see `offset_control`.

There is no clock here: the same calls give the same offset. Times are integers in nanoseconds.
"""

from __future__ import annotations

import cmath
import math
from collections import deque
from dataclasses import dataclass

from spectradino_core.streams.queues import Stream

__all__ = ["LearntOffset", "OffsetLearner"]

_MS = 1_000_000
_LOCKED = 0.8
"""Least concentration of the phases (1: all equal, 0: spread evenly) of cameras that are triggered together."""
_DRIFT = 0.05  # of a period between the first and the second half of a window
_SLIPPED = 0.15  # of a period since the first window: they are not triggered together after all
_MISSED = 3  # windows in a row without a phase: likewise
_FAR_NS = 10_000 * _MS


@dataclass(frozen=True)
class LearntOffset:
    """What was learnt.

    Attributes:
        offset_ns: infrared stamp minus colour stamp of the same moment.
        confidence: 0 to 1: how sharply the phases agree for triggered cameras; for others how far the offset stands
            above what delays may explain (0: not at all).
        triggered: the cameras run in step, so that the offset is known within a period.
        frames: infrared frames it was learnt from.
        period_ns: the RGB camera's period, where they run in step; else 0.
    """

    offset_ns: int
    confidence: float
    triggered: bool
    frames: int
    period_ns: int = 0

    def near(self, reference_ns: int) -> int:
        """The offset nearest to a reference that the frames in step allow, whole periods being unknown."""
        if not self.period_ns:
            return self.offset_ns
        return self.offset_ns + self.period_ns * round((reference_ns - self.offset_ns) / self.period_ns)

    def __str__(self) -> str:
        how = "cameras in step" if self.triggered else "cameras not in step, from the arrival times"
        return f"{self.offset_ns / _MS:+.1f} ms ({how}; confidence {self.confidence:.2f}, {self.frames} frames)"


class OffsetLearner:
    """Learns the offset from windows of frames; see the module's head. Memory: one window of each stream."""

    def __init__(self, frames: int = 60, plausible_delay_ms: float = 100.0) -> None:
        """
        Args:
            frames: infrared frames of one window, at least 8.
            plausible_delay_ms: difference of the cameras' delays that is not taken for an offset, >= 0.

        Raises:
            ValueError: an argument is out of its range.
        """
        if frames < 8 or not plausible_delay_ms >= 0:
            raise ValueError(f"frames must be at least 8 and plausible_delay_ms at least 0, got {frames}")
        self.frames = frames
        self.plausible_ns = round(plausible_delay_ms * _MS)
        self.learnt: LearntOffset | None = None
        self._in_step = True
        self._anchor_ns: int | None = None
        self._base_ns = 0
        self._missed = 0
        self._rgb: deque[tuple[int, int]] = deque(maxlen=16 * frames)
        self._ir: list[tuple[int, int]] = []

    def push(self, stream: Stream | str, stamp_ns: int, arrival_ns: int) -> LearntOffset | None:
        """Notes a frame; gives the offset when a window is full and it is new or has changed by over a millisecond.

        Frames without a stamp, and those not newer than the one before, are passed over; after a jump of time the
        window begins anew and what was learnt stays.

        Args:
            stream: "rgb" or "ir".
            stamp_ns: the header stamp.
            arrival_ns: when the frame came to this computer, by a clock that both streams share.
        """
        frames = self._rgb if Stream(stream) is Stream.RGB else self._ir
        if stamp_ns <= 0:
            return None
        if frames and stamp_ns <= frames[-1][0]:
            if frames[-1][0] - stamp_ns > 500 * _MS:
                self._rgb.clear()
                self._ir.clear()
                frames.append((stamp_ns, arrival_ns))
            return None
        frames.append((stamp_ns, arrival_ns))
        if len(self._ir) < self.frames:
            return None
        found = self._estimate()
        self._ir.clear()
        self._rgb.clear()
        if found is None:
            return None
        known = self.learnt
        if known is not None and known.triggered == found.triggered and abs(found.offset_ns - known.offset_ns) <= _MS:
            return None
        self.learnt = found
        return found

    def reset(self) -> None:
        """Forgets everything."""
        self.learnt, self._in_step, self._anchor_ns, self._missed, self._base_ns = None, True, None, 0, 0
        self._rgb.clear()
        self._ir.clear()

    def _estimate(self) -> LearntOffset | None:
        if len(self._rgb) < 8:
            return None
        coarse = _lag(self._ir) - _lag(self._rgb)
        beyond = abs(coarse) > self.plausible_ns
        if not beyond:
            coarse = 0
        # Phases are measured near the RGB frames: over days of distance the least error of the period adds up.
        if abs(coarse - self._base_ns) > _FAR_NS:
            self._base_ns = coarse if abs(coarse) > _FAR_NS else 0
            self.learnt, self._in_step, self._anchor_ns, self._missed = None, True, None, 0
        locked = self._phase() if self._in_step else None
        if locked is not None:
            phase, period, confidence = locked
            self._missed = 0
            phase += self._base_ns
            offset = phase + period * round((coarse - phase) / period)
            if self._anchor_ns is None:
                self._anchor_ns = offset
            slip = (offset - self._anchor_ns) / period
            if abs(slip - round(slip)) <= _SLIPPED:
                if not beyond or abs(coarse - self._anchor_ns) <= self.plausible_ns:
                    offset -= round(slip) * period  # a whole period more or less is the arrival times' noise
                return LearntOffset(offset, confidence, True, len(self._ir), period)
            self._in_step = False  # the phase wanders: free-running at nearly equal rates
        known = self.learnt
        if locked is None and self._in_step and known is not None and known.triggered:
            self._missed += 1
            if self._missed < _MISSED:
                return known  # one disturbed window
            self._in_step = False
        if known is not None and not known.triggered and abs(coarse - known.offset_ns) <= self.plausible_ns:
            return known  # a constant, once found, does not follow the noise of delays
        confidence = 1 - self.plausible_ns / abs(coarse) if beyond else 0.0
        return LearntOffset(coarse, confidence, False, len(self._ir))

    def _phase(self) -> tuple[int, int, float] | None:
        """Where infrared frames lie between colour frames: (phase, colour period, concentration); None: nowhere."""
        stamps = [stamp for stamp, _ in self._rgb]
        steps = [b - a for a, b in zip(stamps, stamps[1:])]
        usual = sorted(steps)[len(steps) // 2]
        origin, period = _rhythm(stamps, usual)
        first = stamps[0] + self._base_ns
        turns = [cmath.exp(2j * math.pi * (stamp - first - origin) / period) for stamp, _ in self._ir]
        mean = sum(turns) / len(turns)
        half = len(turns) // 2
        drift = cmath.phase((sum(turns[half:]) * sum(turns[:half]).conjugate()) or 1) / (2 * math.pi)
        if abs(mean) < _LOCKED or abs(drift) > _DRIFT:
            return None
        # The median about the mean direction: jitter and a few lost frames don't move it.
        turn = cmath.phase(mean)
        rest = sorted(cmath.phase(t * cmath.exp(-1j * turn)) for t in turns)
        phase = (turn + rest[len(rest) // 2]) / (2 * math.pi) * period
        return round(phase), round(period), abs(mean)


def _rhythm(stamps: list[int], usual: int) -> tuple[float, float]:
    """(origin, period) of evenly spaced stamps by least squares, lost frames counted in; the origin is relative to the
    first stamp. Infrared frames far ahead of all colour frames are measured against it, so that neither the jitter of
    the newest stamp nor that of the first and last, on which the mean step rests, adds up to a drift."""
    places, place = [0], 0
    for before, after in zip(stamps, stamps[1:]):
        place += max(1, round((after - before) / usual))
        places.append(place)
    middle = sum(places) / len(places)
    mean = sum(s - stamps[0] for s in stamps) / len(stamps)
    centred = [p - middle for p in places]
    period = sum(c * (s - stamps[0]) for c, s in zip(centred, stamps)) / sum(c * c for c in centred)
    period = max(1.0, period)
    return mean - middle * period, period


def _lag(frames: deque[tuple[int, int]] | list[tuple[int, int]]) -> int:
    """Stamp minus arrival, median."""
    lags = sorted(stamp - arrival for stamp, arrival in frames)
    return lags[len(lags) // 2]
