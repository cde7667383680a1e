"""SpectraDINO: the RGB path is DINOv2, and a mixed batch is its parts."""

from __future__ import annotations

import pytest
import torch

from spectradino_core.backbone import SpectraDINO, ViT, parameter_roles
from spectradino_core.modality import INFRARED, Modality

RGB, NIR, SWIR, LWIR = Modality


def images(band: Modality, batch: int = 2, height: int = 42, width: int = 56) -> torch.Tensor:
    return torch.rand(batch, band.band.channels, height, width)


@pytest.fixture
def model() -> SpectraDINO:
    """A 2-block model whose bands differ: a fresh one has no modality embedding and near-equal adapters."""
    torch.manual_seed(0)
    model = SpectraDINO("test").eval()
    with torch.no_grad():
        model.modality_embedding.normal_()
        for adapter in model.adapters:
            for parameter in adapter.parameters():
                parameter.normal_(std=0.1)
    return model


def test_vit_b_adapters_have_the_papers_parameter_count() -> None:
    with torch.device("meta"):
        model = SpectraDINO("b")
    assert sum(p.numel() for p in model.adapters.parameters()) == 14_201_856


@pytest.mark.parametrize("size", [(42, 56), (518, 518)])
def test_with_zeroed_adapters_the_rgb_path_is_dinov2(size: tuple[int, int]) -> None:
    model, plain = SpectraDINO("test").eval(), ViT("test").eval()
    plain.load_state_dict(model.vit.state_dict())
    for adapter in model.adapters:
        adapter.zero_output()
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        ours, theirs = model({RGB: x}, taps=(0, 1))[RGB], plain(x, taps=(0, 1))
    assert torch.equal(ours.cls, theirs.cls)
    assert torch.equal(ours.patches, theirs.patches)
    assert all(torch.equal(a, b) for a, b in zip(ours.tapped, theirs.tapped, strict=True))


@pytest.mark.parametrize("mix", [{RGB: 2, LWIR: 2}, {LWIR: 1, RGB: 3}, {RGB: 1, SWIR: 1}, dict.fromkeys(Modality, 2)])
def test_a_mixed_batch_is_its_parts(model: SpectraDINO, mix: dict[Modality, int]) -> None:
    batch = {band: images(band, count) for band, count in mix.items()}
    with torch.no_grad():
        together = model(batch, taps=(1, 0))
        assert list(together) == list(mix)
        for band, alone in batch.items():
            for row in range(len(alone)):
                single = model({band: alone[row : row + 1]}, taps=(1, 0))[band]
                torch.testing.assert_close(together[band].cls[row], single.cls[0], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(together[band].patches[row], single.patches[0], rtol=1e-4, atol=1e-5)
                for a, b in zip(together[band].tapped, single.tapped, strict=True):
                    torch.testing.assert_close(a[row], b[0], rtol=1e-4, atol=1e-5)


def test_every_band_sees_its_own_way(model: SpectraDINO) -> None:
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
