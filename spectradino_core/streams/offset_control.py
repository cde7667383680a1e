"""Choose the time offset between the cameras that pairing applies, and report it.

There are three sources: the given offset, the estimate from stamps and times of arrival (`offset.py`), and the estimate
from motion in both images (`image_offset.py`). Only with `learn_ir_time_offset` another than the given offset is
applied:

- the offset estimated from images, refined by the phase of triggered cameras if both agree;
- without images a constant too large for a transport delay, as of a clock that counts from boot;
- without images the phase of triggered cameras nearest to the given offset, at most half a period from it.

Any other offset may be a transport delay, which must not be subtracted from stamps. Without `learn_ir_time_offset` an
offset estimated from images is only reported.
"""

from __future__ import annotations

from dataclasses import dataclass

from spectradino_core.calibration.registration import Registration
from spectradino_core.streams.clocks import APART_NS
from spectradino_core.streams.image_offset import ImageOffset, ImageOffsetWatch, Look
from spectradino_core.streams.offset import LearntOffset, OffsetLearner
from spectradino_core.streams.queues import Stream

__all__ = ["OffsetControl", "OffsetNews"]

_MS = 1_000_000
_TOLERATED_NS = 20 * _MS
"""Smaller offsets estimated from images are neither reported nor applied."""
_NEAR_NS = 15 * _MS


@dataclass(frozen=True)
class OffsetNews:
    """A log line, with the offset if it was estimated from stamps."""

    text: str
    warning: bool
    learnt: LearntOffset | None = None


class OffsetControl:
    """Choice of the applied offset, see the module docstring; not thread-safe.

    Attributes:
        in_force_ns: applied delay of the IR times, which pairing subtracts.
        shown: last estimate from images, as total offset.
    """

    def __init__(self, given_ns: int, learn: bool) -> None:
        """
        Args:
            given_ns: the offset given by the user.
            learn: whether an estimated offset may be applied.
        """
        self.in_force_ns = self._given_ns = given_ns
        self.shown: ImageOffset | None = None
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
        self.in_force_ns = self._given_ns = given_ns
        self._learn = learn
        self.shown = None
        self._learner.reset()
        self._restart_images(given_ns)

    def rebase(self, by_arrival: bool) -> None:
        """Switch between times of arrival and stamps; the estimate from images starts again."""
        self.shown = None
        self._base_ns = self.pairing_ns(by_arrival)
        self._watch.restart()
        self._watch.wake()

    def pairing_ns(self, by_arrival: bool) -> int:
        """Return the offset to subtract from pairing times; a clock offset does not apply to arrivals."""
        if not by_arrival or abs(self.in_force_ns) <= APART_NS:
            return self.in_force_ns
        return self._given_ns if abs(self._given_ns) <= APART_NS else 0

    def _apply(self, offset_ns: int) -> None:
        self.in_force_ns = offset_ns
        self._restart_images(offset_ns)

    def stamps(self, stream: Stream, stamp_ns: int, arrival_ns: int) -> list[OffsetNews]:
        """Add a frame's stamp and time of arrival; returns lines to log."""
        learnt = self._learner.push(stream, stamp_ns, arrival_ns) if self._learn else None
        if learnt is None:
            return []
        before_ns, in_force_ns = self.in_force_ns, self._choose()
        reason = ""
        if learnt.confidence and abs(learnt.offset_ns - in_force_ns) > max(_NEAR_NS, learnt.period_ns // 2):
            if self.shown is None:
                self._restart_images(learnt.offset_ns)
                self._is_unconfirmed = True
                reason = (
                    "not applied until motion in both images confirms it, because a longer transport delay of ir "
                    "frames looks the same; "
                )
            else:
                reason = f"the images contradict it ({self.shown.offset_ns / _MS:+.0f} ms); "
        if in_force_ns != before_ns:
            self._apply(in_force_ns)
        text = f"infrared time offset learnt: {learnt}; {reason}applied: {in_force_ns / _MS:+.1f} ms"
        return [OffsetNews(text, bool(reason), learnt)]

    def images(self, stream: Stream, time_ns: int, look: Look, registration: Registration | None) -> list[OffsetNews]:
        """Add a frame's pixels.

        Args:
            stream: the camera.
            time_ns: the time by which the frame is paired, before subtracting the offset.
            look: see `ImageOffsetWatch.push`.
            registration: IR to RGB pixels, if known.

        Returns:
            Lines to log.
        """
        self._watch.registration = registration
        found = self._watch.push(stream, time_ns - self._base_ns if stream is Stream.IR else time_ns, look)
        if found is None:
            return []
        offset_ns, spread_ns = self._base_ns + found.offset_ns, found.spread_ns
        self.shown = ImageOffset(offset_ns, spread_ns, found.agreement)
        error_ns = offset_ns - self.in_force_ns
        was_unconfirmed, self._is_unconfirmed = self._is_unconfirmed, False
        if abs(error_ns) <= max(_TOLERATED_NS, 3 * spread_ns):
            if not was_unconfirmed:
                return []
            text = f"the images confirm the applied infrared time offset ({self.in_force_ns / _MS:+.1f} ms)"
            return [OffsetNews(f"{text}: the rest of the difference of arrival is transport delay", False)]
        by = f"about {abs(offset_ns) / _MS:.0f} ms {'late' if offset_ns > 0 else 'early'}"
        evidence = f"by motion in both images (within {2 * spread_ns / _MS:.0f} ms)"
        if not self._learn:
            rest = f", of which ir_time_offset_ms corrects {self.in_force_ns / _MS:g}" if self.in_force_ns else ""
            text = f"ir frames look {by}{rest}, {evidence}"
            return [
                OffsetNews(f"{text}: set ir_time_offset_ms to {offset_ns / _MS:.0f}, or learn_ir_time_offset", True)
            ]
        self._apply(self._choose())
        text = f"infrared time offset learnt from the images: ir frames look {by}, {evidence}"
        return [OffsetNews(f"{text}; applied: {self.in_force_ns / _MS:+.1f} ms", False)]

    def _choose(self) -> int:
        learnt, shown = self._learner.learnt, self.shown
        if shown is not None:
            if abs(shown.offset_ns - self.in_force_ns) <= max(_TOLERATED_NS, 3 * shown.spread_ns):
                near_ns = self.in_force_ns  # confirmed
            else:
                near_ns = shown.offset_ns
            if learnt is not None and learnt.triggered:
                phased_ns = learnt.near(near_ns)
                if abs(phased_ns - shown.offset_ns) <= _NEAR_NS + 2 * shown.spread_ns:
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
            self._watch.wake()
