"""Estimate the fraction of a camera's frames that are lost from gaps between stamps."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["lost_fraction"]

_MIN_FRAMES = 12
_TOLERANCE = 0.2  # of a period
_MIN_FIT = 0.8
_SIGNIFICANT = 0.15
_PAUSE_NS, _PAUSE_PERIODS = 2_000_000_000, 20
"""Longer steps come from a clock that was set or a camera that was paused."""
_MIN_HALF = 0.4
"""Minimum loss in either half of the stamps, as a fraction of the loss in all."""


def lost_fraction(stamps_ns: Sequence[int]) -> tuple[float, float] | None:
    """Estimate the fraction of lost frames and the camera's frame rate.

    A camera with a constant rate stamps its frames one period apart; with lost frames, scattered steps are two or more
    periods long. Longer steps at one end only come from a camera that changed its rate, for example by exposure at
    dusk.

    Args:
        stamps_ns: header stamps in order of arrival, covering a few seconds.

    Returns:
        (fraction 0..1, rate in Hz), or None if unknown: too few frames, steps that are not multiples of one period, or
        different rates in both halves.
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
