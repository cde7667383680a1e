"""Judgements of encoders whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.sources import ImageSet
from spectradino_core.evaluation.representations import (
    FeatureSet,
    evaluate_infrared_pairs,
    evaluate_neighbours,
    evaluate_pairs,
    evaluate_probes,
    extract_features,
    mean_of,
)
from spectradino_core.evaluation.retrieval import pair_cosines
from spectradino_core.evaluation.retrieval_report import neighbours_table, pairs_table, probes_table
from spectradino_core.models.encoders import PlainEncoder
from spectradino_core.models.vit import Features, ViT
from spectradino_core.scenes import MASK_CLASSES

SIDE = 56


class Eye:
    """An encoder that says what it sees: a patch's features are its pixels, CLS is their mean."""

    def channels(self, key: str) -> int:
        return 3 if key == "rgb" else 1

    def __call__(self, images):
        out = {}
        for key, image in images.items():
            cells = torch.nn.functional.unfold(image.mean(dim=1, keepdim=True), 14, stride=14).transpose(1, 2)
            out[key] = Features(cells.mean(dim=1), cells[:, :0], cells, (SIDE // 14, SIDE // 14))
        return out


class Ramps:
    """Pairs of one and the same picture."""

    name = "ramps"

    def __len__(self) -> int:
        return 3

    def modalities(self, item: int) -> tuple[str, ...]:
        return ("lwir",)

    def load(self, item: int, modalities) -> ImageSet:
        x, y = np.meshgrid(np.linspace(0, 120, 96), np.linspace(0, 120, 72))
        picture = (x + (item + 1) * y / 3).astype(np.uint8)
        return ImageSet({"rgb": np.dstack([picture] * 3), "lwir": picture}, f"ramp {item}")


@pytest.fixture(scope="module")
def scenes() -> SceneImages:
    return SceneImages(5, (84, 70), misregistration_px=0.0)


def test_extracted_features_are_the_encoders(scenes):
    vit = PlainEncoder(ViT("test").eval())
    found = extract_features(vit, scenes, ("lwir",), SIDE, batch=2, truth_classes=len(MASK_CLASSES))
    assert found.cls["rgb"].shape == (5, 48)
    assert found.patches["lwir"].shape == (5, 16, 48)
    assert found.depth.shape == found.classes.shape == (5, 16)
    again = extract_features(vit, scenes, ("lwir",), SIDE, batch=5)
    np.testing.assert_allclose(found.cls["lwir"], again.cls["lwir"], atol=1e-5)
    with pytest.raises(ValueError, match="no item has depth"):
        extract_features(vit, SceneImages(1, (84, 70), maps=()), ("depth",), SIDE)


def test_other_views_are_other_crops_of_both_images(scenes):
    found = [extract_features(Eye(), scenes, ("segmentation",), SIDE, view=view) for view in (0, 1, 2, 1)]
    assert np.abs(found[0].patches["rgb"] - found[1].patches["rgb"]).mean() > 0.05
    assert np.abs(found[1].patches["rgb"] - found[2].patches["rgb"]).mean() > 0.05
    np.testing.assert_array_equal(found[1].patches["rgb"], found[3].patches["rgb"])  # seeded
    ramps = Ramps()
    for view in (0, 3):
        both = extract_features(Eye(), ramps, ("lwir",), SIDE, view=view)
        grey, infrared = (both.cls[key] - both.cls[key].mean(axis=1, keepdims=True) for key in ("rgb", "lwir"))
        assert pair_cosines(grey, infrared).true > 0.99


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
        extract_features(Eye(), source, ("depth",), SIDE, truth_classes=len(MASK_CLASSES))
        for source in (others, scenes)
    )
    scores = evaluate_probes(train, test, len(MASK_CLASSES))
    assert scores["depth"]["depth_delta1"] > scores["rgb"]["depth_delta1"] + 0.3
    assert scores["depth"]["depth_rmse"] < 0.7 * scores["rgb"]["depth_rmse"]
    assert set(scores) == {"rgb", "depth", "rgb to depth"}


def collected(rgb, nir, labels=None) -> FeatureSet:
    patches = {"rgb": np.asarray(rgb)[:, None], "nir": np.asarray(nir)[:, None]}
    return FeatureSet({"rgb": np.asarray(rgb), "nir": np.asarray(nir)}, patches, labels or [None] * len(rgb))


def test_pairs_and_retention():
    x = np.eye(4)
    scores = evaluate_pairs(collected(x, 2 * x), collected(x[[1, 0, 2, 3]], x))["nir"]
    assert scores["from_rgb"]["r1"] == scores["to_rgb"]["r1"] == 1.0
    assert scores["cosine"] == {"true": pytest.approx(1), "unrelated": pytest.approx(0)}
    assert scores["patch_cosine"] == pytest.approx(1)
    assert scores["retention_cls"] == pytest.approx(0.5)
    assert "retention_cls" not in evaluate_pairs(collected(x, x))["nir"]


def test_neighbours_within_and_across_modalities():
    x = np.eye(4)
    train, test = collected(x, x[::-1], list("abcd")), collected(x, x[::-1], list("abcd"))
    assert evaluate_neighbours(train, test, k=1) == {"rgb": 1.0, "nir": 1.0, "rgb to nir": 0.0}
    with pytest.raises(ValueError, match="class of every item"):
        evaluate_neighbours(train, replace(test, labels=["a", "b", None, "d"]))


def test_tables_show_every_row():
    x = np.eye(4)
    scores = {
        name: {"val, nir": evaluate_pairs(collected(x, x), collected(x, x))["nir"]} for name in ("before", "after")
    }
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
    nir, patches = rng.normal(size=(6, 8)), rng.normal(size=(6, 4, 8))
    cls = {"rgb": rng.normal(size=(6, 8)), "nir": nir, "swir": nir, "lwir": np.roll(nir, 1, axis=0)}
    found = FeatureSet(cls, dict.fromkeys(cls, patches), [None] * 6)
    scores = evaluate_infrared_pairs(found)
    assert list(scores) == ["nir to swir", "nir to lwir", "swir to lwir"]
    assert scores["nir to swir"]["from_rgb"]["r1"] == scores["nir to swir"]["cosine"]["true"] == pytest.approx(1)
    assert scores["swir to lwir"]["from_rgb"]["r1"] == scores["swir to lwir"]["to_rgb"]["r1"] == 0
    assert "retention_cls" not in scores["nir to lwir"]
    assert (
        evaluate_infrared_pairs(FeatureSet({"rgb": nir, "nir": nir}, {"rgb": patches, "nir": patches}, [None] * 6))
        == {}
    )
