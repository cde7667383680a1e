"""Parity of the plain ViT with transformers' DINOv2, and of its position embedding with both official rules."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from spectradino_core.models import VARIANTS, ViT, ViTConfig
from spectradino_core.models.checkpoints import load_dinov2
from spectradino_core.models.vit import interpolate_pos_embed


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter a distinctive value; initial biases and LayerScales would hide a mix-up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif "lambda1" in name or "gamma" in name:
                parameter.copy_(0.5 + 0.1 * noise)
            elif parameter.ndim in (2, 4):  # linear and convolution: keep the scale, so that attention is far from even
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(0.3 * noise)


def transformers_model(config: ViTConfig) -> torch.nn.Module:
    """The transformers model of the same shape with random weights, built offline."""
    transformers = pytest.importorskip("transformers")
    kind = "Dinov2WithRegisters" if config.registers else "Dinov2"
    more = {"num_register_tokens": config.registers} if config.registers else {}
    model = getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            image_size=config.pos_grid * config.patch,
            patch_size=config.patch,
            use_swiglu_ffn=config.swiglu,
            **more,
        )
    )
    randomise(model)
    model.set_attn_implementation("eager")  # independent of scaled_dot_product_attention
    return model.eval()


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Maximum difference over maximum value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


SHAPES = [
    ("test", 2, 0),
    ("gated test", 2, 4),  # the MLP of G
    ("s", 2, 4),
    *(
        pytest.param(*shape, marks=pytest.mark.slow)
        for shape in [("s", 12, 0), ("b", 2, 0), ("b", 2, 4), ("l", 2, 0), ("l", 2, 4), ("g", 1, 0), ("g", 1, 4)]
    ),
]


@pytest.mark.slow  # training/test_golden.py notices changed numbers
@pytest.mark.parametrize(("variant", "depth", "registers"), SHAPES)
def test_parity_with_transformers_at_518(variant: str, depth: int, registers: int, tmp_path) -> None:
    """All tokens at full width and heads; depth is reduced to keep the test small."""
    config = dataclasses.replace(VARIANTS[variant.removeprefix("gated ")], depth=depth, registers=registers)
    if variant.startswith("gated "):
        config = dataclasses.replace(config, swiglu=True)
    theirs = transformers_model(config)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = ViT(config).eval()
    load_dinov2(ours, tmp_path / "weights.pth")
    x = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out, expected = ours(x), theirs(x).last_hidden_state
    tokens = torch.cat([out.cls[:, None], out.registers, out.patches], dim=1)
    assert tokens.shape[1] == 1 + registers + 37 * 37
    assert relative_error(tokens, expected) <= 1e-5


@pytest.mark.slow  # importing transformers takes 5 s; training/test_golden.py notices changed numbers
def test_parity_with_transformers_at_other_sizes_with_registers(tmp_path) -> None:
    """Only transformers' model with registers interpolates positions as the official one does."""
    config = dataclasses.replace(VARIANTS["test"], registers=4)
    theirs = transformers_model(config)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = ViT(config).eval()
    load_dinov2(ours, tmp_path / "weights.pth")
    x = torch.randn(1, 3, 140, 224)
    with torch.no_grad():
        assert relative_error(ours(x).patches, theirs(x).last_hidden_state[:, 5:]) <= 1e-5


# ------------------------------------------------------------------------------------------------ position embedding


def cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def rule_without_registers(size: int, side: int) -> np.ndarray:
    """[size, side]: Keys' kernel (a = -0.75) at (i + 0.5)·side/(size + 0.1) - 0.5, borders repeated."""
    weights = np.zeros((size, side))
    for i in range(size):
        centre = (i + 0.5) * side / (size + 0.1) - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[i, min(max(tap, 0), side - 1)] += cubic(np.array(centre - tap), -0.75)
    return weights


def rule_with_registers(size: int, side: int) -> np.ndarray:
    """[size, side]: Keys' kernel (a = -0.5) widened by the reduction, clipped at the borders and normalised."""
    step = side / size
    width = max(step, 1.0)
    centres = (np.arange(size) + 0.5) * step
    weights = cubic((np.arange(side)[None] + 0.5 - centres[:, None]) / width, -0.5)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("grid", [(16, 16), (37, 46), (36, 28), (60, 41), (1, 5)])
def test_position_embedding_follows_official_rules(grid: tuple[int, int], antialias: bool) -> None:
    side, width = 37, 5
    pos = torch.randn(1, 1 + side * side, width, generator=torch.Generator().manual_seed(2))
    rule = rule_with_registers if antialias else rule_without_registers
    rows, columns = rule(grid[0], side), rule(grid[1], side)
    trained = pos[0, 1:].double().numpy().reshape(side, side, width)
    expected = np.einsum("hy,wx,yxd->hwd", rows, columns, trained).reshape(-1, width)
    ours = interpolate_pos_embed(pos, grid, antialias)
    assert torch.equal(ours[:, 0], pos[:, 0])
    np.testing.assert_allclose(ours[0, 1:].numpy(), expected, rtol=0, atol=2e-5)


def test_position_embedding_is_unchanged_at_trained_grid() -> None:
    pos = torch.randn(1, 1 + 37 * 37, 4)
    assert interpolate_pos_embed(pos, (37, 37), antialias=False) is pos
    assert interpolate_pos_embed(pos, (37, 37), antialias=True) is pos


def test_registers_select_interpolation_rule() -> None:
    plain = ViT("test")
    with_registers = ViT(dataclasses.replace(VARIANTS["test"], registers=4))
    grid = (5, 9)
    assert torch.equal(plain.position(grid), interpolate_pos_embed(plain.pos_embed, grid, antialias=False))
    expected = interpolate_pos_embed(with_registers.pos_embed, grid, antialias=True)
    assert torch.equal(with_registers.position(grid), expected)


def test_frozen_grid_keeps_features_and_rejects_other_sizes() -> None:
    model = ViT("test").eval()
    x = torch.randn(1, 3, 42, 56)
    keys = set(model.state_dict())
    with torch.no_grad():
        before = model(x).patches
        model.freeze_grid(3, 4)
        assert torch.equal(model(x).patches, before)
        assert set(model.state_dict()) == keys
        with pytest.raises(ValueError, match=r"frozen to a grid of \(3, 4\)"):
            model(torch.randn(1, 3, 56, 56))
        model.freeze_grid(4, 4)
        model(torch.randn(1, 3, 56, 56))


# -------------------------------------------------------------------------------------------------------------- rest


def test_default_out_indices_match_paper() -> None:
    out_indices = {name: config.out_indices for name, config in VARIANTS.items()}
    assert out_indices["s"] == out_indices["b"] == (2, 5, 8, 11)
    assert out_indices["l"] == (5, 11, 17, 23)
    assert out_indices["g"] == (9, 19, 29, 39)
    assert out_indices["tiny"] == (1, 2, 4, 5)


def test_intermediate_tokens_are_normalised_and_in_requested_order() -> None:
    model = ViT("test").eval()
    randomise(model)
    x = torch.randn(2, 3, 28, 42)
    with torch.no_grad():
        out = model(x, out_indices=(1, 0))
        tokens, grid = model.embed(x)
        first = model.norm(model.blocks[0](tokens))[:, 1:]
    assert torch.equal(out.intermediate[0], out.patches)
    assert torch.equal(out.intermediate[1], first)
    assert grid == out.grid == (2, 3)


def test_swiglu_has_official_shapes() -> None:
    with torch.device("meta"):
        mlp = ViT(dataclasses.replace(VARIANTS["g"], depth=1)).blocks[0].mlp
    assert mlp.w12.weight.shape == (8192, 1536)
    assert mlp.w3.weight.shape == (1536, 4096)


@pytest.mark.parametrize("swiglu", [False, True])
def test_folding_layer_scale_keeps_features(swiglu: bool) -> None:
    model = ViT(dataclasses.replace(VARIANTS["test"], swiglu=swiglu)).eval()
    randomise(model)
    x = torch.randn(1, 3, 42, 42)
    with torch.no_grad():
        before = model(x).patches
        model.fold_layer_scale()
        assert relative_error(model(x).patches, before) < 1e-5
    assert not any("gamma" in name for name in model.state_dict())


def test_activation_checkpointing_keeps_gradients() -> None:
    plain, frugal = ViT("test"), ViT("test")
    frugal.activation_checkpointing = True
    frugal.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 28, 28)
    for model in (plain, frugal):
        model(x).patches.square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ViT("huge"), "unknown ViT variant 'huge': choose one of test, tiny, s, b, l, g"),
        (lambda: ViT("test")(torch.zeros(1, 3, 480, 640)), "480 x 640 pixels .* resize to 476 x 644"),
        (lambda: ViT("test")(torch.zeros(1, 3, 28, 28), out_indices=[2]), r"no such blocks: \[2\].* 0 to 1"),
        (lambda: ViT("test")(torch.zeros(1, 3, 28, 28), out_indices=[-1]), r"no such blocks: \[-1\]"),
        (lambda: ViTConfig("odd", width=50, depth=1, heads=3), "width 50 is not a multiple of heads 3"),
    ],
)
def test_invalid_arguments_are_rejected(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
