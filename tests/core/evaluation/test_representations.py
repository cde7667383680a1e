"""Evaluation of encoders with known features."""

from __future__ import annotations

import tracemalloc
import weakref
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.sources import ImageSet
from spectradino_core.evaluation.feature_metrics import pair_cosines
from spectradino_core.evaluation.representations import (
    FeatureSet,
    MeanCosine,
    evaluate_infrared_pairs,
    evaluate_neighbours,
    evaluate_pairs,
    evaluate_probes,
    extract_each,
    extract_features,
    mean_of,
)
from spectradino_core.evaluation.retrieval_report import neighbours_table, pairs_table, probes_table
from spectradino_core.models.encoders import PlainEncoder
from spectradino_core.models.vit import Features, ViT
from spectradino_core.scenes import MASK_CLASSES

SIDE = 56


class Eye:
    """Encoder whose patch features are the patch's pixels, and whose CLS is their mean."""

    def channels(self, key: str) -> int:
        return 3 if key == "rgb" else 1

    def __call__(self, images):
        out = {}
        for key, image in images.items():
            cells = torch.nn.functional.unfold(image.mean(dim=1, keepdim=True), 14, stride=14).transpose(1, 2)
            out[key] = Features(cells.mean(dim=1), cells[:, :0], cells, (SIDE // 14, SIDE // 14))
        return out


class Ramps:
    """Pairs of the same image."""

    name = "ramps"

    def __len__(self) -> int:
        return 3

    def modalities(self, item: int) -> tuple[str, ...]:
        return ("lwir",)

    def load(self, item: int, modalities) -> ImageSet:
        x, y = np.meshgrid(np.linspace(0, 120, 96), np.linspace(0, 120, 72))
        frame = (x + (item + 1) * y / 3).astype(np.uint8)
        return ImageSet({"rgb": np.dstack([frame] * 3), "lwir": frame}, f"ramp {item}")


@pytest.fixture(scope="module")
def scenes() -> SceneImages:
    return SceneImages(5, (84, 70), misregistration_px=0.0)


def test_extracted_features_are_the_encoders(scenes):
    vit = PlainEncoder(ViT("test").eval())
    classes = len(MASK_CLASSES)
    found = extract_features(vit, scenes, ("lwir",), SIDE, batch=2, truth_classes=classes, keep_patches=True)
    assert found.cls["rgb"].shape == (5, 48)
    assert found.patches["lwir"].shape == (5, 16, 48)
    assert found.depth.shape == found.classes.shape == (5, 16)
    again = extract_features(vit, scenes, ("lwir",), SIDE, batch=5)
    np.testing.assert_allclose(found.cls["lwir"], again.cls["lwir"], atol=1e-5)
    with pytest.raises(ValueError, match="no item has depth"):
        extract_features(vit, SceneImages(1, (84, 70), maps=()), ("depth",), SIDE)


def test_other_views_are_other_crops_of_both_images(scenes):
    found = [
        extract_features(Eye(), scenes, ("segmentation",), SIDE, view=view, keep_patches=True) for view in (0, 1, 2, 1)
    ]
    assert np.abs(found[0].patches["rgb"] - found[1].patches["rgb"]).mean() > 0.05
    assert np.abs(found[1].patches["rgb"] - found[2].patches["rgb"]).mean() > 0.05
    np.testing.assert_array_equal(found[1].patches["rgb"], found[3].patches["rgb"])  # seeded
    ramps = Ramps()
    for view in (0, 3):
        both = extract_features(Eye(), ramps, ("lwir",), SIDE, view=view)
        grey, infrared = (both.cls[key] - both.cls[key].mean(axis=1, keepdims=True) for key in ("rgb", "lwir"))
        assert pair_cosines(grey, infrared)["true"] > 0.99


def test_rows_are_averaged_number_by_number():
    rows = [
        {"items": 4, "way": {"r1": 0.0, "rank": 2.5}, "x": 1.0},
        {"items": 4, "way": {"r1": 1.0, "rank": 3}, "x": 2},
    ]
    assert mean_of(rows) == {"items": 4, "way": {"r1": 0.5, "rank": 2.75}, "x": 1.5}
    assert mean_of(rows[:1]) == rows[0]


def test_truth_lies_where_the_encoder_looks(scenes):
    # Depth shown to an encoder that repeats it: a probe reads it on scenes it was not fitted on, and not from RGB.
    others = SceneImages(8, (84, 70), misregistration_px=0.0, first=100)
    train, test = (
        extract_features(Eye(), source, ("depth",), SIDE, truth_classes=len(MASK_CLASSES), keep_patches=True)
        for source in (others, scenes)
    )
    scores = evaluate_probes(train, test, len(MASK_CLASSES))
    assert scores["depth"]["depth_delta1"] > scores["rgb"]["depth_delta1"] + 0.3
    assert scores["depth"]["depth_rmse"] < 0.7 * scores["rgb"]["depth_rmse"]
    assert set(scores) == {"rgb", "depth", "rgb to depth"}


def collected(rgb, nir, labels=None, **changes) -> FeatureSet:
    return FeatureSet({"rgb": rgb, "nir": nir}, labels or [None] * len(rgb), {("rgb", "nir"): 1.0}, **changes)


def test_pairs_and_retention():
    x = np.eye(4)
    scores = evaluate_pairs(collected(x, 2 * x, retained={"retention_cls": 0.5}))["nir"]
    assert scores["from_rgb"]["r1"] == scores["to_rgb"]["r1"] == 1.0
    assert scores["cosine"] == {"true": pytest.approx(1), "unrelated": pytest.approx(0)}
    assert scores["patch_cosine"] == pytest.approx(1)
    assert scores["retention_cls"] == 0.5
    assert "retention_cls" not in evaluate_pairs(collected(x, x))["nir"]


def test_mean_cosine_by_hand():
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    mean = MeanCosine()
    mean.add(teacher * 7, teacher)
    assert mean.value == pytest.approx(1)
    mean.add(torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]), teacher[[0, 1, 1, 1]])
    assert mean.value == pytest.approx((2 + 1) / 6)
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        mean.add(teacher[:1], teacher)
    with pytest.raises(ValueError, match="not finite"):
        mean.add(teacher * torch.inf, teacher)


def test_accumulated_cosines_equal_those_of_all_patches(scenes):
    torch.manual_seed(0)
    encoders = {"a": PlainEncoder(ViT("test").eval()), "teacher": PlainEncoder(ViT("test").eval())}
    options = {"batch": 2, "teacher": encoders["teacher"], "keep_patches": True}
    found = extract_each(encoders, scenes, ("nir", "lwir"), SIDE, **options)

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (x.astype(np.float64) / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
        return float((a * b).sum(axis=-1).mean())

    patches, teachers = found["a"].patches, found["teacher"].patches
    for pair in (("rgb", "nir"), ("rgb", "lwir"), ("nir", "lwir")):
        assert found["a"].patch_cosines[pair] == pytest.approx(mean(*(patches[key] for key in pair)), abs=1e-6)
    assert found["a"].retained["retention_patches"] == pytest.approx(mean(patches["rgb"], teachers["rgb"]), abs=1e-6)
    own = mean(found["a"].cls["rgb"], found["teacher"].cls["rgb"])
    assert found["a"].retained["retention_cls"] == pytest.approx(own, abs=1e-6)
    assert found["teacher"].retained["retention_cls"] == pytest.approx(1)
    alone = extract_features(encoders["a"], scenes, ("nir", "lwir"), SIDE, teacher=encoders["teacher"], workers=2)
    assert alone.patches == {}
    assert alone.retained == pytest.approx(found["a"].retained, abs=1e-6)
    assert alone.patch_cosines == pytest.approx(found["a"].patch_cosines, abs=1e-6)


class Wide(Eye):
    """An encoder with 64 kB of patch tokens per item and modality, which counts those of its results that are alive."""

    def __init__(self) -> None:
        self.patches: list[weakref.ref] = []
        self.alive = 0

    def __call__(self, images):
        self.alive = max(self.alive, sum(one() is not None for one in self.patches))
        found = {
            key: replace(one, patches=one.patches.mean(dim=2, keepdim=True).repeat(1, 4, 256))
            for key, one in super().__call__(images).items()
        }
        self.patches += [weakref.ref(one.patches) for one in found.values()]
        return found


class Many(Ramps):
    def __len__(self) -> int:
        return 40


@pytest.mark.parametrize("keep", [False, True])
def test_memory_does_not_grow_with_patches_times_items(keep):
    encoder = Wide()
    tracemalloc.start()
    try:
        found = extract_features(encoder, Many(), ("lwir",), SIDE, batch=2, teacher=encoder, keep_patches=keep)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.retained["retention_patches"] == pytest.approx(1)
    every = 2 * len(Many()) * 64 * 256 * 4  # bytes of all patch tokens, 5 MB
    if keep:
        assert peak > every
    else:
        assert encoder.alive <= 2 * 2  # tokens of the batch before
        assert peak < every / 4


def test_mean_patch_tokens_are_scored_beside_cls():
    x = np.eye(4)
    gap = {"rgb": x, "nir": x[[1, 0, 2, 3]]}
    found = collected(x, x, list("abcd"), gap=gap)
    scores = evaluate_pairs(found)["nir"]
    assert (scores["from_rgb"]["r1"], scores["gap"]["from_rgb"]["r1"], scores["gap"]["to_rgb"]["r1"]) == (1.0, 0.5, 0.5)
    neighbours = evaluate_neighbours(found, found, k=1)
    assert (neighbours["rgb to nir"], neighbours["nir (GAP)"], neighbours["rgb to nir (GAP)"]) == (1.0, 1.0, 0.5)
    table = pairs_table({"model": {"val, nir": scores}})
    assert table.splitlines()[0].count("|") == table.splitlines()[2].count("|") == 15
    assert "| 50.0 | 50.0 |" in table


def test_neighbours_within_and_across_modalities():
    x = np.eye(4)
    train, test = collected(x, x[::-1], list("abcd")), collected(x, x[::-1], list("abcd"))
    assert evaluate_neighbours(train, test, k=1) == {"rgb": 1.0, "nir": 1.0, "rgb to nir": 0.0}
    with pytest.raises(ValueError, match="class of every item"):
        evaluate_neighbours(train, replace(test, labels=["a", "b", None, "d"]))


def test_tables_show_every_row():
    x, kept = np.eye(4), {"retention_cls": 1.0, "retention_patches": 1.0}
    scores = {name: {"val, nir": evaluate_pairs(collected(x, x, retained=kept))["nir"]} for name in ("before", "after")}
    table = pairs_table(scores)
    assert (
        "| val, nir (4) | before | 100.0 | 100.0 | 1 | 100.0 | 100.0 | 1 | 1.000 | 0.000 | 1.000 | 1.000, 1.000 |"
        in table
    )
    assert table.count("val, nir") == 2
    probes = {"a": {"rgb": {"depth_rmse": 1.0, "depth_delta1": 0.5, "miou": 0.25}}}
    assert "| rgb | a | 1.00 | 0.500 | 0.250 |" in probes_table(probes)
    assert "| a | 50.0 | – |" in neighbours_table({"a": {"rgb": 0.5}, "b": {"nir": 1.0}})


def test_infrared_bands_are_evaluated_as_pairs():
    rng = np.random.default_rng(0)
    nir = rng.normal(size=(6, 8))
    cls = {"rgb": rng.normal(size=(6, 8)), "nir": nir, "swir": nir, "lwir": np.roll(nir, 1, axis=0)}
    found = FeatureSet(cls, [None] * 6, dict.fromkeys(combinations(cls, 2), 0.5))
    scores = evaluate_infrared_pairs(found)
    assert list(scores) == ["nir to swir", "nir to lwir", "swir to lwir"]
    assert scores["nir to swir"]["from_rgb"]["r1"] == scores["nir to swir"]["cosine"]["true"] == pytest.approx(1)
    assert scores["swir to lwir"]["from_rgb"]["r1"] == scores["swir to lwir"]["to_rgb"]["r1"] == 0
    assert "retention_cls" not in scores["nir to lwir"]
    assert evaluate_infrared_pairs(collected(nir, nir)) == {}
