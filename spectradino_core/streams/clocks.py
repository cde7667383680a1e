"""Assessment of header stamps: whether frames can be paired by them, and how many frames of a camera are lost.

Header stamps are preferred because they have no transport jitter. But some drivers stamp with the time since the
camera's start, some not at all, and some clocks are an hour or 37 s (TAI instead of UTC) off. Such stamps are
recognised because they differ by far more than the times of arrival.

Nothing here reads a clock: the same calls give the same result. Times are integers in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from spectradino_core.streams.queues import Stream

PAIR_BY = ("auto", "stamp", "arrival")
"""Values of the parameter `pair_by`."""

APART_NS = 2_000_000_000
"""A larger excess of stamp differences over arrival differences means unrelated clocks: no transport delay is as
long."""

_AGREE_NS = 1_000_000_000
_CONFIRMING_FRAMES = 5  # frames of each camera in a row
_NS = 1_000_000_000
_UPTIME_NS = 10 * 365 * 86_400 * _NS

_MIN_FRAMES = 12
_TOLERANCE = 0.2  # of a period
_MIN_FIT = 0.8
_SIGNIFICANT = 0.15
_PAUSE_NS, _PAUSE_PERIODS = 2_000_000_000, 20
"""Longer steps come from a clock that was set or a camera that was paused."""
_MIN_HALF = 0.4
"""Minimum loss in either half of the stamps, as a fraction of the loss in all."""


def is_uptime(stamp_ns: int) -> bool:
    """Return whether a stamp is a time since boot rather than since 1970: less than ten years."""
    return 0 < stamp_ns < _UPTIME_NS


class Clocks:
    """Comparison of both cameras' stamps with their times of arrival; not thread-safe.

    Attributes:
        pair_by: "stamp": pair frames by stamps; "arrival": by times of arrival; "auto": by stamps unless they are not
            comparable. May be changed between calls.
        incomparable: whether the stamps of the two cameras are not comparable.
    """

    def __init__(self, pair_by: str = "auto") -> None:
        self.pair_by = pair_by
        self.incomparable = False
        self._last: dict[Stream, tuple[int, int]] = {}
        self._far_frames = dict.fromkeys(Stream, 0)
        self._near_frames = dict.fromkeys(Stream, 0)

    @property
    def by_arrival(self) -> bool:
        """Whether frames are paired by their times of arrival."""
        return self.pair_by == "arrival" or (self.pair_by == "auto" and self.incomparable)

    def push(self, stream: Stream, stamp_ns: int, arrival_ns: int, offset_ns: int = 0) -> bool:
        """Record a frame, which arrived by one clock for both cameras; returns whether `incomparable` changed.

        `offset_ns` is the known constant delay of the IR stamps.
        """
        self._last[stream] = (stamp_ns, arrival_ns)
        if stream.other not in self._last:
            return False
        difference_ns = self._stamp_difference_ns(offset_ns)
        if difference_ns is None or abs(difference_ns) > APART_NS:
            self._far_frames[stream] += 1
            self._near_frames = dict.fromkeys(Stream, 0)
        else:
            self._far_frames = dict.fromkeys(Stream, 0)
            self._near_frames[stream] += abs(difference_ns) < _AGREE_NS
        was_incomparable = self.incomparable
        if min((self._near_frames if was_incomparable else self._far_frames).values()) >= _CONFIRMING_FRAMES:
            self.incomparable = not was_incomparable
            self._far_frames, self._near_frames = dict.fromkeys(Stream, 0), dict.fromkeys(Stream, 0)
        return self.incomparable is not was_incomparable

    def describe(self, offset_ns: int = 0) -> str:
        """Describe as a clause how the stamps of the two cameras differ."""
        stamps = {stream: self._last[stream][0] for stream in Stream if stream in self._last}
        missing = [stream.value for stream, stamp_ns in stamps.items() if stamp_ns <= 0]
        if missing:
            return f"{' and '.join(missing)} frames have no stamp (header.stamp is zero)"
        difference_ns = self._stamp_difference_ns(offset_ns) or 0
        uptime = {stream.value: stamp_ns / _NS for stream, stamp_ns in stamps.items() if is_uptime(stamp_ns)}
        if uptime:
            since = " and ".join(f"{name} with {seconds:.0f} s" for name, seconds in uptime.items())
            return f"stamps count from a camera's start ({since}), not from a common time"
        return (
            f"ir is stamped {abs(difference_ns) / _NS:.1f} s {'later' if difference_ns > 0 else 'earlier'} than rgb "
            "frames that arrive at the same time"
        )

    def _stamp_difference_ns(self, offset_ns: int) -> int | None:
        """Return the difference of the newest stamps minus that of their arrivals; None if a stamp is not set."""
        if min(stamp_ns for stamp_ns, _ in self._last.values()) <= 0:
            return None
        rgb, ir = (stamp_ns - arrival_ns for stamp_ns, arrival_ns in (self._last[s] for s in (Stream.RGB, Stream.IR)))
        return ir - rgb - offset_ns


def lost_fraction(stamps_ns: Sequence[int]) -> tuple[float, float] | None:
    """Estimate (fraction of lost frames 0..1, rate in Hz) from a few seconds of stamps in order of arrival.

    A camera with a constant rate stamps its frames one period apart; with lost frames, scattered steps are two or more
    periods long. Longer steps at one end only come from a camera that changed its rate, for example by exposure at
    dusk. None if unknown: too few frames, steps that are not multiples of one period, or different rates in both
    halves.
    """
    steps = [later - earlier for earlier, later in zip(stamps_ns, stamps_ns[1:]) if later > earlier]
    if len(steps) + 1 < _MIN_FRAMES:
        return None
    shortest = sorted(steps)[len(steps) // 10]
    steps = [step for step in steps if step <= max(_PAUSE_NS, _PAUSE_PERIODS * shortest)]
    singles = [step for step in steps if step < 1.5 * shortest]
    period = sum(singles) / len(singles)
    periods = [round(step / period) for step in steps]
    # Only longer steps are tested, as any source has steps of one period; frames on demand have no period.
    longer = [abs(step / period - count) for step, count in zip(steps, periods) if step >= 1.5 * shortest]
    if sum(off < _TOLERANCE for off in longer) < _MIN_FIT * len(longer):
        return None
    lost = _lost(periods)
    middle = len(periods) // 2
    if lost > _SIGNIFICANT and min(_lost(periods[:middle]), _lost(periods[middle:])) < _MIN_HALF * lost:
        return None
    return lost, 1e9 / period


def _lost(periods: Sequence[int]) -> float:
    """Return the fraction of lost frames for step lengths in periods."""
    return 1 - len(periods) / sum(max(1, count) for count in periods)
