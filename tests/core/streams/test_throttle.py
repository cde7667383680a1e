"""Throttle: mean rates under jitter, pauses, and time jumps."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.streams.feed import Capture
from spectradino_core.streams.throttle import Throttle

MS = 1_000_000


def capture(after_jump: bool = False) -> Capture[str]:
    return Capture("rgb", None, 1, None, None, 1, after_jump, 1)


def admitted(throttle: Throttle, arrivals_ns: list[int]) -> list[int]:
    return [at for at in arrivals_ns if throttle(capture(), at) is not None]


@pytest.mark.parametrize(("max_rate_hz", "expected_hz"), [(15, 15), (20, 20), (10, 10), (7, 7), (30, 30), (100, 30)])
def test_the_mean_rate_is_the_maximum_in_spite_of_jitter(max_rate_hz, expected_hz):
    jitter = np.random.default_rng(3).normal(0, 2 * MS, 3000)
    arrivals = [round(n * 1e9 / 30 + late) for n, late in enumerate(jitter)]
    throttle = Throttle(max_rate_hz=max_rate_hz)
    rate = len(admitted(throttle, arrivals)) / 100
    assert 0.93 * expected_hz <= rate <= expected_hz + 0.02
    assert throttle.drops().get("max_rate", 0) == 3000 - round(100 * rate)


def test_nothing_is_dropped_without_a_limit():
    throttle, same = Throttle(), capture()
    assert throttle(same, 5) is same
    assert throttle(same, 5) is same
    assert throttle.drops() == {}


def test_a_higher_rate_and_a_clock_that_starts_again_hold_at_once():
    throttle = Throttle(max_rate_hz=0.01)
    assert admitted(throttle, [0, 33 * MS]) == [0]
    throttle.max_rate_hz = 10
    assert admitted(throttle, [66 * MS, 99 * MS, 166 * MS]) == [66 * MS, 166 * MS]
    assert admitted(throttle, [-9_000 * MS]) == [-9_000 * MS]


def test_the_first_capture_after_a_pause_or_a_dropped_jump_is_one_after_a_jump():
    throttle = Throttle(enabled=False)
    assert throttle(capture(), 0) is None
    throttle.enabled = True
    first, second = throttle(capture(), 33 * MS), throttle(capture(), 66 * MS)
    assert first is not None
    assert second is not None
    assert (first.after_jump, second.after_jump) == (True, False)
    throttle.max_rate_hz = 10
    assert throttle(capture(), 100 * MS) is not None
    assert throttle(capture(after_jump=True), 120 * MS) is None
    late = throttle(capture(), 200 * MS)
    assert late is not None
    assert late.after_jump
    assert throttle.drops() == {"disabled": 1, "max_rate": 1}
