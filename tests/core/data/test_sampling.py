"""Bands and items of a step."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.data.sampling import AdaptiveBands, RoundRobin, spread_order
from tests.examples import examples


def test_round_robin_takes_turns():
    bands = RoundRobin(["nir", "swir", "lwir"])
    assert [bands.select(step) for step in range(5)] == [("nir", 0), ("swir", 0), ("lwir", 0), ("nir", 1), ("swir", 1)]


def order(sequences, frames, gap, batch, seed=0):
    count = len(sequences)
    return spread_order(
        np.array(sequences), np.array(frames), np.full(count, gap), batch, np.random.default_rng(seed)
    )  # fmt: skip


def neighbours(rows, sequences, frames, gap):
    return sum(
        sequences[a] == sequences[b] and abs(frames[a] - frames[b]) < gap for i, a in enumerate(rows) for b in rows[:i]
    )


@settings(deadline=None, max_examples=examples(30))
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 1000))
def test_an_epoch_shows_items_at_most_once_in_whole_batches(count, batch, seed):
    batch = min(batch, count)
    rows, _ = order([k % 3 for k in range(count)], range(count), 2, batch, seed)
    assert len(rows) == count // batch * batch
    assert len(set(rows.tolist())) == len(rows)
    assert set(rows.tolist()) <= set(range(count))


def test_video_neighbours_do_not_meet():
    # Two recordings of 600 frames each and 40 single images, in batches of 16.
    sequences = [0] * 600 + [1] * 600 + list(range(2, 42))
    frames = [*range(600), *range(600), *([0] * 40)]
    for seed in range(5):
        rows, met = order(sequences, frames, 20, 16, seed)
        assert met == 0
        assert sum(neighbours(b, sequences, frames, 20) for b in rows.reshape(-1, 16)) == 0
    # What it saves: batches drawn without regard hold such pairs.
    careless = np.random.default_rng(0).permutation(len(sequences))[:1232].reshape(-1, 16)
    assert sum(neighbours(b, sequences, frames, 20) for b in careless) > 100


def test_any_stretch_of_an_epoch_is_spread_over_the_recordings():
    """The teacher queue holds such a stretch: each recording must have the same fraction of it as of the data."""
    sequences = np.repeat([0, 1, 2], [600, 300, 100])
    frames = np.concatenate([np.arange(600), np.arange(300), np.arange(100)])
    rows, _ = order(sequences, frames, 5, 10)
    shown = np.eye(3)[sequences[rows]]
    for start in range(0, len(rows) - 200, 50):
        np.testing.assert_allclose(shown[start : start + 200].mean(axis=0), [0.6, 0.3, 0.1], atol=0.04)


def test_where_neighbours_must_meet_it_is_counted():
    rows, met = order([0] * 12, range(12), 100, 4)
    assert len(rows) == 12
    assert met == 9  # three batches, one item of each at ease


def test_unknown_frames_are_neighbours_of_their_sequence():
    sequences = [k // 4 for k in range(16)]
    rows, met = order(sequences, [-1] * 16, 1, 4)
    assert met == 0
    for batch in rows.reshape(-1, 4):
        assert len({sequences[row] for row in batch}) == 4


def run(sampling, steps, losses):
    out = []
    for step in steps:
        group, nth = sampling.select(step)
        out.append((group, nth))
        sampling.record(step, group, losses[group])
    return out


LOSSES = {"nir": 0.2, "swir": 0.2, "lwir": 1.2}


def test_adaptive_bands_show_more_of_what_is_learnt_badly():
    sampling = AdaptiveBands(list(LOSSES), seed=3, period=30)
    shown = [group for group, _ in run(sampling, range(900), LOSSES)]
    chances = dict(zip(LOSSES, sampling._probabilities_of(900 // 30)))
    assert chances["lwir"] == pytest.approx(0.1 + 0.7 * 1.2 / 1.6)
    assert chances["nir"] == pytest.approx(0.1 + 0.7 * 0.2 / 1.6)
    share = shown[60:].count("lwir") / 840
    assert share == pytest.approx(0.625, abs=0.06)
    assert shown[:60].count("lwir") == pytest.approx(20, abs=10)  # even until losses are known


def test_adaptive_bands_count_each_group_through():
    shown = run(AdaptiveBands(list(LOSSES), seed=3, period=10), range(200), LOSSES)
    for band in LOSSES:
        assert [nth for group, nth in shown if group == band] == list(range(sum(g == band for g, _ in shown)))


def test_adaptive_bands_can_be_selected_a_period_ahead():
    plain = run(AdaptiveBands(list(LOSSES), seed=3, period=10), range(100), LOSSES)
    ahead = AdaptiveBands(list(LOSSES), seed=3, period=10)
    early = [ahead.select(step) for step in range(10)]
    for step in range(90):
        early.append(ahead.select(step + 10))
        ahead.record(step, early[step][0], LOSSES[early[step][0]])
    assert early == plain
    with pytest.raises(ValueError, match="undetermined.*fewer workers"):
        ahead.select(300)


def test_adaptive_bands_resume_from_json():
    whole = AdaptiveBands(list(LOSSES), seed=3, period=10)
    expected = run(whole, range(120), LOSSES)
    first = AdaptiveBands(list(LOSSES), seed=3, period=10)
    run(first, range(57), LOSSES)
    second = AdaptiveBands(list(LOSSES), seed=3, period=10)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert run(second, range(57, 120), LOSSES) == expected[57:]
    assert second.state_dict() == whole.state_dict()


def test_adaptive_bands_refuse_what_is_no_loss():
    sampling = AdaptiveBands(["nir"], seed=0)
    for step, group, loss in ((1, "nir", 1.0), (0, "uv", 1.0), (0, "nir", float("nan"))):
        with pytest.raises(ValueError, match="expected step 0"):
            sampling.record(step, group, loss)
