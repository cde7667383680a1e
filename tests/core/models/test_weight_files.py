"""Backbones in larger checkpoints: wrappers and prefixes, Hugging Face folders, and malicious files."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spectradino_core.models import VARIANTS, ViT
from spectradino_core.models.checkpoints import CheckpointError, load_dinov2, read_dinov2, stored_config
from spectradino_core.models.perception_checkpoint import backbone_config, load_network

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def vit() -> ViT:
    torch.manual_seed(0)
    return ViT("test")


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


def check(path: Path, vit: ViT) -> None:
    loaded = ViT("test")
    load_dinov2(loaded, path)
    wanted = vit.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.state_dict().items())


PREFIXES = (
    "_orig_mod.", "model.", "module.", "student.", "teacher.", "encoder.", "backbone.", "vit.", "net.",
    "_orig_mod.module.", "module._orig_mod.", "model.backbone.", "student.module.backbone.", "model.encoder.vit.",
    "state.model._fsdp_wrapped_module.backbone.", "teacher_backbone.",
)  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixed_backbone_is_found(vit: ViT, prefix: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    head = {} if prefix == "_orig_mod." else {"head.weight": torch.zeros(3, 4)}  # a compiled ViT has no head
    state = under(prefix, vit.state_dict()) | head
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    check(path, vit)


@pytest.mark.slow  # its prefix is tested above
def test_backbone_in_compiled_module_is_found(vit: ViT, tmp_path: Path) -> None:
    """With the prefixes of torch's own wrappers; each block is compiled too."""
    inner = ViT("test")
    inner.load_state_dict(vit.state_dict())
    for index, block in enumerate(inner.blocks):
        inner.blocks[index] = torch.compile(block)
    whole = nn.ModuleDict({"encoder": torch.compile(inner), "head": nn.Linear(2, 2)})
    names = list(whole.state_dict())
    assert any(name.startswith("encoder._orig_mod.blocks.0._orig_mod.") for name in names)
    torch.save({"epoch": 3, "model_state_dict": whole.state_dict()}, tmp_path / "weights.pth")
    check(tmp_path / "weights.pth", vit)


@pytest.mark.parametrize("wrapper", ["model_state_dict", "state_dict", "model", "teacher", "student", "ema", "net"])
def test_wrapped_state_dict_is_found(vit: ViT, wrapper: str, tmp_path: Path) -> None:
    optimiser = {"state": {0: {"exp_avg": torch.zeros(48)}}, "param_groups": [{"lr": 1e-3}]}
    content = {wrapper: OrderedDict(vit.state_dict()), "optimizer_state_dict": optimiser, "epoch": 7, "args": None}
    torch.save(content, tmp_path / "weights.pth")
    check(tmp_path / "weights.pth", vit)


def test_lightning_checkpoint_loads(vit: ViT, tmp_path: Path) -> None:
    content = {
        "epoch": 4, "global_step": 100, "pytorch-lightning_version": "2.4.0", "loops": {"fit_loop": {"state_dict": {}}},
        "state_dict": OrderedDict(under("model.backbone.", vit.state_dict()) | {"model.head.bias": torch.zeros(3)}),
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.1), "dirpath": "x"}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(4)}}}],
        "hyper_parameters": {"lr": 1e-4, "data": Path("somewhere")},
    }  # fmt: skip
    torch.save(content, tmp_path / "last.ckpt")
    check(tmp_path / "last.ckpt", vit)


def test_checkpoint_with_run_options_loads(vit: ViT, tmp_path: Path) -> None:
    torch.save({"model": vit.state_dict(), "args": argparse.Namespace(lr=1e-4, out=Path("x"))}, tmp_path / "a.pth")
    check(tmp_path / "a.pth", vit)


@pytest.mark.parametrize(
    ("best", "last"),
    [("teacher", "student"), ("model_ema", "model"), ("teacher.backbone", "student.backbone"), ("model", "student")],
)
def test_averaged_weights_take_precedence_over_student(vit: ViT, best: str, last: str, tmp_path: Path) -> None:
    state = vit.state_dict()
    torch.save(under(f"{last}.", other(state)) | under(f"{best}.", state), tmp_path / "weights.pth")
    check(tmp_path / "weights.pth", vit)


def test_ambiguous_backbones_are_rejected_unless_equal(vit: ViT, tmp_path: Path) -> None:
    state = vit.state_dict()
    torch.save({"rgb": state, "ir": other(state)}, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match=r"two.pth holds 2 backbones \('ir', 'rgb'\): save the state_dict"):
        read_dinov2(tmp_path / "two.pth")
    torch.save({"rgb": state, "ir": dict(state)}, tmp_path / "equal.pth")
    check(tmp_path / "equal.pth", vit)


# ------------------------------------------------------------------------------------------------ Hugging Face folders


def hugging_face(folder: Path, config: Any = None, name: str = "Dinov2", **options: Any) -> nn.Module:
    """Write a folder with the transformers library."""
    library = pytest.importorskip("transformers")
    torch.manual_seed(1)
    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 518, "patch_size": 14}
    model = getattr(library, f"{name}Model")(getattr(library, f"{name}Config")(**shape | (config or {})))
    model.save_pretrained(folder, **options)
    return model


@pytest.mark.slow  # importing transformers takes 5 s; invalid folders are tested below
@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "50KB"}], ids=["one file", "shards"])
def test_hugging_face_folder_loads(tmp_path: Path, kind: str, options: dict) -> None:
    library = hugging_face(tmp_path, name=kind, **options).eval()
    assert (tmp_path / "model.safetensors.index.json").exists() == bool(options)
    registers = 4 if kind == "Dinov2WithRegisters" else 0
    vit = ViT(dataclasses.replace(VARIANTS["test"], registers=registers)).eval()
    assert load_dinov2(vit, tmp_path).startswith("transformers")
    assert backbone_config(tmp_path).registers == registers
    x = torch.randn(1, 3, 518, 518)
    with torch.no_grad():
        theirs = library(x).last_hidden_state
        torch.testing.assert_close(vit(x).cls, theirs[:, 0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(load_network(tmp_path).eval()(x).cls, theirs[:, 0], rtol=1e-4, atol=1e-4)


# slow: they differ from s by a width; g has another MLP.
@pytest.mark.parametrize("variant", ["s", *(pytest.param(v, marks=pytest.mark.slow) for v in "bl"), "g"])
def test_config_of_published_variants_is_inferred(variant: str, tmp_path: Path) -> None:
    """From folders of the official shapes with only one block, written by the library."""
    config = VARIANTS[variant]
    shape = {
        "num_hidden_layers": 1,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "use_swiglu_ffn": config.swiglu,
    }
    hugging_face(tmp_path, shape)
    found = backbone_config(tmp_path)
    assert dataclasses.replace(found, depth=config.depth) == config


def test_download_cache_with_one_snapshot_loads(tmp_path: Path) -> None:
    """The snapshot's files are links to the user's own blobs."""
    hugging_face(tmp_path / "blobs")
    version = tmp_path / "models--facebook--dinov2/snapshots/0123"
    version.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (version / name).symlink_to(tmp_path / "blobs" / name)
    load_dinov2(ViT("test"), tmp_path / "models--facebook--dinov2")
    (version.parent / "4567").mkdir()
    with pytest.raises(CheckpointError, match="holds 2 versions of a model: give one of"):
        read_dinov2(tmp_path / "models--facebook--dinov2")


def test_other_networks_are_rejected(tmp_path: Path) -> None:
    hugging_face(tmp_path / "ViT", {"patch_size": 16, "image_size": 224, "intermediate_size": 96}, name="ViT")
    with pytest.raises(CheckpointError, match="ViT holds a vit, not a DINOv2 or DINOv3 ViT: .*facebook/dinov2-base"):
        read_dinov2(tmp_path / "ViT")
    with pytest.raises(CheckpointError, match=r"model.safetensors holds no DINOv2 or DINOv3 in a known layout"):
        read_dinov2(tmp_path / "ViT" / "model.safetensors")


def folder_of(path: Path, **content: object) -> Path:
    """Create a folder with text files."""
    path.mkdir()
    for name, text in content.items():
        name = {"config": "config.json", "index": "model.safetensors.index.json", "weights": "model.safetensors"}[name]
        (path / name).write_text(text if isinstance(text, str) else json.dumps(text))
    return path


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 346345912\n"
DINOV2 = {"model_type": "dinov2", "num_attention_heads": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"is not a Hugging Face model folder: it has no config.json \(found: \)"),
        ({"config": DINOV2}, "has a config.json but no model.safetensors .*: download the weights too"),
        ({"config": DINOV2, "weights": POINTER}, "model.safetensors is a Git LFS pointer, .*'git lfs pull'"),
        ({"config": POINTER}, "config.json is a Git LFS pointer"),
        ({"config": "[" * 3000}, "config.json can't be read as JSON: it is nested too deeply"),
        ({"config": [1]}, "config.json is not a model configuration"),
        ({"config": {"model_type": "clip\x1b[2J"}}, r"holds a clip\\x1b\[2J, not a DINOv2"),
        ({"config": DINOV2, "index": {}}, "is not a weight index"),
        (
            {"config": DINOV2, "index": {"weight_map": {"a": "../w.safetensors"}}},
            "'../w.safetensors': .*may not leave it",
        ),
        ({"config": DINOV2, "index": {"weight_map": {"a": "/etc/passwd"}}}, "'/etc/passwd': .*may not leave it"),
        ({"config": DINOV2, "index": {"weight_map": {"a": "b\0"}}}, r"'b\\x00' is not a path"),
        ({"config": DINOV2, "index": {"weight_map": {"a": "gone.safetensors"}}}, "gone.safetensors does not exist"),
    ],
)
def test_invalid_folders_are_rejected(tmp_path: Path, content: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_dinov2(folder_of(tmp_path / "folder", **content))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_config_with_other_head_count_is_rejected(tmp_path: Path) -> None:
    hugging_face(tmp_path, {"num_attention_heads": 4})
    with pytest.raises(CheckpointError, match="says 4 attention heads, this width has 3"):
        read_dinov2(tmp_path)


# ---------------------------------------------------------------------------------------------------- malicious files


def write(path: Path, **changes: torch.Tensor) -> Path:
    torch.save(ViT("test").state_dict() | {name.replace("__", "."): value for name, value in changes.items()}, path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks__999999999__norm1__weight": torch.zeros(48)}, "its blocks are not numbered from 0"),
        ({"blocks__x__norm1__weight": torch.zeros(48)}, "its blocks are not numbered from 0"),
        ({"cls_token": torch.zeros(())}, r"cls_token is \[\]"),
        ({"cls_token": torch.zeros(1).expand(1, 1, 1 << 40)}, "cls_token claims a larger shape"),
        ({"pos_embed": torch.zeros(1, 7, 48)}, "6 positions are not square"),
        ({"patch_embed__proj__weight": torch.zeros(48, 3, 14, 7)}, "14 x 7 pixels"),
        ({"norm__weight": torch.zeros(48, dtype=torch.int8)}, "norm.weight holds torch.int8"),
    ],
)
def test_invalid_shapes_are_rejected(tmp_path: Path, changes: dict, message: str) -> None:
    path = write(tmp_path / "weights.pth", **changes)
    for use in (read_dinov2, load_network, backbone_config):
        with pytest.raises(CheckpointError, match=message):
            use(path)


def test_unknown_class_is_rejected_without_constructing_it(tmp_path: Path) -> None:
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"a": Path("x").touch}))
    torch.save({"model": {}, "hook": Path.touch}, tmp_path / "new.pth")
    for name in ("old.pth", "new.pth"):
        with pytest.raises(CheckpointError, match="holds more than tensors"):
            read_dinov2(tmp_path / name)


def test_compressed_archive_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pth")
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry) if entry.file_size < 4000 else bytes(1 << 20))
    with pytest.raises(CheckpointError, match="is compressed, which torch.save never does"):
        read_dinov2(tmp_path / "b.pth")


@pytest.mark.parametrize("change", [{"depth": 10**9}, {"width": 10**12}, {"registers": -1}, {"pos_grid": 1e3}])
def test_header_with_oversized_config_is_rejected(tmp_path: Path, change: dict) -> None:
    from spectradino_core.models import SpectraDINO
    from spectradino_core.models.checkpoints import FORMAT, load_spectradino

    config = dataclasses.asdict(SpectraDINO("test").config) | change
    metadata = {"format": FORMAT, "config": json.dumps(config), "bands": "rgb,lwir"}
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", metadata)
    for use in (stored_config, load_spectradino):
        with pytest.raises(CheckpointError, match=f"{next(iter(change))} must be a whole number"):
            use(tmp_path / "m.safetensors")
