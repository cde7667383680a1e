"""Estimate the constant delay of the IR stamps online, from stamps and times of arrival.

- Stamps alone show the offset only as the phase of the IR frames between the RGB frames, so modulo the RGB period, and
  only if both cameras are triggered together (at equal rates or integer multiples). The phase of free-running cameras
  has no relation to their clocks; it drifts or is spread, and is not used.
- Times of arrival select the period, and are the only source for free-running cameras: stamp minus arrival is the clock
  offset minus the transport delay, so the cameras differ by the offset plus the difference of their delays. Up to
  `plausible_delay_ms` the difference is taken as delay; beyond, it may be either.

So an offset of 100 to 900 ms that differs between starts is found with an error of about 1 ms for triggered cameras
whose delays differ by less than half a period, and with an error of the difference of delays for free-running ones.
Only images show whether it is an offset or a transport delay: see `offset_control`.

Nothing here reads a clock: the same calls give the same offset. Times are integers in nanoseconds.
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
"""Minimum concentration of the phases (1: equal, 0: evenly spread) of cameras triggered together."""
_DRIFT = 0.05  # of a period between the first and the second half of a window
_SLIPPED = 0.15  # of a period since the first window: not triggered together
_MISSED = 3  # consecutive windows without a phase: not triggered together
_FAR_NS = 10_000 * _MS


@dataclass(frozen=True)
class LearntOffset:
    """Estimated offset of the IR stamps.

    Attributes:
        offset_ns: IR stamp minus RGB stamp of the same moment.
        confidence: 0 to 1: concentration of the phases for triggered cameras; for others how far the offset exceeds
            plausible delays (0: not at all).
        triggered: whether the cameras are triggered together, so that the offset is known within a period.
        frames: number of IR frames used.
        period_ns: period of the RGB camera if triggered together, else 0.
    """

    offset_ns: int
    confidence: float
    triggered: bool
    frames: int
    period_ns: int = 0

    def near(self, reference_ns: int) -> int:
        """Return the offset nearest to a reference, as it is known modulo the period only."""
        if not self.period_ns:
            return self.offset_ns
        return self.offset_ns + self.period_ns * round((reference_ns - self.offset_ns) / self.period_ns)

    def __str__(self) -> str:
        how = "cameras in step" if self.triggered else "cameras not in step, from the arrival times"
        return f"{self.offset_ns / _MS:+.1f} ms ({how}; confidence {self.confidence:.2f}, {self.frames} frames)"


class OffsetLearner:
    """Online estimator of the offset from windows of frames, see the module docstring."""

    def __init__(self, frames: int = 60, plausible_delay_ms: float = 100.0) -> None:
        """
        Args:
            frames: IR frames per window, at least 8.
            plausible_delay_ms: maximum difference of the cameras' delays, at least 0; more counts as an offset.

        Raises:
            ValueError: an argument is out of range.
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
        """Add a frame.

        Frames without a stamp and frames not newer than the previous one are ignored; a time jump starts a new window
        and keeps the estimate.

        Args:
            stream: "rgb" or "ir".
            stamp_ns: header stamp.
            arrival_ns: time of arrival, by one clock for both streams.

        Returns:
            The offset at the end of a window if it is new or has changed by more than 1 ms, else None.
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
        """Discard all frames and the estimate."""
        self.learnt, self._in_step, self._anchor_ns, self._missed, self._base_ns = None, True, None, 0, 0
        self._rgb.clear()
        self._ir.clear()

    def _estimate(self) -> LearntOffset | None:
        if len(self._rgb) < 8:
            return None
        difference = _lag(self._ir) - _lag(self._rgb)
        beyond = abs(difference) > self.plausible_ns
        if not beyond:
            difference = 0
        # Phases are measured near the RGB frames, because an error of the period adds up over large offsets.
        if abs(difference - self._base_ns) > _FAR_NS:
            self._base_ns = difference if abs(difference) > _FAR_NS else 0
            self.learnt, self._in_step, self._anchor_ns, self._missed = None, True, None, 0
        locked = self._phase() if self._in_step else None
        if locked is not None:
            phase, period, confidence = locked
            self._missed = 0
            phase += self._base_ns
            offset = phase + period * round((difference - phase) / period)
            if self._anchor_ns is None:
                self._anchor_ns = offset
            slip = (offset - self._anchor_ns) / period
            if abs(slip - round(slip)) <= _SLIPPED:
                if not beyond or abs(difference - self._anchor_ns) <= self.plausible_ns:
                    offset -= round(slip) * period  # whole periods are noise of the arrival times
                return LearntOffset(offset, confidence, True, len(self._ir), period)
            self._in_step = False  # the phase drifts: free-running at nearly equal rates
        known = self.learnt
        if locked is None and self._in_step and known is not None and known.triggered:
            self._missed += 1
            if self._missed < _MISSED:
                return known  # one disturbed window
            self._in_step = False
        if known is not None and not known.triggered and abs(difference - known.offset_ns) <= self.plausible_ns:
            return known  # a found constant does not follow the noise of delays
        confidence = 1 - self.plausible_ns / abs(difference) if beyond else 0.0
        return LearntOffset(difference, confidence, False, len(self._ir))

    def _phase(self) -> tuple[int, int, float] | None:
        """Return (IR phase, RGB period, concentration of the phase), None if it is not stable."""
        stamps = [stamp for stamp, _ in self._rgb]
        steps = [b - a for a, b in zip(stamps, stamps[1:])]
        usual = sorted(steps)[len(steps) // 2]
        origin, period = _fit_period(stamps, usual)
        first = stamps[0] + self._base_ns
        turns = [cmath.exp(2j * math.pi * (stamp - first - origin) / period) for stamp, _ in self._ir]
        mean = sum(turns) / len(turns)
        half = len(turns) // 2
        drift = cmath.phase((sum(turns[half:]) * sum(turns[:half]).conjugate()) or 1) / (2 * math.pi)
        if abs(mean) < _LOCKED or abs(drift) > _DRIFT:
            return None
        # The median about the mean direction is robust to jitter and lost frames.
        turn = cmath.phase(mean)
        rest = sorted(cmath.phase(t * cmath.exp(-1j * turn)) for t in turns)
        phase = (turn + rest[len(rest) // 2]) / (2 * math.pi) * period
        return round(phase), round(period), abs(mean)


def _fit_period(stamps: list[int], usual: int) -> tuple[float, float]:
    """Fit (origin, period) of evenly spaced stamps by least squares, with gaps of lost frames.

    The origin is relative to the first stamp. A fit is needed because the jitter of single stamps, or of the first and
    last as in the mean step, would add up to a drift for IR frames far from the RGB frames.
    """
    indices, index = [0], 0
    for before, after in zip(stamps, stamps[1:]):
        index += max(1, round((after - before) / usual))
        indices.append(index)
    middle = sum(indices) / len(indices)
    mean = sum(s - stamps[0] for s in stamps) / len(stamps)
    centred = [p - middle for p in indices]
    period = sum(c * (s - stamps[0]) for c, s in zip(centred, stamps)) / sum(c * c for c in centred)
    period = max(1.0, period)
    return mean - middle * period, period


def _lag(frames: deque[tuple[int, int]] | list[tuple[int, int]]) -> int:
    """Return the median of stamp minus arrival."""
    lags = sorted(stamp - arrival for stamp, arrival in frames)
    return lags[len(lags) // 2]
