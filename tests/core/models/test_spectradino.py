"""SpectraDINO: the RGB path equals DINOv2, and a mixed batch equals its samples one by one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from spectradino_core.modality import INFRARED, Modality
from spectradino_core.models import VARIANTS, SpectraDINO, ViT, parameter_roles

RGB, NIR, SWIR, LWIR = Modality


def images(band: Modality, batch: int = 2, height: int = 42, width: int = 56) -> torch.Tensor:
    return torch.rand(batch, band.band.channels, height, width)


@pytest.fixture
def model() -> SpectraDINO:
    """2-block model whose bands differ; a new model has no modality embedding and near-equal adapters."""
    torch.manual_seed(0)
    model = SpectraDINO("test").eval()
    with torch.no_grad():
        model.modality_embedding.normal_()
        for adapter in model.adapters:
            for parameter in adapter.parameters():
                parameter.normal_(std=0.1)
    return model


def test_vit_b_adapters_have_parameter_count_of_paper() -> None:
    with torch.device("meta"):
        model = SpectraDINO("b")
    assert sum(p.numel() for p in model.adapters.parameters()) == 14_201_856


@pytest.mark.parametrize("size", [(42, 56), (518, 518)])
def test_rgb_path_with_zeroed_adapters_equals_dinov2(size: tuple[int, int]) -> None:
    model, plain = SpectraDINO("test").eval(), ViT("test").eval()
    plain.load_state_dict(model.vit.state_dict())
    for adapter in model.adapters:
        torch.nn.init.zeros_(adapter.up)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        ours, theirs = model({RGB: x}, out_indices=(0, 1))[RGB], plain(x, out_indices=(0, 1))
    assert torch.equal(ours.cls, theirs.cls)
    assert torch.equal(ours.patches, theirs.patches)
    assert all(torch.equal(a, b) for a, b in zip(ours.intermediate, theirs.intermediate, strict=True))


@pytest.mark.parametrize("mix", [{RGB: 2, LWIR: 2}, {LWIR: 1, RGB: 3}, {RGB: 1, SWIR: 1}, dict.fromkeys(Modality, 2)])
def test_mixed_batch_equals_single_samples(model: SpectraDINO, mix: dict[Modality, int]) -> None:
    batch = {band: images(band, count) for band, count in mix.items()}
    with torch.no_grad():
        together = model(batch, out_indices=(1, 0))
        assert list(together) == list(mix)
        for band, alone in batch.items():
            for row in range(len(alone)):
                single = model({band: alone[row : row + 1]}, out_indices=(1, 0))[band]
                torch.testing.assert_close(together[band].cls[row], single.cls[0], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(together[band].patches[row], single.patches[0], rtol=1e-4, atol=1e-5)
                for a, b in zip(together[band].intermediate, single.intermediate, strict=True):
                    torch.testing.assert_close(a[row], b[0], rtol=1e-4, atol=1e-5)


def test_every_band_has_its_own_features(model: SpectraDINO) -> None:
    x = images(NIR)
    model.stems["swir"].load_state_dict(model.stems["nir"].state_dict())
    model.stems["lwir"].load_state_dict(model.stems["nir"].state_dict())
    with torch.no_grad():
        cls = [out.cls for out in model(dict.fromkeys(INFRARED, x)).values()]
    assert (cls[0] - cls[1]).abs().max() > 0.1
    assert (cls[1] - cls[2]).abs().max() > 0.1


def test_roles_cover_every_parameter() -> None:
    model = SpectraDINO("test", (RGB, LWIR))
    roles = parameter_roles(model)
    assert set(roles) == {name for name, _ in model.named_parameters()}
    shared = {"patch_embed", "tokens", "blocks.0", "blocks.1", "norm"}
    assert set(roles.values()) == shared | {"stems.rgb", "stems.lwir", "adapters", "modality_embedding"}


@pytest.mark.parametrize("trained", [{"stems.lwir"}, {"adapters"}, {"modality_embedding", "norm"}, {"blocks.1"}])
def test_gradients_follow_roles(model: SpectraDINO, trained: set[str]) -> None:
    roles = parameter_roles(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(roles[name] in trained)
    out = model({RGB: images(RGB), LWIR: images(LWIR)})
    weights = torch.randn(48)
    sum((f.cls @ weights).square().sum() + (f.patches @ weights).square().sum() for f in out.values()).backward()
    with_gradient = {roles[n] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == trained
    assert all(p.grad is None for n, p in model.named_parameters() if roles[n] not in trained)


def test_band_not_in_batch_gets_no_gradient(model: SpectraDINO) -> None:
    out = model({RGB: images(RGB), LWIR: images(LWIR)})
    sum(f.patches[..., 0].square().sum() for f in out.values()).backward()
    assert all(p.grad is None for p in model.stems["swir"].parameters())
    assert [bool(row.any()) for row in model.modality_embedding.grad] == [True, False, False, True]
    assert [bool(row.any()) for row in model.adapters[0].up.grad] == [True, False, False, True]


def test_modality_embedding_reaches_every_token() -> None:
    """CLS, registers and patches of the first block's input all shift by the band's vector."""
    config = dataclasses.replace(VARIANTS["test"], registers=4)
    model = SpectraDINO(config, (RGB, LWIR)).eval()
    seen: list[torch.Tensor] = []
    model.vit.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    batch = {RGB: images(RGB, 1), LWIR: images(LWIR, 2)}
    with torch.no_grad():
        model(batch)
        model.modality_embedding.copy_(torch.stack([torch.zeros(48), torch.arange(48.0)]))
        model(batch)
    moved = seen[1] - seen[0]
    assert moved.shape == (3, 1 + 4 + 3 * 4, 48)
    assert not moved[0].any()
    torch.testing.assert_close(moved[1:], torch.arange(48.0).expand(2, 17, 48), rtol=1e-5, atol=1e-5)


def test_selected_bands_keep_their_features(model: SpectraDINO) -> None:
    model.vit.pos_embed.requires_grad_(False)
    small = model.select_bands((LWIR, RGB))
    assert small.bands == (RGB, LWIR)
    assert set(small.stems) == {"rgb", "lwir"}
    assert small.adapters[0].down.shape[0] == len(small.modality_embedding) == 2
    assert not small.vit.pos_embed.requires_grad
    batch = {RGB: images(RGB), LWIR: images(LWIR)}
    with torch.no_grad():
        before, after = model(batch), small(batch)
        for band in batch:
            torch.testing.assert_close(after[band].patches, before[band].patches, rtol=1e-5, atol=1e-5)
        small.vit.norm.weight.zero_()
    assert model.vit.norm.weight.any()  # it is a copy


def test_bf16_autocast_stays_near_fp32(model: SpectraDINO) -> None:
    batch = {RGB: images(RGB), LWIR: images(LWIR, 1)}
    with torch.no_grad():
        exact = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(batch)
    for band in batch:
        error = (rough[band].patches.float() - exact[band].patches).norm() / exact[band].patches.norm()
        assert error < 0.03


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "no images"),
        ({SWIR: torch.zeros(1, 1, 28, 28)}, "no swir band: it holds rgb, lwir"),
        ({LWIR: torch.zeros(1, 3, 28, 28)}, r"lwir images must be \[B, 1, H, W\].*not \[1, 3, 28, 28\]"),
        ({RGB: torch.zeros(3, 28, 28)}, r"rgb images must be \[B, 3, H, W\]"),
        ({RGB: torch.zeros(0, 3, 28, 28)}, "with B > 0"),
        ({RGB: torch.zeros(1, 3, 28, 28), LWIR: torch.zeros(1, 1, 28, 42)}, "same size.*'lwir': \\(28, 42\\)"),
        ({RGB: torch.zeros(1, 3, 30, 28)}, "resize to 28 x 28"),
    ],
)
def test_invalid_batches_are_rejected(batch: dict[Modality, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpectraDINO("test", (RGB, LWIR))(batch)


def test_repeated_and_missing_bands_are_rejected() -> None:
    with pytest.raises(ValueError, match="each once"):
        SpectraDINO("test", (RGB, RGB))
    with pytest.raises(ValueError, match="no nir: it holds rgb, lwir"):
        SpectraDINO("test", (RGB, LWIR)).select_bands((RGB, NIR))
