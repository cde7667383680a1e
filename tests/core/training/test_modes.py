"""Trained parameters of each mode by name, and their learning rates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spectradino_core.models.perception import Architecture, Perception, perception_roles
from spectradino_core.training.modes import freeze_for, parameter_groups, trainable

TEST = Architecture("test", "lwir", 3, 4, pyramid_width=16, tower_depth=1, strides=(14.0,))
RATES = {"head": 1e-4, "adapters": 5e-5, "blocks": 1e-5}

HEAD = {
    "fusion.absent", "fusion.project.weight", "fusion.project.bias", "fusion.norm.weight", "fusion.norm.bias",
    "pyramid.levels.0.0.weight", "pyramid.levels.0.1.weight", "pyramid.levels.0.1.bias", "pyramid.levels.0.2.weight",
    "pyramid.levels.0.3.weight", "pyramid.levels.0.3.bias",
    "detection.class_tower.0.weight", "detection.class_tower.1.weight", "detection.class_tower.1.bias",
    "detection.box_tower.0.weight", "detection.box_tower.1.weight", "detection.box_tower.1.bias",
    "detection.classify.weight", "detection.classify.bias", "detection.regress.weight", "detection.regress.bias",
    "detection.level_gain", "segmentation.norm.weight", "segmentation.norm.bias", "segmentation.classify.weight",
    "segmentation.classify.bias",
}  # fmt: skip
ADAPTERS = {
    "backbone.modality_embedding", "backbone.stems.rgb.weight", "backbone.stems.rgb.bias",
    *(f"backbone.stems.lwir.{part}.{kind}" for part in ("conv1", "conv2", "norm") for kind in ("weight", "bias")),
    *(f"backbone.adapters.{i}.{part}" for i in (0, 1) for part in ("down", "down_bias", "up", "up_bias")),
}  # fmt: skip


def block(index: int) -> set[str]:
    parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    names = {f"backbone.vit.blocks.{index}.{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    return names | {f"backbone.vit.blocks.{index}.ls{n}.gamma" for n in (1, 2)}


NORM = {"backbone.vit.norm.weight", "backbone.vit.norm.bias"}
REST = {
    "backbone.vit.cls_token", "backbone.vit.pos_embed", "backbone.vit.patch_embed.proj.weight",
    "backbone.vit.patch_embed.proj.bias", *block(0),
}  # fmt: skip
EXACT = {
    "head": HEAD,
    "adapters": HEAD | ADAPTERS,
    "half": HEAD | ADAPTERS | block(1) | NORM,
    "full": HEAD | ADAPTERS | block(1) | NORM | REST,
}


@pytest.mark.parametrize("mode", EXACT)
def test_each_mode_trains_exactly_these(mode):
    model = Perception(TEST)
    assert set(trainable(mode, model)) == EXACT[mode]
    freeze_for(mode, model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == EXACT[mode]
    grouped = {id(p) for group in parameter_groups(model, RATES, 0.05) for p in group["params"]}
    assert grouped == {id(p) for name, p in model.named_parameters() if name in EXACT[mode]}


def test_full_is_everything():
    model = Perception(TEST)
    assert set(trainable("full", model)) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(("variant", "first"), [("s", 6), ("tiny", 3)])
def test_half_is_the_deeper_half(variant, first):
    with torch.device("meta"):
        model = Perception(replace(TEST, variant=variant))
    roles = {perception_roles(model)[name] for name in trainable("half", model)}
    depth = model.backbone.config.depth
    assert {role for role in roles if role.startswith("blocks")} == {f"blocks.{i}" for i in range(first, depth)}


@pytest.mark.parametrize("mode", ["head", "half", "full"])
def test_the_baseline_has_the_same_modes_without_adapters(mode):
    model = Perception(replace(TEST, backbone="dinov2_repeat"))
    assert set(trainable(mode, model)) == EXACT[mode] - ADAPTERS
    with pytest.raises(ValueError, match="no adapters or stems"):
        trainable("adapters", model)


def test_what_is_not_trained_has_no_gradient_and_does_not_move():
    from spectradino_core.modality import Modality

    torch.manual_seed(0)
    model = Perception(TEST).train()
    freeze_for("head", model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.AdamW(parameter_groups(model, dict.fromkeys(RATES, 1e-2), 0.05))
    out = model({Modality.RGB: torch.randn(2, 3, 56, 56), Modality.LWIR: torch.rand(2, 1, 56, 56)})
    (out.logits.square().mean() + out.boxes.mean() + out.mask_logits.square().mean()).backward()
    optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= HEAD
    assert "detection.classify.weight" in moved


def test_rates_are_per_group_and_decay_spares_norms_and_biases():
    model = Perception(TEST)
    rate, decay = {}, {}
    for group in parameter_groups(model, RATES, 0.05):
        for p in group["params"]:
            rate[id(p)], decay[id(p)] = group["lr"], group["weight_decay"]
    of = {name: (rate[id(p)], decay[id(p)]) for name, p in model.named_parameters()}
    assert of["detection.classify.weight"] == (1e-4, 0.05)
    assert of["fusion.absent"] == (1e-4, 0.0)
    assert of["backbone.adapters.0.up"] == (5e-5, 0.05)
    assert of["backbone.adapters.0.up_bias"] == (5e-5, 0.0)
    assert of["backbone.stems.lwir.conv1.weight"] == (5e-5, 0.05)
    assert of["backbone.vit.blocks.1.attn.qkv.weight"] == (1e-5, 0.05)
    assert of["backbone.vit.blocks.1.norm1.weight"] == (1e-5, 0.0)
    assert of["backbone.vit.pos_embed"] == (1e-5, 0.0)


def test_layer_decay_slows_shallow_blocks():
    model = Perception(TEST)
    rates = {
        id(p): group["lr"] for group in parameter_groups(model, RATES, 0.05, layer_decay=0.5) for p in group["params"]
    }
    of = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert of["backbone.vit.blocks.1.attn.qkv.weight"] == pytest.approx(1e-5)
    assert of["backbone.vit.blocks.0.attn.qkv.weight"] == pytest.approx(0.5e-5)
    assert of["backbone.vit.patch_embed.proj.weight"] == pytest.approx(0.25e-5)
    assert of["backbone.vit.norm.weight"] == pytest.approx(1e-5)
    assert of["backbone.adapters.0.up"] == pytest.approx(5e-5)
    assert of["detection.classify.weight"] == pytest.approx(1e-4)


def test_a_rate_of_zero_freezes_and_nothing_to_train_is_refused():
    model = Perception(TEST)
    parameter_groups(model, RATES | {"blocks": 0.0}, 0.05)
    assert not model.backbone.vit.blocks[1].attn.qkv.weight.requires_grad
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(Perception(TEST), dict.fromkeys(RATES, 0.0), 0.05)
    with pytest.raises(ValueError, match="choose one of head, adapters, half, full"):
        trainable("most", model)


def test_roles_can_be_kept_frozen():
    model = Perception(TEST)
    freeze_for("full", model, ("stems", "blocks.1"))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name in EXACT["full"] if ".stems." in name} | block(1)
    with pytest.raises(ValueError, match="'stem5'.*stems.rgb.*head"):
        freeze_for("full", model, ("stem5",))
