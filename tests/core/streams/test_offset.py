"""Learnt time offset: found if it can be known, otherwise not claimed."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spectradino_core.streams.offset import LearntOffset, OffsetLearner
from tests.examples import examples

MS = 1_000_000
START = 1_700_000_000_000 * MS


def play(
    learner: OffsetLearner,
    offset_ms: float = 0.0,
    rates: tuple[float, float] = (30.0, 30.0),
    phase_ms: float = 0.0,
    delays_ms: tuple[float, float] = (20.0, 20.0),
    jitter_ms: float = 0.5,
    lost: float = 0.05,
    seconds: float = 30.0,
    start_s: float = 0.0,
    seed: int = 0,
) -> list[LearntOffset]:
    """Simulate two cameras, infrared stamped `offset_ms` late and exposed `phase_ms` after RGB."""
    rng = random.Random(seed)
    frames = []
    for stream, rate, late, phase, delay in (
        ("rgb", rates[0], 0.0, 0.0, delays_ms[0]),
        ("ir", rates[1], offset_ms, phase_ms, delays_ms[1]),
    ):
        for i in range(round(seconds * rate)):
            seen = 1000 * start_s + phase + 1000 * i / rate + rng.gauss(0, jitter_ms)
            arrival = seen + delay + rng.expovariate(1 / 3)
            if rng.random() >= lost:
                frames.append((arrival, stream, seen + late))
    found = []
    for arrival, stream, stamp in sorted(frames):
        learnt = learner.push(stream, round(START + stamp * MS), round(arrival * MS))
        if learnt is not None:
            found.append(learnt)
    return found


@settings(max_examples=examples(40), deadline=None)
@given(
    st.one_of(st.floats(-950, -150), st.floats(150, 950), st.floats(-7, 7)),
    st.sampled_from([(30.0, 30.0), (30.0, 10.0), (60.0, 30.0), (25.0, 25.0), (9.0, 9.0)]),
    st.integers(0, 99),
)
@example(925.0, (60.0, 30.0), 6)  # jitter of the first and last frame once made the period 0.1 % wrong
@example(925.0, (60.0, 30.0), 38)  # and that of the newest once looked like a drift
def test_cameras_in_step_to_a_millisecond_even_far_beyond_the_slop(offset_ms, rates, seed):
    learner = OffsetLearner()
    play(learner, offset_ms, rates, seed=seed)
    assert learner.learnt is not None
    assert learner.learnt.triggered
    assert learner.learnt.offset_ns / MS == pytest.approx(offset_ms, abs=1.5)
    assert learner.learnt.confidence > 0.8


@pytest.mark.parametrize(("offset_ms", "period_ms"), [(40.0, 1000 / 30), (-25.0, 1000 / 30), (60.0, 1000 / 30)])
def test_a_small_offset_is_known_modulo_the_period_only(offset_ms, period_ms):
    """Within possible delays whole periods are ambiguous: the offset nearest to zero is used."""
    learner = OffsetLearner()
    play(learner, offset_ms)
    wanted = offset_ms - period_ms * round(offset_ms / period_ms)
    assert learner.learnt.offset_ns / MS == pytest.approx(wanted, abs=1.5)


@settings(max_examples=examples(25), deadline=None)
@given(
    st.one_of(st.floats(-900, -250), st.floats(250, 900)),
    st.sampled_from([(30.0, 8.6), (30.0, 27.3), (29.3, 59.9)]),
    st.floats(-60, 60),
    st.integers(0, 99),
)
def test_free_running_cameras_to_the_difference_of_their_delays(offset_ms, rates, delay_difference, seed):
    learner = OffsetLearner()
    play(learner, offset_ms, rates, delays_ms=(70.0, 70.0 + delay_difference), seed=seed)
    learnt = learner.learnt
    assert not learnt.triggered
    assert learnt.offset_ns / MS == pytest.approx(offset_ms - delay_difference, abs=8)
    assert learnt.confidence < 1


@settings(max_examples=examples(25), deadline=None)
@given(st.floats(-90, 90), st.integers(0, 99))
def test_a_difference_of_delays_is_not_an_offset(difference, seed):
    free, locked = OffsetLearner(), OffsetLearner()
    play(free, 0.0, (30.0, 8.6), delays_ms=(100.0, 100.0 + difference), seed=seed)
    assert (free.learnt.offset_ns, free.learnt.confidence) == (0, 0.0)
    play(locked, 0.0, delays_ms=(100.0, 100.0 + difference), seed=seed)
    assert abs(locked.learnt.offset_ns) < 1.5 * MS


@pytest.mark.parametrize("rates", [(30.0, 29.99), (30.0, 29.97), (30.0, 30.01)])
def test_cameras_of_nearly_equal_rates_are_found_out(rates):
    """Their phase looks constant for a while; once it has drifted, no phase is claimed."""
    learner = OffsetLearner()
    found = play(learner, 0.0, rates, phase_ms=5.0, jitter_ms=0.1, seconds=120)
    assert found[0].triggered
    assert not learner.learnt.triggered
    assert learner.learnt.offset_ns == 0
    assert play(learner, 0.0, rates, phase_ms=5.0, jitter_ms=0.1, seconds=60, start_s=130) == []


def test_it_is_found_within_two_windows_and_reported_once():
    learner = OffsetLearner(frames=30)
    assert len(play(learner, 400.0, seconds=2.2)) == 1
    assert play(learner, 400.0, seconds=20, start_s=3) == []


def test_a_bag_that_starts_again_keeps_it():
    learner = OffsetLearner()
    play(learner, 400.0)
    before = learner.learnt
    assert all(abs(new.offset_ns - before.offset_ns) < 3 * MS for new in play(learner, 400.0))


def test_the_same_calls_give_the_same_offset():
    first, second = OffsetLearner(), OffsetLearner()
    assert play(first, 333.0, seed=5) == play(second, 333.0, seed=5)


def test_frames_without_stamp_or_order_are_passed_over():
    learner = OffsetLearner(frames=8)
    for i in range(8):
        for stream in ("rgb", "ir"):
            assert learner.push(stream, 0, i) is None
            assert learner.push(stream, START, i) is None
    assert learner.learnt is None


def test_memory_is_bounded_when_one_camera_is_silent():
    learner = OffsetLearner(frames=8)
    for i in range(5000):
        learner.push("rgb", START + i * 33 * MS, i * 33 * MS)
    assert len(learner._rgb) <= 16 * 8


def test_words():
    assert str(LearntOffset(400 * MS, 0.97, True, 60)) == "+400.0 ms (cameras in step; confidence 0.97, 60 frames)"
