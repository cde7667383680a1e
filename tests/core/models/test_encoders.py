"""Encoders: the common interface does not change the features of either backbone."""

from __future__ import annotations

import pytest
import torch

from spectradino_core.modality import Modality
from spectradino_core.models.encoders import BandedEncoder, PlainEncoder, encoder_of
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import ViT


def make_images(channels: dict[str, int], count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.rand(count, c, 28, 42, generator=generator) for key, c in channels.items()}


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_plain_encoder_equals_vit(shared):
    vit = ViT("test")
    encoder = PlainEncoder(vit, shared)
    images = make_images({"rgb": 3, "depth": 3, "lwir": 3})
    found = encoder(images)
    assert list(found) == list(images)
    for key, image in images.items():
        expected = vit(image)
        torch.testing.assert_close(found[key].cls, expected.cls)
        torch.testing.assert_close(found[key].patches, expected.patches)
        assert found[key].grid == (2, 3)
    assert {encoder.channels(key) for key in ("rgb", "nir", "depth")} == {3}


def test_shared_blocks_get_no_gradient():
    vit = ViT("test")
    PlainEncoder(vit, 1)(make_images({"rgb": 3}))["rgb"].cls.sum().backward()
    assert all(p.grad is None for p in vit.blocks[0].parameters())
    assert all(p.grad is not None for p in vit.blocks[1].parameters())


def test_banded_encoder_equals_spectradino():
    model = SpectraDINO("test")
    encoder = BandedEncoder(model)
    assert [encoder.channels(key) for key in ("rgb", "nir", "lwir", "depth", "segmentation")] == [3, 1, 1, 3, 3]
    images = make_images({"depth": 3, "lwir": 1, "rgb": 3})
    found = encoder(images)
    assert list(found) == list(images)
    torch.testing.assert_close(found["lwir"].cls, model({Modality.LWIR: images["lwir"]})[Modality.LWIR].cls)
    for key in ("depth", "rgb"):
        torch.testing.assert_close(found[key].patches, model({Modality.RGB: images[key]})[Modality.RGB].patches)


def test_missing_band_is_rejected_unless_model_is_rgb_only():
    two = BandedEncoder(SpectraDINO("test", [Modality.RGB, Modality.NIR]))
    with pytest.raises(ValueError, match="no lwir band: it holds rgb, nir"):
        two.channels("lwir")
    assert encoder_of(SpectraDINO("test", [Modality.RGB])).channels("lwir") == 3
    assert isinstance(encoder_of(ViT("test")), PlainEncoder)
    with pytest.raises(ValueError, match="shared is 3 blocks, but the model has 2"):
        PlainEncoder(ViT("test"), 3)
