"""Limit of the captures that get a result: none while inference is disabled, else a maximum per second."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from spectradino_core.streams.feed import Capture
from spectradino_core.streams.queues import Payload

_EARLY = 0.25
"""Fraction of a period by which a capture may be early, so that jitter does not cost every other one."""
_CREDIT = 0.5
"""Maximum fraction of a period by which a late capture lets the next one come earlier."""


class Throttle:
    """Drops all captures unless `enabled`, and those beyond a mean rate of `max_rate_hz`, unless it is 0.

    Not thread-safe, except `drops`.
    """

    def __init__(self, enabled: bool = True, max_rate_hz: float = 0.0) -> None:
        self.enabled, self.max_rate_hz = enabled, max_rate_hz
        self._due_ns: float | None = None
        self._after_jump = False
        self._drops: Counter[str] = Counter()

    def __call__(self, capture: Capture[Payload], arrival_ns: int) -> Capture[Payload] | None:
        """Return the capture, whose reference frame arrived at `arrival_ns`, or None if it is dropped.

        After a pause it counts as one after a jump of time, since nothing smoothed over time holds.
        """
        cause = "" if self.enabled else "disabled"
        if not cause and self._is_early(arrival_ns):
            cause = "max_rate"
        self._after_jump |= capture.after_jump or cause == "disabled"
        if cause:
            self._drops[cause] += 1
            return None
        after_jump, self._after_jump = self._after_jump, False
        return replace(capture, after_jump=True) if after_jump else capture

    def drops(self) -> dict[str, int]:
        """Number of dropped captures, by "disabled" and "max_rate". May be called from any thread."""
        return dict(self._drops)

    def _is_early(self, now_ns: int) -> bool:
        if not self.max_rate_hz:
            self._due_ns = None
            return False
        period_ns = 1e9 / self.max_rate_hz
        due_ns = self._due_ns
        if due_ns is None or now_ns < due_ns - 2 * period_ns:  # the first one, a higher rate, or time jumped back
            due_ns = float(now_ns)
        if now_ns < due_ns - _EARLY * period_ns:
            return True
        self._due_ns = max(due_ns, now_ns - _CREDIT * period_ns) + period_ns
        return False
