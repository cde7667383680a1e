"""How many of a camera's frames do not arrive, from the gaps between the stamps of those that do."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["lost_fraction"]

_LEAST_FRAMES = 12
_TOLERANCE = 0.2  # of a period
_FITTING = 0.8


def lost_fraction(stamps_ns: Sequence[int]) -> tuple[float, float] | None:
    """The fraction of frames that is missing and the camera's own rate.

    A camera at a steady rate stamps its frames one period apart; where frames are missing, some steps are two or more
    periods long.

    Args:
        stamps_ns: header stamps in the order of arrival, a few seconds of them.

    Returns:
        (0 to 1, [Hz]), or None where that cannot be told: too few frames, or steps that are no multiples of one period.
    """
    steps = [later - earlier for earlier, later in zip(stamps_ns, stamps_ns[1:]) if later > earlier]
    if len(steps) + 1 < _LEAST_FRAMES:
        return None
    shortest = sorted(steps)[len(steps) // 10]
    singles = [step for step in steps if step < 1.5 * shortest]
    period = sum(singles) / len(singles)
    periods = [round(step / period) for step in steps]
    fitting = sum(abs(step / period - count) < _TOLERANCE for step, count in zip(steps, periods))
    if fitting < _FITTING * len(steps):
        return None
    return 1 - len(steps) / sum(max(1, count) for count in periods), 1e9 / period
