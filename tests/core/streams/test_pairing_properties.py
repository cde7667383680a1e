"""Pairing by stamps: invariants for any two cameras, and distance from the optimal pairing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.streams.pairing import Pair, Pairer
from tests.core.streams.recording import MS, START, Recording, best_matching, camera, mean_error, stamps
from tests.examples import examples

rates = st.sampled_from([(30, 9), (9, 30), (60, 9), (30, 30), (30, 25), (10, 10), (30, 29.9), (25, 8.7)])
recordings = st.builds(
    lambda rates, phase, jitter, lost, delays, seed: Recording(
        camera(rates[0], 3, 0, jitter, lost, random.Random(seed)),
        camera(rates[1], 3, phase, jitter, lost, random.Random(seed + 1)),
        *delays,
    ),
    rates,
    st.floats(0, 200),
    st.floats(0, 8),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.tuples(st.floats(0, 120), st.floats(0, 120)),
    st.integers(0, 10_000),
)
any_calls = st.lists(
    st.tuples(st.sampled_from(["rgb", "ir"]), st.one_of(st.integers(0, 4000), st.integers(-5, 10**6))), max_size=80
)


def check_bookkeeping(pairer: Pairer, pushed: int, pairs: list[Pair]) -> None:
    assert all(abs(pair.error_ns) <= pairer.slop_ns for pair in pairs)
    used = [("rgb", id(pair.rgb)) for pair in pairs] + [("ir", id(pair.ir)) for pair in pairs]
    assert len(used) == len(set(used))
    waiting = pairer.waiting("rgb") + pairer.waiting("ir")
    assert pushed == 2 * len(pairs) + sum(pairer.drops.values()) + waiting


@settings(max_examples=examples(150), deadline=None)
@given(recordings, st.floats(1, 150))
def test_pairs_are_in_order_within_the_slop_and_use_each_frame_once(recording, slop):
    pairer = Pairer(slop)
    pairs = []
    for _, stream, stamp in recording.arrivals():
        pairs += pairer.push(stream, round(stamp * MS), object())
    pairs += pairer.flush()
    check_bookkeeping(pairer, len(recording.rgb) + len(recording.ir), pairs)
    assert [p.rgb_stamp_ns for p in pairs] == sorted(p.rgb_stamp_ns for p in pairs)
    assert [p.ir_stamp_ns for p in pairs] == sorted(p.ir_stamp_ns for p in pairs)


@settings(max_examples=examples(300), deadline=None)
@given(any_calls, st.floats(0.5, 300), st.floats(-300, 300), st.integers(2, 6))
def test_no_sequence_of_calls_breaks_it(calls, slop, offset, depth):
    pairer = Pairer(slop, offset, depth)
    pairs = []
    for stream, stamp in calls:
        pairs += pairer.push(stream, stamp * MS, object())
        assert pairer.waiting("rgb") <= depth
        assert pairer.waiting("ir") <= depth
    pairs += pairer.flush()
    check_bookkeeping(pairer, len(calls), pairs)
    assert pairer.pairs == len(pairs)


@settings(max_examples=examples(60), deadline=None)
@given(any_calls, st.floats(0.5, 300))
def test_the_same_calls_give_the_same_answers(calls, slop):
    def play() -> tuple[list, dict, list]:
        pairer = Pairer(slop)
        pairs = [stamps(pairer.push(stream, stamp * MS, None)) for stream, stamp in calls]
        return pairs, dict(pairer.drops), pairer.take_events()

    assert play() == play()


@settings(max_examples=examples(80), deadline=None)
@given(
    st.integers(2, 40),
    st.floats(-16, 16),
    st.floats(0, 3),
    st.integers(0, 1000),
    st.tuples(st.floats(0, 300), st.floats(0, 300)),
)
def test_equal_cameras_give_the_same_pairs_however_their_messages_interleave(count, phase, jitter, seed, delays):
    """At 10 Hz, with partners well below half a period apart."""
    rng = random.Random(seed)
    rgb = [START + 100 * i + rng.uniform(-jitter, jitter) for i in range(count)]
    ir = [START + 100 * i + phase + rng.uniform(-jitter, jitter) for i in range(count)]
    pairs = Recording(rgb, ir, *delays).play(Pairer(slop_ms=40))
    assert [(p.rgb, p.ir) for p in pairs] == list(zip(rgb, ir, strict=True))


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 100_000))
def test_a_slow_camera_among_a_fast_one_that_arrived_before_gets_its_nearest_frames(period, rate, seed):
    """If everything is known at the time of the decision, the partner is the nearest frame, by brute force."""
    rng = random.Random(seed)
    fast = [START + period * 2 * i for i in range(14)]
    slow = [START + t for t in sorted(rng.sample(range(period * 26), 2))]
    if slow[1] - slow[0] <= 6 * period:
        slow = slow[:1]
    pairer = Pairer(slop_ms=period + 0.5)
    for t in fast:
        pairer.push("rgb", t * MS, t)
    pairs = [pair for t in slow for pair in pairer.push("ir", t * MS, t)] + pairer.flush()
    least = [min(abs(t - f) for f in fast) for t in slow]
    assert [abs(pair.error_ns) // MS for pair in pairs] == least


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rates", [(30, 9), (9, 30), (60, 9), (30, 25)])
def test_unequal_rates_are_within_five_percent_of_the_best_attainable(rates, seed):
    rng = random.Random(seed)
    jitter, delay = rng.choice([0, 1, 3, 5]), rng.choice([0, 40, 150])
    rgb, ir = (
        camera(rates[0], 12, 0, jitter, 0, rng),
        camera(rates[1], 12, rng.uniform(0, 100), jitter, 0, rng),
    )
    count, error = best_matching(rgb, ir, 50)
    pairs = Recording(rgb, ir, ir_delay=delay).play(Pairer(slop_ms=50))
    assert len(pairs) >= 0.98 * count
    assert mean_error(pairs) <= 1.05 * error


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rates", [(30, 9), (30, 30), (30, 25), (10, 10)])
def test_lost_frames_cost_few_pairs_and_no_accuracy(rates, seed):
    rng = random.Random(100 + seed)
    rgb = camera(rates[0], 12, 0, 2, 0.05, rng)
    ir = camera(rates[1], 12, rng.uniform(0, 100), 2, 0.05, rng)
    count, error = best_matching(rgb, ir, 50)
    pairs = Recording(rgb, ir).play(Pairer(slop_ms=50))
    assert len(pairs) >= 0.93 * count
    assert mean_error(pairs) <= 1.05 * error


def test_equal_rates_add_no_delay():
    """With 4 ms between the cameras, 30 Hz, jitter 2 ms: every pair is complete with its second frame."""
    rng = random.Random(3)
    pairer, waited = Pairer(slop_ms=20), 0
    for i in range(300):
        rgb, ir = START + i * 33.3 + rng.uniform(-2, 2), START + i * 33.3 + 4 + rng.uniform(-2, 2)
        pairer.push("rgb", round(rgb * MS), None)
        waited += len(pairer.push("ir", round(ir * MS), None)) != 1
    assert waited == 0
