"""Hyperparameters and trained parameters of each stage, by name."""

from __future__ import annotations

import pytest
import torch

from spectradino_core.modality import Modality
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import VARIANTS
from spectradino_core.training.stages import STAGES, changed, freeze, parse_stages, stage_recipe, trainable

STEMS = [
    f"stems.{band}.{part}"
    for band in ("nir", "swir", "lwir")
    for part in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "norm.weight", "norm.bias")
]
ADAPTERS = [f"adapters.{block}.{part}" for block in (0, 1) for part in ("down", "down_bias", "up", "up_bias")]
FIRST = {"modality_embedding", *STEMS, *ADAPTERS, "vit.norm.weight", "vit.norm.bias"}
LAST_BLOCK = {
    f"vit.blocks.1.{part}"
    for part in (
        "norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias",
        "ls1.gamma", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias",
        "ls2.gamma",
    )
}  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "names"),
    [(1, FIRST), (2, FIRST), (3, FIRST | LAST_BLOCK | {"stems.rgb.weight", "stems.rgb.bias"})],
)
def test_exactly_these_are_trained(stage, names):
    model = SpectraDINO("test")
    recipe = stage_recipe("test", stage)
    assert set(trainable(recipe, model)) == names
    freeze(recipe, model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == names


@pytest.mark.parametrize(("variant", "blocks"), [("s", range(6, 12)), ("l", range(12, 24)), ("g", range(30, 40))])
def test_stage_three_unfreezes_the_deepest_blocks(variant, blocks):
    with torch.device("meta"):
        model = SpectraDINO(variant)
    names = trainable(stage_recipe(variant, 3), model)
    assert {int(name.split(".")[2]) for name in names if name.startswith("vit.blocks.")} == set(blocks)
    assert not any(part in name for name in names for part in ("patch_embed", "cls_token", "pos_embed"))


def test_a_model_of_two_bands_trains_its_own():
    model = SpectraDINO("test", [Modality.RGB, Modality.SWIR])
    names = trainable(stage_recipe("test", 1), model)
    assert {name.split(".")[1] for name in names if name.startswith("stems")} == {"swir"}


# Tables 1 and 2, written out here a second time so that a slip in either place shows.
TABLE_1 = {
    1: (2.0, 1.0, 0.1, 0.25, 0.0),
    2: (2.0, 1.0, 0.1, 0.25, 0.5),
    3: (0.5, 1.5, 0.25, 0.5, 1.0),
}
TABLE_2 = {  # epochs, batch of two GPUs, blocks unfrozen
    ("s", 1): (100, 256, 0), ("s", 2): (10, 256, 0), ("s", 3): (75, 256, 6),
    ("b", 1): (100, 256, 0), ("b", 2): (10, 256, 0), ("b", 3): (75, 256, 6),
    ("l", 1): (100, 128, 0), ("l", 2): (10, 128, 0), ("l", 3): (75, 128, 12),
    ("g", 1): (50, 48, 0), ("g", 2): (10, 48, 0), ("g", 3): (30, 32, 10),
}  # fmt: skip


@pytest.mark.parametrize(("variant", "stage"), TABLE_2)
def test_the_papers_tables(variant, stage):
    recipe = stage_recipe(variant, stage)
    w = recipe.weights
    assert (w.distillation, w.contrastive, w.patch, w.patch_ratio, w.neighbourhood) == TABLE_1[stage]
    assert (recipe.epochs, recipe.batch, recipe.unfrozen) == TABLE_2[variant, stage]
    assert (recipe.queue, recipe.top_k, recipe.queue_temperature) == (65_536, 128, 0.07)
    assert (recipe.weight_decay, recipe.crop) == (0.05, 224)
    assert w.neighbourhood_from == (1 if stage == 2 else 0)
    assert (recipe.warmup > 0) == (stage == 1)
    assert recipe.rgb_stem == (stage == 3)
    assert w.infrared == 0  # ours: off
    assert not recipe.learn_temperature
    assert recipe.ema == 0


def test_rates_fall_with_size_and_stage():
    first = [stage_recipe(variant, 1).lr for variant in ("s", "b", "l", "g")]
    assert first == sorted(first, reverse=True) == [2e-4, 1e-4, 5e-5, 2e-5]
    rates = [stage_recipe("b", stage).lr for stage in STAGES]
    assert rates == pytest.approx([1e-4, 5e-5, 2e-5])


def test_every_variant_has_every_stage():
    for variant in VARIANTS:
        for stage in STAGES:
            recipe = stage_recipe(variant, stage)
            assert recipe.crop % VARIANTS[variant].patch == 0
            assert recipe.unfrozen <= VARIANTS[variant].depth


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="choose one of s, b, l, g"):
        stage_recipe("xl", 1)
    with pytest.raises(ValueError, match="no stage 4"):
        stage_recipe("s", 4)
    with pytest.raises(ValueError, match="3 blocks to unfreeze, the model has 2"):
        trainable(changed(stage_recipe("test", 3), unfrozen=3), SpectraDINO("test"))


@pytest.mark.parametrize(("text", "stages"), [("1", (1,)), ("2,3", (2, 3)), ("1, 2, 3", (1, 2, 3))])
def test_consecutive_stages_are_parsed(text, stages):
    assert parse_stages(text) == stages


@pytest.mark.parametrize("text", ["", "4", "1,3", "3,2", "1,1", "one", "0,1"])
def test_other_stages_are_refused(text):
    with pytest.raises(ValueError, match="not consecutive"):
        parse_stages(text)
