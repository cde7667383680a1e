"""Pairing in which an infrared frame may serve several RGB frames."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.streams.pairing import PAIRING, Pair, Pairer
from tests.core.streams.recording import MS, START, Recording, camera
from tests.core.streams.test_pairing_properties import any_calls, recordings
from tests.examples import examples

REUSE = ("latest", "nearest")


def two_cameras(rgb_hz: float, ir_hz: float, seed: int = 0, jitter: float = 1.0, ir_delay: float = 0.0) -> Recording:
    rng = random.Random(seed)
    return Recording(
        camera(rgb_hz, 6, 0, jitter, 0, rng), camera(ir_hz, 6, rng.uniform(0, 30), jitter, 0, rng), ir_delay=ir_delay
    )


def stamps(pairs: list[Pair]) -> list[tuple[float, float]]:
    return [(pair.rgb, pair.ir) for pair in pairs]


def waits(recording: Recording, pairer: Pairer) -> list[float]:
    """Return the time from the arrival of each paired RGB frame to its pair, in milliseconds."""
    waited = []
    for now, stream, stamp in recording.arrivals():
        waited += [now - pair.rgb for pair in pairer.push(stream, round(stamp * MS), stamp)]
    return waited


@pytest.mark.parametrize("policy", REUSE)
@pytest.mark.parametrize("seed", range(4))
def test_every_rgb_frame_at_30_hz_gets_a_frame_of_a_9_hz_camera(policy, seed):
    recording = two_cameras(30, 9, seed)
    pairer = Pairer(policy=policy)
    pairs = recording.play(pairer)
    assert len(pairs) >= len(recording.rgb) - 2, "only those before the first infrared frame have none"
    assert len({pair.rgb for pair in pairs}) == len(pairs)
    assert {pair.ir for pair in pairs} == set(recording.ir)
    assert pairer.reused == len(pairs) - len(recording.ir)
    oldest = max(abs(pair.error_ns) for pair in pairs[6:-2]) / MS  # the last ones wait in vain
    assert oldest < (112 + 5 if policy == "latest" else 112 / 2 + 5)


@pytest.mark.parametrize("rates", [(30, 9), (30, 25), (9, 30), (60, 9)])
def test_the_pairs_of_one_to_one_are_among_those_of_latest(rates):
    recording = two_cameras(*rates, jitter=0.0)
    alone, reusing = recording.play(Pairer()), recording.play(Pairer(policy="latest"))
    found = sum(pair in stamps(reusing) for pair in stamps(alone))
    assert found >= 0.97 * len(alone)


@pytest.mark.parametrize("policy", REUSE)
def test_cameras_of_equal_rate_make_the_same_pairs_as_without_reuse(policy):
    rgb = [START + 33.3 * i for i in range(60)]
    recording = Recording(rgb, [t + 9 for t in rgb], ir_delay=45)
    assert stamps(recording.play(Pairer(policy=policy))) == list(zip(rgb, recording.ir, strict=True))


@pytest.mark.parametrize("policy", REUSE)
@pytest.mark.parametrize("seed", range(20))
def test_cameras_that_are_triggered_together_at_any_time_are_paired_with_each_other(policy, seed):
    """The RGB frame arrives first, no period predicts its partner, and the medians of the periods differ."""
    rng = random.Random(seed)
    rgb = [START]
    for _ in range(30):
        rgb.append(rgb[-1] + rng.choice([60, 100, 250, 400, 2000]))
    pairer = Pairer(policy=policy)
    assert stamps(Recording(rgb, rgb, ir_delay=20).play(pairer)) == [(t, t) for t in rgb]
    assert not pairer.drops


@pytest.mark.parametrize("policy", REUSE)
@pytest.mark.parametrize("period", [33.3, 80, 240])
def test_an_infrared_camera_that_starts_first_is_paired_with_its_partners(policy, period):
    rgb = [START + period * i for i in range(4, 30)]
    ir = [START + period * i for i in range(30)]
    pairs = stamps(Recording(rgb, ir, rgb_delay=1, ir_delay=20).play(Pairer(policy=policy)))
    assert pairs == [(t, t) for t in rgb]


@pytest.mark.parametrize("ir_hz", [20, 22])
def test_cameras_of_nearly_one_rate_do_not_wait_for_partners_that_do_not_come(ir_hz):
    waited = waits(two_cameras(30, ir_hz, 4), Pairer(policy="latest"))
    assert sum(waited) / len(waited) < 20


@pytest.mark.parametrize("policy", REUSE)
@pytest.mark.parametrize("delay", [5, 30, 70, 120])
def test_pairs_do_not_depend_on_the_transport_of_infrared_frames(policy, delay):
    late, at_once = two_cameras(30, 9, 3, 0.0, ir_delay=delay), two_cameras(30, 9, 3, 0.0)
    assert stamps(late.play(Pairer(policy=policy)))[10:] == stamps(at_once.play(Pairer(policy=policy)))[10:]


def test_latest_waits_for_the_partner_only_and_nearest_up_to_half_a_period():
    recording = two_cameras(30, 9, 1)
    waited = waits(recording, Pairer(policy="latest"))[6:]
    assert max(waited) <= 1000 / 30 / 2 + 3
    assert sum(wait == 0 for wait in waited) > 0.6 * len(waited), "the frames in between do not wait"
    assert 20 < max(waits(recording, Pairer(policy="nearest"))[6:]) <= 1000 / 9 / 2 + 4


@pytest.mark.parametrize("policy", REUSE)
@pytest.mark.parametrize("delay", [0, 40])
def test_a_lost_infrared_frame_holds_up_no_rgb_frame_for_long(policy, delay):
    recording = two_cameras(30, 9, 2, ir_delay=delay)
    del recording.ir[20], recording.ir[30]
    # Half a period, the transport's delay, and RGB frames by which time is read.
    assert max(waits(recording, Pairer(policy=policy))[10:]) <= 1000 / 9 / 2 + delay + 2 * 1000 / 30 + 5


def test_lost_infrared_frames_of_slow_cameras_hold_up_no_rgb_frame_for_long():
    rgb = [START + 250.0 * i for i in range(20)]
    recording = Recording(rgb, [t for i, t in enumerate(rgb) if i not in (9, 10, 11)], ir_delay=5)
    assert max(waits(recording, Pairer(policy="latest"))) <= 500


@pytest.mark.parametrize(("ir_hz", "oldest"), [(9, 1500 / 9), (4, 250), (1.5, 250), (60, 50)])
def test_the_automatic_slop_follows_the_slower_camera_up_to_a_maximum_age(ir_hz, oldest):
    pairer = Pairer(policy="latest")
    pairs = two_cameras(60, ir_hz).play(pairer)
    assert pairer.slop_ns == pytest.approx(oldest * MS, rel=0.03)
    assert max(abs(pair.error_ns) for pair in pairs) <= 1.03 * oldest * MS
    pairer.set_policy("one_to_one")
    assert pairer.slop_ns == 50 * MS
    pairer.set_slop(7)
    assert pairer.slop_ns == 7 * MS


def test_one_to_one_after_latest_uses_no_frame_again():
    pairer = Pairer(policy="latest")
    recording = two_cameras(30, 9)
    first = recording.play(pairer)
    pairer.set_policy("one_to_one")
    later = Recording([t + 6000 for t in recording.rgb], [t + 6000 for t in recording.ir]).play(pairer)
    assert first[-1].ir not in {pair.ir for pair in later}
    assert len({pair.ir for pair in later}) == len(later)


def test_a_frame_in_use_is_not_released_again_when_infrared_is_alone():
    pairer = Pairer(policy="latest")
    for stream, at in (("ir", 0), ("rgb", 1), ("rgb", 34)):
        pairer.push(stream, round((START + at) * MS), at)
    pairer.flush()
    assert pairer.waiting("ir") == 0
    assert pairer.release("ir") == []
    pairer.push("ir", round((START + 111) * MS), 111)
    assert [frame.payload for frame in pairer.release("ir")] == [111]


def test_a_bag_that_starts_again_is_paired_from_its_beginning():
    recording = two_cameras(30, 9)
    pairer = Pairer(policy="latest")
    first, again = recording.play(pairer), recording.play(pairer)
    assert stamps(again)[3:] == stamps(first)[3:]
    assert pairer.restarts == 1


@settings(max_examples=examples(150), deadline=None)
@given(recordings, st.sampled_from(REUSE))
def test_pairs_are_in_order_within_the_slop_and_every_frame_is_counted(recording, policy):
    pairer = Pairer(policy=policy)
    pairs = recording.play(pairer)
    assert all(abs(pair.error_ns) <= 250 * MS for pair in pairs)
    assert [p.rgb_stamp_ns for p in pairs] == sorted({p.rgb_stamp_ns for p in pairs})
    assert [p.ir_stamp_ns for p in pairs] == sorted(p.ir_stamp_ns for p in pairs)
    check_counts(pairer, len(recording.rgb) + len(recording.ir), pairs)


@settings(max_examples=examples(300), deadline=None)
@given(any_calls, st.lists(st.sampled_from(PAIRING), min_size=1, max_size=4), st.integers(2, 6))
def test_no_sequence_of_calls_and_policies_breaks_it(calls, policies, depth):
    pairer, pairs = Pairer(None, 0.0, depth, policies[0]), []
    for number, (stream, stamp) in enumerate(calls):
        pairer.set_policy(policies[number * len(policies) // len(calls)])
        pairs += pairer.push(stream, stamp * MS, object())
        assert pairer.waiting("rgb") <= depth
        assert pairer.waiting("ir") <= depth
    pairs += pairer.flush()
    check_counts(pairer, len(calls), pairs)


def check_counts(pairer: Pairer, pushed: int, pairs: list[Pair]) -> None:
    used = {("rgb", id(pair.rgb)) for pair in pairs} | {("ir", id(pair.ir)) for pair in pairs}
    assert len({id(pair.rgb) for pair in pairs}) == len(pairs) == pairer.pairs
    assert pairer.reused == len(pairs) - len({id(pair.ir) for pair in pairs})
    waiting = pairer.waiting("rgb") + pairer.waiting("ir")
    assert pushed == len(used) + sum(pairer.drops.values()) + waiting
