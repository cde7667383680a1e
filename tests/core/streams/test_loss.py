"""Estimation of lost frames from the gaps between stamps."""

from __future__ import annotations

import random

import pytest

from spectradino_core.streams.clocks import lost_fraction

MS = 1_000_000


def stamps(rate: float, lost: float, seconds: float = 4.0, jitter_ms: float = 0.5, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    made = (round((1000 * n / rate + rng.gauss(0, jitter_ms)) * MS) for n in range(round(seconds * rate)))
    return [stamp for stamp in made if rng.random() >= lost]


@pytest.mark.parametrize("rate", [9.0, 30.0, 60.0])
@pytest.mark.parametrize("lost", [0.0, 0.05, 0.4, 0.72])
def test_the_fraction_and_the_rate_are_found(rate, lost):
    found = lost_fraction(stamps(rate, lost, seconds=10))
    assert found is not None
    assert found[0] == pytest.approx(lost, abs=0.1)
    assert found[1] == pytest.approx(rate, rel=0.05)


def test_a_camera_that_changes_its_rate_is_not_called_lossy():
    """Exposure in the dark: every step is longer than the previous one, none a multiple of another."""
    grown, at = [], 0.0
    for n in range(60):
        grown.append(round(at * MS))
        at += 33 * 1.013**n
    assert (lost_fraction(grown) or (0.0,))[0] < 0.2


@pytest.mark.parametrize(("first", "then"), [(30, 15), (15, 30), (60, 20), (30, 10)])
def test_a_camera_that_halves_its_rate_at_once_is_not_called_lossy(first, then):
    """As automatic exposure does at dusk: steps of two periods, all at one end."""
    early = stamps(first, 0.0, seconds=2)
    late = [early[-1] + 1_000_000_000 // then + stamp for stamp in stamps(then, 0.0, seconds=2, seed=1)]
    assert lost_fraction([*early, *late]) is None


@pytest.mark.parametrize("lost", [0.0, 0.4])
def test_clocks_that_are_set_forward_are_no_loss(lost):
    """As in simulated time or a bag with pauses; such jumps used to be reported as a loss of 97 %."""
    made = stamps(20, lost, seconds=10)
    set_forward = [stamp + 100_000_000_000 * (5 * place // len(made)) for place, stamp in enumerate(made)]
    found = lost_fraction(set_forward)
    assert found is not None
    assert found[0] == pytest.approx(lost, abs=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_frames_that_come_on_demand_are_not_called_lost(seed):
    """Software trigger: many steps have the minimum length, the others any length."""
    rng = random.Random(seed)
    at, made = 0.0, []
    for _ in range(80):
        made.append(round(at * MS))
        at += rng.gauss(30, 1) if rng.random() < 0.5 else rng.uniform(50, 400)
    assert lost_fraction(made) is None


@pytest.mark.parametrize("few", [[], [5], [7] * 40, stamps(30, 0.0)[:10], [0] * 30])
def test_too_few_frames_give_no_estimate(few):
    assert lost_fraction(few) is None
