"""How many of a camera's frames do not arrive, from the gaps between the stamps of those that do."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["lost_fraction"]

_LEAST_FRAMES = 12
_TOLERANCE = 0.2  # of a period
_FITTING = 0.8
_MUCH = 0.15
_PAUSE_NS, _PAUSE_PERIODS = 2_000_000_000, 20
"""A longer step is a clock that was set, or a camera that was paused."""
_EVEN = 0.4
"""The loss in either half of the stamps, at least, as a fraction of that in all of them."""


def lost_fraction(stamps_ns: Sequence[int]) -> tuple[float, float] | None:
    """The fraction of frames that is missing and the camera's own rate.

    A camera at a steady rate stamps its frames one period apart; where frames are missing, some steps are two or more
    periods long, now and then. Longer steps all at one end are a camera that changed its rate, as exposure does at
    dusk.

    Args:
        stamps_ns: header stamps in the order of arrival, a few seconds of them.

    Returns:
        (0 to 1, [Hz]), or None where that is not known: too few frames, steps that are no multiples of one period, or
        another rate in one half of them.
    """
    steps = [later - earlier for earlier, later in zip(stamps_ns, stamps_ns[1:]) if later > earlier]
    if len(steps) + 1 < _LEAST_FRAMES:
        return None
    shortest = sorted(steps)[len(steps) // 10]
    steps = [step for step in steps if step <= max(_PAUSE_NS, _PAUSE_PERIODS * shortest)]
    singles = [step for step in steps if step < 1.5 * shortest]
    period = sum(singles) / len(singles)
    periods = [round(step / period) for step in steps]
    # Of steps of one period any source has some, so the others decide; frames that come on demand have no period.
    longer = [abs(step / period - count) for step, count in zip(steps, periods) if step >= 1.5 * shortest]
    if sum(off < _TOLERANCE for off in longer) < _FITTING * len(longer):
        return None
    lost = _lost(periods)
    middle = len(periods) // 2
    if lost > _MUCH and min(_lost(periods[:middle]), _lost(periods[middle:])) < _EVEN * lost:
        return None
    return lost, 1e9 / period


def _lost(periods: Sequence[int]) -> float:
    """The fraction of frames that is missing where these are the lengths of steps in periods."""
    return 1 - len(periods) / sum(max(1, count) for count in periods)
