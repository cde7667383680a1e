"""DINOv3: parity with transformers, official and transformers layouts, and SpectraDINO on it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spectradino_core.modality import Modality
from spectradino_core.models import VARIANTS, SpectraDINO, ViT, ViTConfig, dinov3
from spectradino_core.models.checkpoints import (
    CheckpointError,
    load_dinov2,
    load_spectradino,
    read_dinov2,
    save_spectradino,
    save_state,
)
from spectradino_core.models.encoders import PlainEncoder
from spectradino_core.models.perception_checkpoint import backbone_config, load_network
from spectradino_core.training.stages import stage_recipe, trainable
from tests.core.models.test_vit import randomise, relative_error

NAMES = ("v3_s", "v3_s+", "v3_b", "v3_l")
SMALL = ViTConfig("v3_small", width=48, depth=2, heads=3, patch=16, registers=4, pos_grid=0)
GATED = dataclasses.replace(SMALL, name="v3_small+", mlp_ratio=6, swiglu=True)
State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def small_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (SMALL, GATED):
        monkeypatch.setitem(VARIANTS, config.name, config)


def library_config(config: ViTConfig) -> dict:
    """Arguments of transformers' configuration class."""
    return {
        "hidden_size": config.width, "num_hidden_layers": config.depth, "num_attention_heads": config.heads,
        "intermediate_size": config.hidden, "num_register_tokens": config.registers, "use_gated_mlp": config.swiglu,
        "hidden_act": "silu" if config.swiglu else "gelu",
    }  # fmt: skip


def library_model(config: ViTConfig) -> torch.nn.Module:
    """The transformers model of the same shape with random weights, built offline."""
    transformers = pytest.importorskip("transformers")
    model = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**library_config(config)))
    randomise(model)
    model.set_attn_implementation("eager")  # independent of scaled_dot_product_attention
    return model.eval()


def official(vit: ViT) -> State:
    """Rename a ViT's tensors as in the files of DINOv3's authors."""
    state: State = {}
    for name, value in vit.state_dict().items():
        if name == "register_tokens":
            state["storage_tokens"] = value
        elif ".mlp.w12." in name:
            state[name.replace(".w12.", ".w1.")], state[name.replace(".w12.", ".w2.")] = value.chunk(2)
        else:
            state[name] = value
        if name.endswith("qkv.bias"):
            state[f"{name}_mask"] = torch.ones(3, len(value) // 3).index_fill_(0, torch.tensor([1]), 0).flatten()
    head = vit.config.width // vit.config.heads
    periods = (1 / dinov3.rotary_frequencies(head)).bfloat16()
    return {name: value.clone() for name, value in state.items()} | {
        "rope_embed.periods": periods, "mask_token": torch.zeros(1, vit.config.width),
    }  # fmt: skip


@pytest.mark.slow  # importing transformers takes 5 s; the layouts and positions are tested below
@pytest.mark.parametrize("size", [(64, 64), (48, 176), (224, 96), (16, 16)])
@pytest.mark.parametrize(
    "config", [SMALL, GATED, dataclasses.replace(SMALL, registers=1)], ids=["GELU", "gated", "1 register"]
)
def test_parity_with_transformers(config: ViTConfig, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = library_model(config)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = ViT(config).eval()
    assert load_dinov2(ours, tmp_path / "weights.pth") == "transformers"
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out, expected = ours(x), theirs(x).last_hidden_state
    tokens = torch.cat([out.cls[:, None], out.registers, out.patches], dim=1)
    assert relative_error(tokens, expected) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("variant", NAMES)
def test_parity_with_transformers_at_full_width(variant: str, tmp_path: Path) -> None:
    """From a folder that the library wrote, with two blocks."""
    theirs = library_model(dataclasses.replace(VARIANTS[variant], depth=2))
    theirs.save_pretrained(tmp_path)
    found = backbone_config(tmp_path)
    assert dataclasses.replace(found, depth=VARIANTS[variant].depth) == VARIANTS[variant]
    x = torch.randn(1, 3, 256, 320, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out, expected = load_network(tmp_path).eval()(x), theirs(x).last_hidden_state
    assert relative_error(out.patches, expected[:, 5:]) <= 1e-5
    assert relative_error(out.cls, expected[:, 0]) <= 1e-5


def test_positions_matter_and_prefix_tokens_have_none() -> None:
    cosines, sines = dinov3.rotary_table((2, 3), 5, 16)
    assert (cosines[:5] == 1).all()
    assert not sines[:5].any()
    x = torch.randn(1, 3, 11, 16)
    rotated = dinov3.rotate(x, torch.stack([cosines, sines]))
    assert torch.equal(rotated[:, :, :5], x[:, :, :5])
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    assert rotated.dtype == dinov3.rotate(x.bfloat16(), torch.stack([cosines, sines])).float().dtype
    assert dinov3.rotate(x.bfloat16(), torch.stack([cosines, sines])).dtype == torch.bfloat16


def test_bias_of_keys_has_no_effect_and_no_gradient() -> None:
    vit = ViT(SMALL)
    randomise(vit)
    x = torch.randn(1, 3, 32, 48)
    before = vit(x).cls
    before.square().sum().backward()
    bias = vit.blocks[0].attn.qkv.bias
    assert [bool(part.any()) for part in bias.grad.chunk(3)] == [True, False, True]
    with torch.no_grad():
        bias.chunk(3)[1].fill_(float("nan"))
        assert torch.equal(vit(x).cls, before)


def test_titles_and_configs() -> None:
    assert [VARIANTS[name].title for name in NAMES[:2]] == [
        "DINOv3 ViT-S/16 with 4 registers", "DINOv3 ViT-S+/16 with 4 registers",
    ]  # fmt: skip
    assert VARIANTS["v3_s+"].hidden == 1536
    assert {VARIANTS[name].patch for name in NAMES} == {16}
    with pytest.raises(ValueError, match="heads of 6 channels have no rotary positions"):
        dataclasses.replace(SMALL, heads=8)


def test_frozen_grid_keeps_features() -> None:
    vit = ViT(SMALL).eval()
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        before, keys = vit(x).patches, set(vit.state_dict())
        vit.freeze_grid(2, 3)
        assert torch.equal(vit(x).patches, before)
        assert set(vit.state_dict()) == keys
        with pytest.raises(ValueError, match="frozen to a grid of"):
            vit(torch.randn(1, 3, 48, 48))


def test_shared_blocks_of_encoder_get_positions() -> None:
    vit = ViT(SMALL).eval()
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(PlainEncoder(vit, shared=1)({"rgb": x})["rgb"].patches, vit(x).patches)


# ------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("prefix", ["", "teacher.backbone."])
@pytest.mark.parametrize("config", [SMALL, GATED], ids=["GELU", "gated"])
def test_official_layout_loads(config: ViTConfig, prefix: str, tmp_path: Path) -> None:
    vit, loaded = ViT(config), ViT(config)
    randomise(vit)
    state = official(vit) | {"local_cls_norm.weight": torch.ones(48)}
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "weights.pth")
    assert load_dinov2(loaded, tmp_path / "weights.pth") == "official"
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in vit.state_dict().items())
    assert backbone_config(tmp_path / "weights.pth") == config


def test_own_file_loads(tmp_path: Path) -> None:
    vit, loaded = ViT(SMALL), ViT(SMALL)
    save_state(vit, tmp_path / "teacher.safetensors")
    load_dinov2(loaded, tmp_path / "teacher.safetensors")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in vit.state_dict().items())


def test_other_positions_and_families_are_rejected(tmp_path: Path) -> None:
    vit = ViT(SMALL)
    state = official(vit)
    save_file(state | {"rope_embed.periods": state["rope_embed.periods"] * 2}, tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError, match="its rotary periods are not those of base 100 and 3 heads"):
        read_dinov2(tmp_path / "base.safetensors")
    save_file(state, tmp_path / "v3.safetensors")
    with pytest.raises(
        CheckpointError, match=r"holds a DINOv3 ViT-Small.*rotary positions.*the model is a ViT-Test/14"
    ):
        load_dinov2(ViT("test"), tmp_path / "v3.safetensors")
    save_state(ViT("test"), tmp_path / "v2.safetensors")
    with pytest.raises(CheckpointError, match=r"holds a ViT-Test/14.*the model is a DINOv3"):
        load_dinov2(vit, tmp_path / "v2.safetensors")
    config = library_config(SMALL) | {"model_type": "dinov3_vit", "rope_theta": 50.0}
    (tmp_path / "folder").mkdir()
    save_file(state, tmp_path / "folder" / "model.safetensors")
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config | {"rope_theta": 100.0}))
    load_dinov2(vit, tmp_path / "folder")
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="rotary positions of base 50.0, not 100"):
        read_dinov2(tmp_path / "folder")


# --------------------------------------------------------------------------------------------------------- SpectraDINO


def test_rgb_path_with_zeroed_adapters_equals_dinov3() -> None:
    model, plain = SpectraDINO(SMALL).eval(), ViT(SMALL).eval()
    randomise(plain)
    model.vit.load_state_dict(plain.state_dict())
    for adapter in model.adapters:
        torch.nn.init.zeros_(adapter.up)
    x = torch.randn(2, 3, 32, 80)
    with torch.no_grad():
        ours, theirs = model({Modality.RGB: x}, out_indices=(0, 1))[Modality.RGB], plain(x, out_indices=(0, 1))
    assert torch.equal(ours.cls, theirs.cls)
    assert torch.equal(ours.registers, theirs.registers)
    assert all(torch.equal(a, b) for a, b in zip(ours.intermediate, theirs.intermediate, strict=True))


def test_backbone_file_round_trips(tmp_path: Path) -> None:
    model = SpectraDINO(GATED, (Modality.RGB, Modality.NIR))
    save_spectradino(model, tmp_path / "m.safetensors")
    loaded = load_spectradino(tmp_path / "m.safetensors")
    assert loaded.config == GATED
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("variant", NAMES)
def test_stages_know_every_variant(variant: str) -> None:
    with torch.device("meta"):
        model = SpectraDINO(variant)
    for stage in (1, 2, 3):
        assert stage_recipe(variant, stage).crop % 16 == 0
        assert trainable(stage_recipe(variant, stage), model)
