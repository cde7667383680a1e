"""Choice of the times by which frames are paired: header stamps or times of arrival.

Header stamps are preferred because they have no transport jitter. But some drivers stamp with the time since the
camera's start, some not at all, and some clocks are an hour or 37 s (TAI instead of UTC) off. Such stamps are
recognised because they differ by far more than the times of arrival.

Nothing here reads a clock: the same calls give the same result. Times are integers in nanoseconds.
"""

from __future__ import annotations

from spectradino_core.streams.queues import Stream

__all__ = ["APART_NS", "PAIR_BY", "Clocks", "is_uptime", "pair_by_error"]

PAIR_BY = ("auto", "stamp", "arrival")
"""Values of the parameter `pair_by`."""

APART_NS = 2_000_000_000
"""A larger excess of stamp differences over arrival differences means unrelated clocks: no transport delay is as
long."""

_AGREE_NS = 1_000_000_000
_CONFIRMING_FRAMES = 5  # frames of each camera in a row
_NS = 1_000_000_000
_UPTIME_NS = 10 * 365 * 86_400 * _NS


def is_uptime(stamp_ns: int) -> bool:
    """Return whether a stamp is a time since boot rather than since 1970: less than ten years."""
    return 0 < stamp_ns < _UPTIME_NS


def pair_by_error(value: str) -> str:
    """Return why a value of the parameter `pair_by` is invalid, "" if it is valid."""
    return "" if value in PAIR_BY else f"pair_by must be one of {', '.join(PAIR_BY)}, got {value!r}"


class Clocks:
    """Comparison of both cameras' stamps with their times of arrival; not thread-safe.

    Attributes:
        pair_by: one of `PAIR_BY`; may be changed between calls.
        apart: whether the stamps of the two cameras are not comparable.
    """

    def __init__(self, pair_by: str = "auto") -> None:
        """
        Args:
            pair_by: "stamp": pair frames by stamps; "arrival": by times of arrival; "auto": by stamps unless they are
                not comparable.

        Raises:
            ValueError: `pair_by` is none of these.
        """
        if error := pair_by_error(pair_by):
            raise ValueError(error)
        self.pair_by = pair_by
        self.apart = False
        self._last: dict[Stream, tuple[int, int]] = {}
        self._beyond = dict.fromkeys(Stream, 0)
        self._within = dict.fromkeys(Stream, 0)

    @property
    def by_arrival(self) -> bool:
        """Whether frames are paired by their times of arrival."""
        return self.pair_by == "arrival" or (self.pair_by == "auto" and self.apart)

    def push(self, stream: Stream, stamp_ns: int, arrival_ns: int, offset_ns: int = 0) -> bool:
        """Record a frame.

        Args:
            stream: the camera.
            stamp_ns: header stamp.
            arrival_ns: time of arrival, by one clock for both cameras.
            offset_ns: known constant delay of the IR stamps.

        Returns:
            Whether `apart` changed.
        """
        self._last[stream] = (stamp_ns, arrival_ns)
        if stream.other not in self._last:
            return False
        apart_ns = self._apart_ns(offset_ns)
        if apart_ns is None or abs(apart_ns) > APART_NS:
            self._beyond[stream] += 1
            self._within = dict.fromkeys(Stream, 0)
        else:
            self._beyond = dict.fromkeys(Stream, 0)
            self._within[stream] += abs(apart_ns) < _AGREE_NS
        before = self.apart
        if min((self._within if before else self._beyond).values()) >= _CONFIRMING_FRAMES:
            self.apart = not before
            self._beyond, self._within = dict.fromkeys(Stream, 0), dict.fromkeys(Stream, 0)
        return self.apart is not before

    def describe(self, offset_ns: int = 0) -> str:
        """Describe as a clause how the stamps of the two cameras differ."""
        stamps = {stream: self._last[stream][0] for stream in Stream if stream in self._last}
        missing = [stream.value for stream, stamp_ns in stamps.items() if stamp_ns <= 0]
        if missing:
            return f"{' and '.join(missing)} frames have no stamp (header.stamp is zero)"
        apart_ns = self._apart_ns(offset_ns) or 0
        uptime = {stream.value: stamp_ns / _NS for stream, stamp_ns in stamps.items() if is_uptime(stamp_ns)}
        if uptime:
            since = " and ".join(f"{name} with {seconds:.0f} s" for name, seconds in uptime.items())
            return f"stamps count from a camera's start ({since}), not from a common time"
        return (
            f"ir is stamped {abs(apart_ns) / _NS:.1f} s {'later' if apart_ns > 0 else 'earlier'} than rgb frames that "
            "arrive at the same time"
        )

    def _apart_ns(self, offset_ns: int) -> int | None:
        """Return the difference of the newest stamps minus that of their arrivals; None if a stamp is not set."""
        if min(stamp_ns for stamp_ns, _ in self._last.values()) <= 0:
            return None
        rgb, ir = (stamp_ns - arrival_ns for stamp_ns, arrival_ns in (self._last[s] for s in (Stream.RGB, Stream.IR)))
        return ir - rgb - offset_ns
