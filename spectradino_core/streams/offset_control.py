"""Which time offset between the cameras is in force, and what is reported of it.

Three sources: what the user gave, what the stamps and times of arrival suggest (`offset.py`), and what both cameras see
move (`image_offset.py`). Only with `learn_ir_time_offset` anything but the given offset comes into force, and then only

- what the images show, to the phase of cameras in step where that agrees;
- without images a constant that no frame's way to this computer explains, as of a clock that counts from its start;
- without images the phase of cameras in step next to the given offset, at most half a period from it.

Anything else may be the delay of frames that are long on their way, which must not be taken out of their stamps.
Without `learn_ir_time_offset` an offset that the images show is reported.
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
"""An offset that the images show and that is smaller is neither reported nor put into force."""
_NEAR_NS = 15 * _MS


@dataclass(frozen=True)
class OffsetNews:
    """A line for the log, and the offset learnt from the stamps where it is that."""

    text: str
    warning: bool
    learnt: LearntOffset | None = None


class OffsetControl:
    """Decides on the offset in force; see the module's head. For one thread.

    Attributes:
        in_force_ns: by how much the infrared camera's times are late, as pairing takes it out.
        shown: what the images showed last, as an offset in all.
    """

    def __init__(self, given_ns: int, learn: bool) -> None:
        """
        Args:
            given_ns: the offset that the user gave.
            learn: whether another one may come into force.
        """
        self.in_force_ns = self._given_ns = given_ns
        self.shown: ImageOffset | None = None
        self._learn = learn
        self._learner = OffsetLearner()
        self._watch = ImageOffsetWatch()
        self._base_ns = given_ns
        self._held = False

    @property
    def learnt(self) -> LearntOffset | None:
        """What the stamps and times of arrival suggest, if anything."""
        return self._learner.learnt

    def restart(self, given_ns: int, learn: bool) -> None:
        """Forgets what was found, as when the user gives another offset."""
        self.in_force_ns = self._given_ns = given_ns
        self._learn = learn
        self.shown = None
        self._learner.reset()
        self._look_around(given_ns)

    def rebase(self, by_arrival: bool) -> None:
        """Goes on with times of arrival in place of stamps, or the reverse: images are compared anew."""
        self.shown = None
        self._base_ns = self.pairing_ns(by_arrival)
        self._watch.restart()
        self._watch.wake()

    def pairing_ns(self, by_arrival: bool) -> int:
        """The offset to be taken out of the times that frames are paired by: a clock's has no part in arrivals."""
        if not by_arrival or abs(self.in_force_ns) <= APART_NS:
            return self.in_force_ns
        return self._given_ns if abs(self._given_ns) <= APART_NS else 0

    def _put_in_force(self, offset_ns: int) -> None:
        self.in_force_ns = offset_ns
        self._look_around(offset_ns)

    def stamps(self, stream: Stream, stamp_ns: int, arrival_ns: int) -> list[OffsetNews]:
        """Notes a frame's stamp and time of arrival; learns from them if it may."""
        learnt = self._learner.push(stream, stamp_ns, arrival_ns) if self._learn else None
        if learnt is None:
            return []
        before_ns, in_force_ns = self.in_force_ns, self._decided()
        held = ""
        if learnt.confidence and abs(learnt.offset_ns - in_force_ns) > max(_NEAR_NS, learnt.period_ns // 2):
            if self.shown is None:
                self._look_around(learnt.offset_ns)
                self._held = True
                held = (
                    "not put into force, as frames that are longer on their way look the same, until the images "
                    "confirm it, for which something has to move before both cameras; "
                )
            else:
                held = f"the images contradict it ({self.shown.offset_ns / _MS:+.0f} ms); "
        if in_force_ns != before_ns:
            self._put_in_force(in_force_ns)
        text = f"infrared time offset learnt: {learnt}; {held}in force: {in_force_ns / _MS:+.1f} ms"
        return [OffsetNews(text, bool(held), learnt)]

    def images(self, stream: Stream, time_ns: int, look: Look, registration: Registration | None) -> list[OffsetNews]:
        """Notes a frame's pixels.

        Args:
            stream: its camera.
            time_ns: the time that it is paired by, no offset taken out.
            look: see `ImageOffsetWatch.push`.
            registration: IR to RGB pixels, where it is known.
        """
        self._watch.registration = registration
        found = self._watch.push(stream, time_ns - self._base_ns if stream is Stream.IR else time_ns, look)
        if found is None:
            return []
        offset_ns, spread_ns = self._base_ns + found.offset_ns, found.spread_ns
        self.shown = ImageOffset(offset_ns, spread_ns, found.agreement)
        off_ns = offset_ns - self.in_force_ns
        held, self._held = self._held, False
        if abs(off_ns) <= max(_TOLERATED_NS, 3 * spread_ns):
            if not held:
                return []
            text = f"the images confirm the infrared time offset in force ({self.in_force_ns / _MS:+.1f} ms)"
            return [OffsetNews(f"{text}: what the times of arrival show beyond it is delay", False)]
        by = f"about {abs(offset_ns) / _MS:.0f} ms {'late' if offset_ns > 0 else 'early'}"
        evidence = f"by what both cameras see move (within {2 * spread_ns / _MS:.0f} ms)"
        if not self._learn:
            rest = f", of which ir_time_offset_ms takes out {self.in_force_ns / _MS:g}" if self.in_force_ns else ""
            text = f"ir frames look {by}{rest}, {evidence}"
            return [
                OffsetNews(f"{text}: set ir_time_offset_ms to {offset_ns / _MS:.0f}, or learn_ir_time_offset", True)
            ]
        self._put_in_force(self._decided())
        text = f"infrared time offset learnt from the images: ir frames look {by}, {evidence}"
        return [OffsetNews(f"{text}; in force: {self.in_force_ns / _MS:+.1f} ms", False)]

    def _decided(self) -> int:
        learnt, shown = self._learner.learnt, self.shown
        if shown is not None:
            if abs(shown.offset_ns - self.in_force_ns) <= max(_TOLERATED_NS, 3 * shown.spread_ns):
                near_ns = self.in_force_ns  # it is confirmed
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

    def _look_around(self, base_ns: int) -> None:
        if base_ns != self._base_ns:
            self._base_ns = base_ns
            self._watch.restart()
            self._watch.wake()
