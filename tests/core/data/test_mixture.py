"""Sample i of a run is a pure function of seed and index."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from spectradino_core.data.augment import Augmentation
from spectradino_core.data.benchmarks.registry import open_benchmark
from spectradino_core.data.mixture import Epochs, KeptPairs, Mixture, SceneSource
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.seeds import FIRST_TEST_SEED, HELD_OUT, TRAINING, held_out_seeds
from spectradino_core.data.sources import SceneSource as ImageScenes
from spectradino_core.evaluation.sets import held_out_scenes, validation_scenes
from spectradino_core.modality import Modality


class Constant:
    """A source whose pairs tell which source they came from."""

    def __init__(self, value: int) -> None:
        self.value = value

    def draw(self, rng: np.random.Generator) -> PairedSample:
        rng.random()
        return PairedSample(
            np.full((32, 40, 3), self.value, np.uint8), np.full((32, 40), self.value, np.uint8), name=str(self.value)
        )


def mixture(seed: int = 0, **options) -> Mixture:
    return Mixture([(3.0, Constant(50)), (1.0, Constant(200))], Augmentation(**options), seed)


def test_a_sample_does_not_depend_on_what_was_drawn_before():
    forwards = mixture()
    backwards = mixture()
    a = [forwards.sample(i) for i in range(6)]
    b = [backwards.sample(i) for i in reversed(range(6))][::-1]
    for (x, present_x), (y, present_y) in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.rgb, y.rgb)
        np.testing.assert_array_equal(x.infrared, y.infrared)
        np.testing.assert_array_equal(present_x, present_y)


def test_seeds_and_indices_differ():
    assert not np.array_equal(mixture(0).sample(0)[0].rgb, mixture(1).sample(0)[0].rgb)
    assert not np.array_equal(mixture(0).sample(0)[0].rgb, mixture(0).sample(1)[0].rgb)


def test_sources_are_drawn_by_weight():
    names = [mixture().sample(i)[0].name for i in range(400)]
    assert names.count("50") / 400 == pytest.approx(0.75, abs=0.06)


def test_bands_are_hidden_one_at_a_time_at_the_stated_rate():
    present = np.stack([mixture(band_dropout=0.2).sample(i)[1] for i in range(500)])
    assert present.any(axis=1).all()
    np.testing.assert_allclose(1 - present.mean(axis=0), [0.2, 0.2], atol=0.05)


def test_needs_sources_with_positive_weight():
    with pytest.raises(ValueError, match="positive weight"):
        Mixture([(0.0, Constant(1))], Augmentation(), 0)


def test_a_pool_of_scenes_repeats_and_an_endless_source_does_not():
    pool = SceneSource(Modality.LWIR, (80, 64), pool=2)
    names = {pool.draw(np.random.default_rng(i)).name for i in range(12)}
    assert len(names) == 2
    endless = SceneSource(Modality.LWIR, (80, 64))
    assert len({endless.draw(np.random.default_rng(i)).name for i in range(6)}) == 6


def test_training_never_sees_the_seeds_of_tests():
    source = SceneSource(Modality.LWIR, (80, 64))
    seeds = [int(source.draw(np.random.default_rng(i)).name.split()[1]) for i in range(20)]
    assert max(seeds) < FIRST_TEST_SEED


def test_every_use_of_held_out_scenes_has_seeds_of_its_own():
    firsts = sorted(HELD_OUT.values())
    assert TRAINING.stop <= FIRST_TEST_SEED == firsts[0]
    assert all(later - earlier >= 1_000 for earlier, later in pairwise(firsts))
    seeds = {
        "report": held_out_scenes(Modality.NIR, 3).seeds,
        "curves": validation_scenes(Modality.NIR, (80, 64), 3).seeds,
        "test": [item.seed for item in open_benchmark("scenes_nir", None, "test")][:3],
        "val": [item.seed for item in open_benchmark("scenes_nir", None, "val")][:3],
    }
    assert {use: list(found) for use, found in seeds.items()} == {use: list(held_out_seeds(use, 3)) for use in seeds}
    assert ImageScenes.held_out(3).name == f"scenes {HELD_OUT['pretraining']} to {HELD_OUT['pretraining'] + 2}"


class Numbered:
    """A labelled set whose pairs say their number; counts how often each is read."""

    def __init__(self, count: int) -> None:
        self.count, self.reads = count, [0] * count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        return place

    def load(self, item: int) -> PairedSample:
        self.reads[item] += 1
        return PairedSample(np.full((32, 40, 3), item, np.uint8), np.full((32, 40), item, np.uint16), name=str(item))


def test_an_epoch_shows_every_pair_once_in_an_order_of_its_own():
    epochs = Epochs(KeptPairs(Numbered(7)), Augmentation(), 0)
    names = [[epochs.sample(epoch * 7 + i)[0].name for i in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == [str(i) for i in range(7)] for epoch in names)
    assert len({tuple(epoch) for epoch in names}) == 3


def test_a_sample_of_an_epoch_does_not_depend_on_what_was_drawn_before():
    a, b = (Epochs(KeptPairs(Numbered(5)), Augmentation(), 3) for _ in range(2))
    there = [a.sample(i) for i in range(12)]
    back = [b.sample(i) for i in reversed(range(12))][::-1]
    for (x, px), (y, py) in zip(there, back, strict=True):
        np.testing.assert_array_equal(x.rgb, y.rgb)
        np.testing.assert_array_equal(px, py)
    with pytest.raises(ValueError, match="no pairs"):
        Epochs(KeptPairs(Numbered(0)), Augmentation(), 0)


def test_pairs_are_read_once_as_far_as_there_is_room():
    pairs = Numbered(4)
    one = 32 * 40 * 5
    kept = KeptPairs(pairs, room=2 * one)
    for _ in range(3):
        for place in range(4):
            assert kept[place].name == str(place)
    assert pairs.reads == [1, 1, 3, 3]
    small = KeptPairs(pairs, largest=(20, 20))
    assert small[1].size == (20, 16)
