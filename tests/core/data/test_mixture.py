"""Sample i of a run is a pure function of seed and index."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from spectradino_core.data.augment import Augmentation, shrink
from spectradino_core.data.mixture import CachedPairs, Epochs, Mixture
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scene_sets import (
    FIRST_TEST_SEED,
    HELD_OUT,
    TRAINING,
    SceneImages,
    ScenePairs,
    held_out_seeds,
)
from spectradino_core.datasets.registry import open_benchmark
from spectradino_core.evaluation.sets import FolderSet
from spectradino_core.modality import Modality
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES
from spectradino_core.training.recipes import box_real
from tests.examples import examples


class Constant:
    """Source whose pairs identify it."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> PairedSample:
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


def drawn(source: ScenePairs, seed: int) -> PairedSample:
    """Draw as a mixture does."""
    return Mixture([(1.0, source)], Augmentation(), seed).sample(0)[0]


def test_a_pool_of_scenes_repeats_and_an_endless_source_does_not():
    pool = ScenePairs.training(Modality.LWIR, (80, 64), pool=2)
    names = {drawn(pool, i).name for i in range(12)}
    assert len(names) == 2
    endless = ScenePairs.training(Modality.LWIR, (80, 64))
    assert len({drawn(endless, i).name for i in range(6)}) == 6


def test_training_never_sees_the_seeds_of_tests():
    source = ScenePairs.training(Modality.LWIR, (80, 64))
    seeds = [int(drawn(source, i).name.split()[1]) for i in range(examples(20))]
    assert max(seeds) < FIRST_TEST_SEED


def test_every_use_of_held_out_scenes_has_seeds_of_its_own():
    firsts = sorted(HELD_OUT.values())
    assert TRAINING.stop <= FIRST_TEST_SEED == firsts[0]
    assert all(later - earlier >= 1_000 for earlier, later in pairwise(firsts))
    seeds = {
        "report": ScenePairs.held_out("report", 3, Modality.NIR).seeds,
        "curves": ScenePairs.held_out("curves", 3, Modality.NIR).seeds,
        "test": [item.seed for item in open_benchmark("scenes_nir", None, "test")][:3],
        "val": [item.seed for item in open_benchmark("scenes_nir", None, "val")][:3],
    }
    assert {use: list(found) for use, found in seeds.items()} == {use: list(held_out_seeds(use, 3)) for use in seeds}
    assert SceneImages.held_out(3).name == f"scenes {HELD_OUT['pretraining']} to {HELD_OUT['pretraining'] + 2}"


class Numbered:
    """Labelled set whose pairs contain their index; counts how often each is read."""

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
    epochs = Epochs(CachedPairs(Numbered(7)), Augmentation(), 0)
    names = [[epochs.sample(epoch * 7 + i)[0].name for i in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == [str(i) for i in range(7)] for epoch in names)
    assert len({tuple(epoch) for epoch in names}) == 3


def test_a_sample_of_an_epoch_does_not_depend_on_what_was_drawn_before():
    a, b = (Epochs(CachedPairs(Numbered(5)), Augmentation(), 3) for _ in range(2))
    there = [a.sample(i) for i in range(12)]
    back = [b.sample(i) for i in reversed(range(12))][::-1]
    for (x, px), (y, py) in zip(there, back, strict=True):
        np.testing.assert_array_equal(x.rgb, y.rgb)
        np.testing.assert_array_equal(px, py)
    with pytest.raises(ValueError, match="no pairs"):
        Epochs(CachedPairs(Numbered(0)), Augmentation(), 0)


def test_pairs_are_read_once_as_far_as_there_is_room():
    pairs = Numbered(4)
    one = 32 * 40 * 5
    kept = CachedPairs(pairs, max_bytes=2 * one)
    for _ in range(3):
        for place in range(4):
            assert kept[place].name == str(place)
    assert pairs.reads == [1, 1, 3, 3]
    small = CachedPairs(pairs, largest=(20, 20))
    assert small[1].size == (20, 16)


def folder_of(root: Path, name: str, bands: tuple[str, ...], boxes: bool, mask: bool) -> None:
    """Data set of one 40x32 image, with boxes of bicycles only or with a mask."""
    home = root / name
    entry = {"id": "a", "width": 40, "height": 32, "label": "train/label/a.png" if mask else None}
    for band in (*bands, *(["label"] if mask else [])):
        (home / "train" / band).mkdir(parents=True)
        image = np.full((32, 40, 3) if band == "rgb" else (32, 40), 1 if band == "label" else 90, np.uint8)
        cv2.imwrite(str(home / f"train/{band}/a.png"), image)
        entry |= {band: f"train/{band}/a.png"} if band != "label" else {}
    names = {"mask_classes": ["sky", "car"]} if mask else {}
    (home / "index_train.json").write_text(json.dumps({"set": name, "items": [entry]} | names))
    if boxes:
        annotation = {"image_id": 1, "category_id": 1, "bbox": [4, 4, 8, 8]}
        listed = {
            "images": [{"id": 1, "file_name": f"train/{bands[0]}/a.png"}],
            "categories": [{"id": 1, "name": "bike"}],
            "annotations": [annotation, annotation | {"bbox": [20, 4, 12, 12], "iscrowd": 1}],
        }
        (home / "instances_train.json").write_text(json.dumps(listed))


def test_images_of_one_camera_are_drawn_with_what_their_set_labels(tmp_path):
    folder_of(tmp_path, "heat_lwir", ("lwir",), boxes=True, mask=False)
    folder_of(tmp_path, "street_rgb", ("rgb",), boxes=False, mask=True)
    classes = (Modality.LWIR, BOX_CLASSES, MASK_CLASSES)
    (heat,) = FolderSet(tmp_path / "heat_lwir", "train", *classes)
    assert (heat.present, heat.labelled_classes, heat.mask) == ((False, True), (1,), None)
    assert not heat.rgb.any()
    assert (heat.labels.tolist(), heat.ignored.tolist()) == ([1], [[20, 4, 32, 16]])
    street = shrink(next(FolderSet(tmp_path / "street_rgb", "train", *classes).samples()), (20, 20))
    assert (street.present, street.boxes, street.size) == ((True, False), None, (20, 16))
    assert np.unique(street.mask).tolist() == [MASK_CLASSES.index("car")]
    recipe = replace(box_real(), mix=(("heat", 3), ("street", 1), ("scenes", 1e-9)), scene_size=(80, 64))
    mixed, shares = recipe.mixture(tmp_path)
    assert shares == pytest.approx({"heat_lwir": 0.75, "street_rgb": 0.25, "scenes": 0}, abs=1e-6)
    for index in range(40):  # the only frame is never the one that is hidden
        sample, present = mixed.sample(index)
        assert tuple(present) == sample.present


def test_own_data_is_a_source_with_its_classes_by_name(tmp_path, caplog):
    folder = tmp_path / "mine"
    for place in ("thermal/train", "labels/train"):
        (folder / place).mkdir(parents=True)
    (folder / "classes.txt").write_text("forklift\nbike\n")
    for number in (1, 2):
        cv2.imwrite(str(folder / f"thermal/train/{number}.png"), np.full((32, 40), 90 * number, np.uint8))
        (folder / f"labels/train/{number}.txt").write_text("1 0.5 0.5 0.5 0.5\n0 0.1 0.1 0.1 0.1\n")
    recipe = replace(box_real(), mix=(("mine", 1),))
    mixed, fractions = recipe.mixture(tmp_path)
    sample, present = mixed.sample(0)
    assert (fractions, present.tolist(), sample.present) == ({"mine": 1}, [False, True], (False, True))
    assert (set(sample.labels.tolist()), sample.labelled_classes, sample.mask) == ({1}, (1,), None)
    assert "mine: its labels of forklift are not used" in caplog.text
    for text in (folder / "labels/train").iterdir():
        text.write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(ValueError, match="mine can't be used to train lwir_box.*it labels boxes of forklift"):
        recipe.mixture(tmp_path)
    shutil.copytree(folder / "thermal", folder / "other")
    (folder / "thermal").rename(folder / "one")
    with pytest.raises(ValueError, match="give --rgb .*; --mix has no such options: name the folders so"):
        recipe.mixture(tmp_path)
    for camera in ("one", "other"):
        shutil.rmtree(folder / camera)
    with pytest.raises(ValueError, match="mine: holds no images"):
        recipe.mixture(tmp_path)


def test_a_mix_names_its_folders_by_what_they_begin_with(tmp_path):
    folder_of(tmp_path, "street_rgb", ("rgb",), boxes=False, mask=True)
    (tmp_path / "street_too").mkdir()
    with pytest.raises(ValueError, match="several folders.*'street'.*street_rgb, street_too"):
        replace(box_real(), mix=(("street", 1),)).mixture(tmp_path)
    with pytest.raises(ValueError, match="no folder.*'msrs'"):
        replace(box_real(), mix=(("msrs", 1),)).mixture(tmp_path)
    with pytest.raises(ValueError, match="named twice"):
        replace(box_real(), mix=(("street_r", 1), ("street_rgb", 1))).mixture(tmp_path)
    with pytest.raises(ValueError, match="positive"):
        replace(box_real(), mix=(("street_r", 0),))
    (tmp_path / "street_rgb" / "index_train.json").write_text(
        json.dumps({"items": [{"id": "a", "width": 40, "height": 32, "rgb": "train/rgb/a.png", "label": None}]})
    )
    with pytest.raises(ValueError, match="no image of its train split is labelled"):
        FolderSet(tmp_path / "street_rgb", "train", Modality.LWIR)
