"""Time offset between the cameras: its estimate from stamps and times of arrival, and the choice of the one applied.

The constant delay of the IR stamps is estimated online (`OffsetLearner`):

- Stamps alone show the offset only as the phase of the IR frames between the RGB frames, so modulo the RGB period, and
  only if both cameras are triggered together (at equal rates or integer multiples). The phase of free-running cameras
  has no relation to their clocks; it drifts or is spread, and is not used.
- Times of arrival select the period, and are the only source for free-running cameras: stamp minus arrival is the clock
  offset minus the transport delay, so the cameras differ by the offset plus the difference of their delays. Up to
  100 ms the difference is taken as delay; beyond, it may be either.

So the error is about 1 ms for triggered cameras whose delays differ by less than half a period, and the difference of
delays for free-running ones. Only motion in both images shows whether it is an offset or a transport delay
(`image_offset.py`).

`OffsetControl` chooses. Only with `learn_ir_time_offset` another than the given offset is applied:

- the offset estimated from images, refined by the phase of triggered cameras if both agree;
- without images a constant too large for a transport delay, as of a clock that counts from boot;
- without images the phase of triggered cameras nearest to the given offset, at most half a period from it.

Any other offset may be a transport delay, which must not be subtracted from stamps. Without `learn_ir_time_offset` an
offset estimated from images is only reported.

Nothing here reads a clock: the same calls give the same offset. Times are integers in nanoseconds.
"""

from __future__ import annotations

import cmath
import math
from collections import deque
from dataclasses import dataclass

from spectradino_core.calibration.registration import Registration
from spectradino_core.streams.clocks import APART_NS
from spectradino_core.streams.image_offset import ImageOffset, ImageOffsetWatch, PixelSource
from spectradino_core.streams.queues import Stream

_MS = 1_000_000
_LOCKED = 0.8
"""Minimum concentration of the phases (1: equal, 0: evenly spread) of cameras triggered together."""
_DRIFT = 0.05  # of a period between the first and the second half of a window
_SLIPPED = 0.15  # of a period since the first window: not triggered together
_MISSED = 3  # consecutive windows without a phase: not triggered together
_FAR_NS = 10_000 * _MS
_PLAUSIBLE_NS = 100 * _MS
"""Maximum difference of the cameras' transport delays; more counts as an offset."""
_TOLERATED_NS = 20 * _MS
"""Smaller offsets estimated from images are neither reported nor applied."""
_NEAR_NS = 15 * _MS


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
    """Online estimator of the offset from stamps and times of arrival, in windows of `frames` IR frames."""

    def __init__(self, frames: int = 60) -> None:
        self.frames = frames
        self.learnt: LearntOffset | None = None
        self._in_step = True
        self._anchor_ns: int | None = None
        self._base_ns = 0
        self._missed = 0
        self._rgb: deque[tuple[int, int]] = deque(maxlen=16 * frames)
        self._ir: list[tuple[int, int]] = []

    def push(self, stream: Stream | str, stamp_ns: int, arrival_ns: int) -> LearntOffset | None:
        """Add a frame; returns the offset at the end of a window if it is new or has changed by more than 1 ms.

        Frames without a stamp and frames not newer than the previous one are ignored; a time jump starts a new window
        and keeps the estimate.
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

    def _estimate(self) -> LearntOffset | None:
        if len(self._rgb) < 8:
            return None
        difference = _lag(self._ir) - _lag(self._rgb)
        beyond = abs(difference) > _PLAUSIBLE_NS
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
                if not beyond or abs(difference - self._anchor_ns) <= _PLAUSIBLE_NS:
                    offset -= round(slip) * period  # whole periods are noise of the arrival times
                return LearntOffset(offset, confidence, True, len(self._ir), period)
            self._in_step = False  # the phase drifts: free-running at nearly equal rates
        known = self.learnt
        if locked is None and self._in_step and known is not None and known.triggered:
            self._missed += 1
            if self._missed < _MISSED:
                return known  # one disturbed window
            self._in_step = False
        if known is not None and not known.triggered and abs(difference - known.offset_ns) <= _PLAUSIBLE_NS:
            return known  # a found constant does not follow the noise of delays
        confidence = 1 - _PLAUSIBLE_NS / abs(difference) if beyond else 0.0
        return LearntOffset(difference, confidence, False, len(self._ir))

    def _phase(self) -> tuple[int, int, float] | None:
        """Return (IR phase, RGB period, concentration of the phase), None if it is not stable."""
        stamps = [stamp for stamp, _ in self._rgb]
        steps = [b - a for a, b in zip(stamps, stamps[1:])]
        median_step = sorted(steps)[len(steps) // 2]
        origin, period = _fit_period(stamps, median_step)
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


def _fit_period(stamps: list[int], median_step: int) -> tuple[float, float]:
    """Fit (origin, period) of evenly spaced stamps by least squares, with gaps of lost frames.

    The origin is relative to the first stamp. A fit is needed because the jitter of single stamps, or of the first and
    last as in the mean step, would add up to a drift for IR frames far from the RGB frames.
    """
    indices, index = [0], 0
    for before, after in zip(stamps, stamps[1:]):
        index += max(1, round((after - before) / median_step))
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


@dataclass(frozen=True)
class OffsetEvent:
    """A log line, with the offset if it was estimated from stamps."""

    text: str
    warning: bool
    learnt: LearntOffset | None = None


class OffsetControl:
    """Choice of the applied offset, see the module docstring; not thread-safe.

    Attributes:
        applied_ns: applied delay of the IR times, which pairing subtracts; the user's unless another may be learnt.
        image_offset: last estimate from images, as total offset.
    """

    def __init__(self, given_ns: int, learn: bool) -> None:
        self.applied_ns = self._given_ns = given_ns
        self.image_offset: ImageOffset | None = None
        self._learn = learn
        self._learner = OffsetLearner()
        self._watch = ImageOffsetWatch()
        self._base_ns = given_ns
        self._is_unconfirmed = False

    @property
    def learnt(self) -> LearntOffset | None:
        """Estimate from stamps and times of arrival, None while there is none."""
        return self._learner.learnt

    def restart(self, given_ns: int, learn: bool) -> None:
        """Discard all estimates, for example when the user gives another offset."""
        self.applied_ns = self._given_ns = given_ns
        self._learn = learn
        self.image_offset = None
        self._learner = OffsetLearner()
        self._restart_images(given_ns)

    def rebase(self, by_arrival: bool) -> None:
        """Switch between times of arrival and stamps; the estimate from images starts again."""
        self.image_offset = None
        self._base_ns = self.pairing_ns(by_arrival)
        self._watch.restart()

    def pairing_ns(self, by_arrival: bool) -> int:
        """Return the offset to subtract from pairing times; a clock offset does not apply to arrivals."""
        if not by_arrival or abs(self.applied_ns) <= APART_NS:
            return self.applied_ns
        return self._given_ns if abs(self._given_ns) <= APART_NS else 0

    def stamps(self, stream: Stream, stamp_ns: int, arrival_ns: int) -> list[OffsetEvent]:
        """Add a frame's stamp and time of arrival; returns lines to log."""
        learnt = self._learner.push(stream, stamp_ns, arrival_ns) if self._learn else None
        if learnt is None:
            return []
        before_ns, applied_ns = self.applied_ns, self._choose()
        reason = ""
        if learnt.confidence and abs(learnt.offset_ns - applied_ns) > max(_NEAR_NS, learnt.period_ns // 2):
            if self.image_offset is None:
                self._restart_images(learnt.offset_ns)
                self._is_unconfirmed = True
                reason = (
                    "not applied until motion in both images confirms it, because a longer transport delay of ir "
                    "frames looks the same; "
                )
            else:
                reason = f"the images contradict it ({self.image_offset.offset_ns / _MS:+.0f} ms); "
        if applied_ns != before_ns:
            self._apply(applied_ns)
        text = f"infrared time offset learnt: {learnt}; {reason}applied: {applied_ns / _MS:+.1f} ms"
        return [OffsetEvent(text, bool(reason), learnt)]

    def images(
        self, stream: Stream, time_ns: int, pixels: PixelSource, registration: Registration | None
    ) -> list[OffsetEvent]:
        """Add a frame's pixels, see `ImageOffsetWatch.push`; returns lines to log.

        `time_ns` is the time by which the frame is paired, before subtracting the offset.
        """
        self._watch.registration = registration
        found = self._watch.push(stream, time_ns - self._base_ns if stream is Stream.IR else time_ns, pixels)
        if found is None:
            return []
        offset_ns, spread_ns = self._base_ns + found.offset_ns, found.spread_ns
        self.image_offset = ImageOffset(offset_ns, spread_ns, found.agreement)
        error_ns = offset_ns - self.applied_ns
        was_unconfirmed, self._is_unconfirmed = self._is_unconfirmed, False
        if abs(error_ns) <= max(_TOLERATED_NS, 3 * spread_ns):
            if not was_unconfirmed:
                return []
            text = f"the images confirm the applied infrared time offset ({self.applied_ns / _MS:+.1f} ms)"
            return [OffsetEvent(f"{text}: the rest of the difference of arrival is transport delay", False)]
        by = f"about {abs(offset_ns) / _MS:.0f} ms {'late' if offset_ns > 0 else 'early'}"
        evidence = f"by motion in both images (within {2 * spread_ns / _MS:.0f} ms)"
        if not self._learn:
            rest = f", of which ir_time_offset_ms corrects {self.applied_ns / _MS:g}" if self.applied_ns else ""
            text = f"ir frames look {by}{rest}, {evidence}"
            return [
                OffsetEvent(f"{text}: set ir_time_offset_ms to {offset_ns / _MS:.0f}, or learn_ir_time_offset", True)
            ]
        self._apply(self._choose())
        text = f"infrared time offset learnt from the images: ir frames look {by}, {evidence}"
        return [OffsetEvent(f"{text}; applied: {self.applied_ns / _MS:+.1f} ms", False)]

    def _apply(self, offset_ns: int) -> None:
        self.applied_ns = offset_ns
        self._restart_images(offset_ns)

    def _choose(self) -> int:
        learnt, image_offset = self._learner.learnt, self.image_offset
        if image_offset is not None:
            if abs(image_offset.offset_ns - self.applied_ns) <= max(_TOLERATED_NS, 3 * image_offset.spread_ns):
                near_ns = self.applied_ns  # confirmed
            else:
                near_ns = image_offset.offset_ns
            if learnt is not None and learnt.triggered:
                phased_ns = learnt.near(near_ns)
                if abs(phased_ns - image_offset.offset_ns) <= _NEAR_NS + 2 * image_offset.spread_ns:
                    return phased_ns
            return near_ns
        if learnt is None or learnt.confidence == 0.0:
            return self._given_ns
        if abs(learnt.offset_ns) > APART_NS:
            return learnt.offset_ns
        phased_ns = learnt.near(self._given_ns)
        if learnt.triggered and abs(phased_ns - learnt.offset_ns) <= _MS:
            return phased_ns
        return self._given_ns

    def _restart_images(self, base_ns: int) -> None:
        if base_ns != self._base_ns:
            self._base_ns = base_ns
            self._watch.restart()
