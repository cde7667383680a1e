"""Checkpoints: round trip of a ViT in every key layout, and rejection of unsuitable files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectradino_core.modality import Modality
from spectradino_core.models import VARIANTS, SpectraDINO, ViT, ViTConfig
from spectradino_core.models.checkpoints import (
    CheckpointError,
    config_of,
    load_dinov2,
    load_spectradino,
    read_dinov2,
    read_metadata,
    save_spectradino,
)
from spectradino_core.models.perception import Architecture, Perception
from spectradino_core.models.perception_checkpoint import load_backbone

RGB, NIR, SWIR, LWIR = Modality
State = dict[str, torch.Tensor]

CONFIGS = {
    f"{mlp}, {registers} registers": dataclasses.replace(VARIANTS["test"], swiglu=mlp == "SwiGLU", registers=registers)
    for mlp in ("GELU", "SwiGLU")
    for registers in (0, 4)
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def vit(request) -> ViT:
    torch.manual_seed(0)
    model = ViT(request.param).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


# ------------------------------------------------------------------------- inverse layout conversions, written anew


def official(vit: ViT) -> State:
    return {**vit.state_dict(), "mask_token": torch.zeros(1, vit.config.width)}


def official_training(vit: ViT) -> dict[str, State]:
    """DINOv2 training checkpoint: teacher with backbone, chunks of one block, and the head."""
    state = {f"backbone.{key}": value for key, value in official(vit).items()}
    for index in range(vit.config.depth):
        for key in [key for key in state if key.startswith(f"backbone.blocks.{index}.")]:
            state[key.replace(f"blocks.{index}.", f"blocks.{index}.{index}.")] = state.pop(key)
    return {"teacher": {**state, "dino_head.mlp.0.weight": torch.zeros(4, 4)}}


def timm(vit: ViT) -> State:
    state = dict(vit.state_dict())
    if vit.config.registers:
        state["reg_token"] = state.pop("register_tokens")
        position = state.pop("pos_embed")
        state["cls_token"] = state["cls_token"] + position[:, :1]
        state["pos_embed"] = position[:, 1:]
    return {key.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): value for key, value in state.items()}


def transformers(vit: ViT, older: bool = False) -> State:
    """Layout of either generation of the library, from its module tree."""
    own, width = vit.state_dict(), vit.config.width
    state = {
        "embeddings.cls_token": own["cls_token"],
        "embeddings.mask_token": torch.zeros(1, width),
        "embeddings.position_embeddings": own["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": own["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": own["patch_embed.proj.bias"],
        "layernorm.weight": own["norm.weight"],
        "layernorm.bias": own["norm.bias"],
    }
    if vit.config.registers:
        state["embeddings.register_tokens"] = own["register_tokens"]
    attention = ("attention.query", "attention.key", "attention.value") if older else ("q_proj", "k_proj", "v_proj")
    for i in range(vit.config.depth):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        for k in (1, 2):
            state[f"{theirs}.layer_scale{k}.lambda1"] = own[f"{ours}.ls{k}.gamma"]
        for kind in ("weight", "bias"):
            for k in (1, 2):
                state[f"{theirs}.norm{k}.{kind}"] = own[f"{ours}.norm{k}.{kind}"]
            qkv = own[f"{ours}.attn.qkv.{kind}"]
            for k, name in enumerate(attention):
                state[f"{theirs}.attention.{name}.{kind}"] = qkv[k * width : (k + 1) * width].clone()
            out = "output.dense" if older else "o_proj"
            state[f"{theirs}.attention.{out}.{kind}"] = own[f"{ours}.attn.proj.{kind}"]
            if not vit.config.swiglu:
                for k in (1, 2):
                    state[f"{theirs}.mlp.fc{k}.{kind}"] = own[f"{ours}.mlp.fc{k}.{kind}"]
            elif older:
                state[f"{theirs}.mlp.weights_in.{kind}"] = own[f"{ours}.mlp.w12.{kind}"]
                state[f"{theirs}.mlp.weights_out.{kind}"] = own[f"{ours}.mlp.w3.{kind}"]
            else:
                gate, value = own[f"{ours}.mlp.w12.{kind}"].chunk(2)
                state[f"{theirs}.mlp.gate_proj.{kind}"] = gate.clone()
                state[f"{theirs}.mlp.up_proj.{kind}"] = value.clone()
                state[f"{theirs}.mlp.down_proj.{kind}"] = own[f"{ours}.mlp.w3.{kind}"]
    return state


LAYOUTS: dict[str, Callable[[ViT], dict]] = {
    "official": official,
    "official training": official_training,
    "timm": timm,
    "transformers": transformers,
    "transformers, older": lambda vit: transformers(vit, older=True),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_round_trips(vit: ViT, layout: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    content = LAYOUTS[layout](vit)
    if suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in content.get("teacher", content).items()}, path)
    else:
        torch.save(content, path)

    expected = layout.removesuffix(" training")
    if layout == "timm" and not (vit.config.registers or vit.config.swiglu):
        expected = "official"  # both layouts are identical
    other = ViT(vit.config).eval()
    assert load_dinov2(other, path) == expected
    x = torch.randn(2, 3, 42, 56)
    with torch.no_grad():
        ours, theirs = vit(x), other(x)
    torch.testing.assert_close(theirs.patches, ours.patches, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(theirs.cls, ours.cls, rtol=1e-6, atol=1e-6)
    inferred = config_of(read_dinov2(path)[0])
    for name in ("width", "depth", "patch", "registers", "swiglu", "pos_grid"):
        assert getattr(inferred, name) == getattr(vit.config, name)


@pytest.mark.slow  # importing transformers takes 5 s; the layouts are tested above
def test_file_saved_by_transformers_loads(vit: ViT, tmp_path: Path) -> None:
    library = pytest.importorskip("transformers")
    config, kind = vit.config, "Dinov2WithRegisters" if vit.config.registers else "Dinov2"
    model = getattr(library, f"{kind}Model")(
        getattr(library, f"{kind}Config")(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            image_size=518,
            patch_size=14,
            use_swiglu_ffn=config.swiglu,
        )
    )
    model.load_state_dict(transformers(vit))
    model.save_pretrained(tmp_path)
    other = ViT(config)
    load_dinov2(other, tmp_path / "model.safetensors")
    for (name, ours), theirs in zip(vit.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_spectradino_loads_dinov2_and_keeps_stems_and_adapters(vit: ViT, tmp_path: Path) -> None:
    torch.save(official(vit), tmp_path / "dinov2.pth")
    model = SpectraDINO(vit.config, (RGB, LWIR)).eval()
    own = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("vit.")}
    load_dinov2(model, tmp_path / "dinov2.pth")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in own.items())
    assert all(torch.equal(model.vit.state_dict()[key], value) for key, value in vit.state_dict().items())


# ---------------------------------------------------------------------------------------------------------- refusals


def write(path: Path, config: ViTConfig, change: Callable[[State], object] = lambda state: None) -> Path:
    state = official(ViT(config))
    change(state)
    torch.save(state, path)
    return path


S1, B1 = (dataclasses.replace(VARIANTS[name], depth=1) for name in "sb")


@pytest.mark.parametrize(
    ("stored", "expected", "message"),
    [
        (B1, S1, r"holds a ViT-B/14 \(width 768, 1 blocks.*the model is a ViT-S/14 \(width 384"),
        (
            VARIANTS["test"],
            dataclasses.replace(VARIANTS["test"], registers=4),
            "no registers.*the model is.*4 registers",
        ),
        (dataclasses.replace(VARIANTS["test"], depth=3), VARIANTS["test"], "3 blocks.*the model is.*2 blocks"),
        (VARIANTS["test"], dataclasses.replace(VARIANTS["test"], pos_grid=16), "positions 37 x 37.*positions 16 x 16"),
        (dataclasses.replace(VARIANTS["test"], patch=16), VARIANTS["test"], "ViT-Test/16.*the model is a ViT-Test/14"),
        (dataclasses.replace(VARIANTS["test"], swiglu=True), VARIANTS["test"], "SwiGLU.*the model is.*GELU"),
    ],
)
def test_wrong_variant_is_rejected(stored: ViTConfig, expected: ViTConfig, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pth", stored)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_dinov2(ViT(expected), path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("blocks.1.attn.qkv.bias"), "missing blocks.1.attn.qkv.bias$"),
        (lambda state: state.update({"head.weight": torch.zeros(1)}), "unexpected head.weight$"),
        (lambda state: state.update({"norm.bias": torch.zeros(3)}), r"norm.bias is \[3\] and should be \[48\]"),
        (lambda state: [state.pop(k) for k in list(state) if "attn" in k], "missing .*attn.*and 2 more"),
    ],
)
def test_mismatched_tensors_are_listed(change: Callable[[State], object], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pth", VARIANTS["test"], change)
    with pytest.raises(CheckpointError, match=message):
        load_dinov2(ViT("test"), path)


def test_missing_part_of_qkv_is_listed(tmp_path: Path) -> None:
    state = transformers(ViT("test"))
    del state["encoder.layer.1.attention.k_proj.bias"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="missing blocks.1.attn.qkv.bias; unexpected blocks.1.attn.q.bias"):
        load_dinov2(ViT("test"), tmp_path / "weights.pth")


class Evil:
    """Object whose unpickling runs code."""

    def __reduce__(self):
        return (Path.touch, (Path("was-run"),))


def truncated(path: Path) -> None:
    write(path, VARIANTS["test"])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist: check the path"),
        (lambda path: path.mkdir(), "is a folder, not a regular file|is not a Hugging Face model folder"),
        (lambda path: path.write_bytes(b""), "truncated"),
        (lambda path: path.write_bytes(b"\x89PNG not weights" * 99), "truncated"),
        (truncated, "truncated"),
    ],
)
def test_invalid_files_are_rejected(make: Callable, message: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    make(path)
    for load in (lambda: load_dinov2(ViT("test"), path), lambda: load_spectradino(path)):
        with pytest.raises(CheckpointError, match=message) as caught:
            load()
        assert str(path) in str(caught.value)


def test_truncated_safetensors_is_rejected(tmp_path: Path) -> None:
    save_spectradino(SpectraDINO("test"), tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for length in (4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "b.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            load_spectradino(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list without tensors"),
        ({"epoch": 3}, "holds a dict without tensors"),
        ({"conv1.weight": torch.zeros(1)}, "holds no DINOv2 or DINOv3 in a known layout.*conv1.weight"),
        (Evil(), "holds more than tensors"),
    ],
)
def test_foreign_content_is_rejected(content: object, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        load_dinov2(ViT("test"), "weights.pth")
    assert not Path("was-run").exists()


# -------------------------------------------------------------------------------------------------------- SpectraDINO


def test_spectradino_checkpoint_round_trips(tmp_path: Path) -> None:
    config = dataclasses.replace(VARIANTS["test"], registers=4, depth=3)
    model = SpectraDINO(config, (RGB, LWIR))
    path = tmp_path / "model.safetensors"
    save_spectradino(model, path, {"stage": "II"})
    again = load_spectradino(path)
    assert again.config == config
    assert again.bands == (RGB, LWIR)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    metadata = read_metadata(path)
    assert metadata["stage"] == "II"
    assert metadata["bands"] == "rgb,lwir"
    assert json.loads(metadata["config"])["registers"] == 4


def test_backbone_weights_are_loaded_for_the_models_bands(tmp_path: Path) -> None:
    backbone = SpectraDINO("test")
    save_spectradino(backbone, tmp_path / "backbone.safetensors")
    model = Perception(Architecture("test", "lwir", 1, 0))
    load_backbone(model, tmp_path / "backbone.safetensors")
    assert torch.equal(model.backbone.adapters[1].up, backbone.adapters[1].up[[0, 3]])
    save_spectradino(backbone.select_bands((RGB, LWIR)), tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match="small.safetensors: this model has no nir"):
        load_backbone(Perception(Architecture("test", "nir", 1, 0)), tmp_path / "small.safetensors")


def test_failed_save_keeps_old_file_only(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "model.safetensors"
    model = SpectraDINO("test")
    save_spectradino(model, path)
    before = path.read_bytes()

    def full_disk(state, name, metadata):
        Path(name).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("spectradino_core.models.checkpoints.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_spectradino(SpectraDINO("test"), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_saving_folded_model_or_reserved_metadata_is_rejected(tmp_path: Path) -> None:
    model = SpectraDINO("test")
    with pytest.raises(ValueError, match="bands are reserved"):
        save_spectradino(model, tmp_path / "a.safetensors", {"bands": "all"})
    model.vit.fold_layer_scale()
    with pytest.raises(ValueError, match="folded for serving"):
        save_spectradino(model, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not a SpectraDINO backbone of format .*found 'other'.*load_dinov2"),
        ({"bands": "rgb,uv"}, "does not understand: unknown band 'uv'"),
        ({"config": '{"size": 3}'}, "does not understand"),
        ({"config": "no json"}, "does not understand"),
        ({"bands": "rgb,nir"}, "does not fit the model: missing stems.nir"),
    ],
)
def test_unknown_metadata_is_rejected(change: dict[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_spectradino(SpectraDINO("test", (RGB, LWIR)), path)
    save_file(load_file(path), path, read_metadata(path) | change)
    with pytest.raises(CheckpointError, match=message):
        load_spectradino(path)


def test_plain_dinov2_is_not_a_spectradino_checkpoint(tmp_path: Path) -> None:
    save_file(ViT("test").state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(CheckpointError, match="with load_dinov2"):
        load_spectradino(tmp_path / "vit.safetensors")
