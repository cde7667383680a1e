"""Official Omnivorous DINO weights: the Flax layout, and a network that differs from DINOv2 in small ways.

The reference is written from the description of the Flax modules: kernels with the input first, attention by head.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectradino_core.cli import main
from spectradino_core.modality import Modality
from spectradino_core.models import VARIANTS, SpectraDINO, ViT, ViTConfig
from spectradino_core.models.checkpoints import (
    CheckpointError,
    load_dinov2,
    load_spectradino,
    read_dinov2,
    save_spectradino,
    save_state,
)
from spectradino_core.models.perception_checkpoint import backbone_config, load_network
from spectradino_core.training import stages
from tests.core.models.test_vit import relative_error

WIDTH, HEADS, HEAD, HIDDEN, GRID, DEPTH = 48, 3, 16, 192, 5, 2
CONFIG = ViTConfig("?", WIDTH, DEPTH, HEADS, pos_grid=GRID, omnivorous=True)
ATTENTION = "MultiHeadDotProductAttention_0"
Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def heads_of_this_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes do not show the heads: they come from a known variant of the width."""
    monkeypatch.setitem(VARIANTS, "?", CONFIG)


def weights() -> Arrays:
    """A file in the layout of the official one, with random values."""
    shapes: dict[str, tuple[int, ...]] = {
        "ToTokenSequence_0.cls": (1, 1, WIDTH), "ToTokenSequence_0.posembed_input": (1, GRID, GRID, WIDTH),
        "ToTokenSequence_0.embedding.kernel": (14, 14, 3, WIDTH), "ToTokenSequence_0.embedding.bias": (WIDTH,),
        "encoder_norm.scale": (WIDTH,), "encoder_norm.bias": (WIDTH,),
    }  # fmt: skip
    for index in range(DEPTH):
        block = f"encoderblock_{index}"
        for norm in (0, 1):
            shapes |= {f"{block}.LayerNorm_{norm}.{kind}": (WIDTH,) for kind in ("scale", "bias")}
        for part in ("query", "key", "value"):
            shapes[f"{block}.{ATTENTION}.{part}.kernel"] = (WIDTH, HEADS, HEAD)
            shapes[f"{block}.{ATTENTION}.{part}.bias"] = (HEADS, HEAD)
        shapes |= {
            f"{block}.{ATTENTION}.out.kernel": (HEADS, HEAD, WIDTH), f"{block}.{ATTENTION}.out.bias": (WIDTH,),
            f"{block}.MlpBlock_0.Dense_0.kernel": (WIDTH, HIDDEN), f"{block}.MlpBlock_0.Dense_0.bias": (HIDDEN,),
            f"{block}.MlpBlock_0.Dense_1.kernel": (HIDDEN, WIDTH), f"{block}.MlpBlock_0.Dense_1.bias": (WIDTH,),
        }  # fmt: skip
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def write(path: Path, arrays: Arrays) -> Path:
    save_file({name: torch.from_numpy(value) for name, value in arrays.items()}, path)
    return path


def cubic_matrix(size: int, target: int) -> np.ndarray:
    """Weights [target, size] of `jax.image.resize` along one axis: Keys' kernel, wider when shrinking."""
    scale = target / size
    centres = (np.arange(target) + 0.5) / scale - 0.5
    x = np.abs(centres[:, None] - np.arange(size)) * min(1.0, scale)
    near, far = ((1.5 * x - 2.5) * x) * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    kernel = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return kernel / kernel.sum(axis=1, keepdims=True)


def reference(arrays: Arrays, images: np.ndarray) -> np.ndarray:
    """Final tokens [B, T, D] of images [B, H, W, 3], in float64."""
    get = {name: value.astype(float) for name, value in arrays.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-6) * get[f"{name}.scale"] + get[f"{name}.bias"]

    b, height, width, _ = images.shape
    h, w = height // 14, width // 14
    patches = images.reshape(b, h, 14, w, 14, 3)
    kernel = get["ToTokenSequence_0.embedding.kernel"]
    x = np.einsum("bhiwjc,ijcd->bhwd", patches, kernel) + get["ToTokenSequence_0.embedding.bias"]
    position = get["ToTokenSequence_0.posembed_input"][0]
    if (h, w) != (GRID, GRID):
        position = np.einsum("hg,gkd,wk->hwd", cubic_matrix(GRID, h), position, cubic_matrix(GRID, w))
    x = (x + position).reshape(b, h * w, WIDTH)
    x = np.concatenate([np.repeat(get["ToTokenSequence_0.cls"], b, axis=0), x], axis=1)
    for index in range(DEPTH):
        block = f"encoderblock_{index}"
        y = norm(x, f"{block}.LayerNorm_0")
        q, k, v = (
            np.einsum("btd,dhk->bthk", y, get[f"{block}.{ATTENTION}.{part}.kernel"])
            + get[f"{block}.{ATTENTION}.{part}.bias"]
            for part in ("query", "key", "value")
        )
        scores = np.einsum("bthk,bshk->bhts", q / np.sqrt(HEAD), k)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        y = np.einsum("bhts,bshk->bthk", scores, v)
        x = x + np.einsum("bthk,hkd->btd", y, get[f"{block}.{ATTENTION}.out.kernel"])
        x = x + get[f"{block}.{ATTENTION}.out.bias"]
        mlp = f"{block}.MlpBlock_0"
        y = norm(x, f"{block}.LayerNorm_1") @ get[f"{mlp}.Dense_0.kernel"] + get[f"{mlp}.Dense_0.bias"]
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + y @ get[f"{mlp}.Dense_1.kernel"] + get[f"{mlp}.Dense_1.bias"]
    return norm(x, "encoder_norm")


@pytest.mark.parametrize("size", [(70, 70), (42, 56), (98, 126)], ids=["trained grid", "smaller", "larger"])
def test_parity_with_reference(size: tuple[int, int], tmp_path: Path) -> None:
    arrays = weights()
    model = load_network(write(tmp_path / "omnivorous.safetensors", arrays)).eval()
    assert isinstance(model, ViT)
    assert model.config == CONFIG
    images = np.random.default_rng(1).normal(size=(2, *size, 3))
    with torch.no_grad():
        out = model(torch.from_numpy(images).float().permute(0, 3, 1, 2))
    expected = torch.from_numpy(reference(arrays, images))
    assert relative_error(torch.cat([out.cls[:, None], out.patches], dim=1), expected) <= 2e-5


def test_saved_files_keep_the_network(tmp_path: Path) -> None:
    source = write(tmp_path / "omnivorous.safetensors", weights())
    vit, x = ViT(CONFIG), torch.randn(1, 3, 56, 42)
    assert load_dinov2(vit, source) == "Flax"
    save_state(vit, tmp_path / "vit.safetensors")
    assert backbone_config(tmp_path / "vit.safetensors") == CONFIG
    again = load_network(tmp_path / "vit.safetensors")
    assert torch.equal(again(x).patches, vit(x).patches)

    model = SpectraDINO(CONFIG, (Modality.RGB, Modality.LWIR))
    load_dinov2(model, source)
    save_spectradino(model, tmp_path / "backbone.safetensors")
    restored = load_spectradino(tmp_path / "backbone.safetensors")
    assert restored.config == CONFIG
    assert torch.equal(restored.vit(x).cls, vit(x).cls)


def test_variant_of_official_file_and_no_mixing_with_dinov2(tmp_path: Path) -> None:
    assert VARIANTS["omnivorous_b"].title == "ViT-B/14 of Omnivorous DINO"
    path = write(tmp_path / "omnivorous.safetensors", weights())
    plain = ViTConfig("plain", WIDTH, DEPTH, HEADS, pos_grid=GRID)
    with pytest.raises(CheckpointError, match="holds a ViT-.* of Omnivorous DINO .*, but the model is a ViT-Plain"):
        load_dinov2(ViT(plain), path)
    assert "omnivorous" not in plain.to_dict()


@pytest.mark.slow
def test_commands_that_read_official_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(stages._SIZES, "?", stages._SIZES["test"])
    path = str(write(tmp_path / "omnivorous.safetensors", weights()))
    run = ["--steps", "1", "--batch", "2", "--device", "cpu", "--workers", "0"]
    pretrain = ["pretrain", "--variant", "?", "--teacher", path, "--scenes", "4", "--crop", "56", *run]
    for more in (["--stages", "1"], ["--system", "omnivorous"]):
        assert main([*pretrain, *more, "--out", str(tmp_path / more[0])]) == 0
    assert backbone_config(tmp_path / "--stages/stage1/last.safetensors") == CONFIG
    assert backbone_config(tmp_path / "--system/last.safetensors") == CONFIG
    tuned = ["finetune", "--variant", "?", "--backbone", path, "--dataset", "scenes", "--task", "detection"]
    assert main([*tuned, "--input-size", "70x56", "--mode", "head", *run, "--out", str(tmp_path / "tuned")]) == 0
    assert backbone_config(tmp_path / "tuned/model.safetensors") == CONFIG
    assert main(["evaluate", "retrieval", "--model", path, "--scenes", "2", "--crop", "56", "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--model", path, "--scenes", "2"]) == 1
    error = capsys.readouterr().err
    assert "omnivorous.safetensors is not a fine-tuned model" in error
    assert "spectradino evaluate retrieval --model" in error


def test_official_variant_has_the_recipes_of_dinov2() -> None:
    for stage in stages.STAGES:
        ours, theirs = (stages.stage_recipe(variant, stage) for variant in ("omnivorous_b", "b"))
        assert replace(ours, variant="b") == theirs
    assert "omnivorous_b" not in stages.recipe_values("batch")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoderblock_1.MlpBlock_0.Dense_1.bias", None, "not a complete Omnivorous DINO.*Dense_1.bias"),
        (f"encoderblock_0.{ATTENTION}.key.kernel", np.zeros(3, np.float32), "not a complete Omnivorous DINO"),
        ("pre_ln.scale", np.zeros(WIDTH, np.float32), "does not have: pre_ln.scale"),
        ("encoderblock_7.LayerNorm_0.scale", np.zeros(WIDTH, np.float32), "encoderblock_7"),
    ],
)
def test_damaged_file_is_refused(name: str, value: np.ndarray | None, message: str, tmp_path: Path) -> None:
    arrays = weights()
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    with pytest.raises(CheckpointError, match=message):
        read_dinov2(write(tmp_path / "damaged.safetensors", arrays))
