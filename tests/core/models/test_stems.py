"""Stems: RGB starts as the identity, infrared gives three instance-normalised channels, in fp32."""

from __future__ import annotations

import pytest
import torch

from spectradino_core.modality import INFRARED, Modality
from spectradino_core.models import spectradino
from spectradino_core.models.spectradino import InfraredStem, RGBStem, make_stem


def test_rgb_stem_starts_as_identity() -> None:
    x = torch.randn(2, 3, 17, 23)
    assert torch.equal(RGBStem()(x), x)


def test_infrared_stem_is_in_conv_gelu_conv() -> None:
    torch.manual_seed(0)
    stem = InfraredStem()
    x = torch.rand(2, 1, 20, 30)
    with torch.no_grad():
        stem.norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        stem.norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
        y = stem.conv2(torch.nn.functional.gelu(stem.conv1(x)))
        mean, var = y.mean(dim=(2, 3), keepdim=True), y.var(dim=(2, 3), keepdim=True, unbiased=False)
        expected = (y - mean) / (var + 1e-5).sqrt()
        expected = expected * stem.norm.weight[:, None, None] + stem.norm.bias[:, None, None]
        torch.testing.assert_close(stem(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("band", INFRARED)
def test_infrared_stem_is_xavier_uniform_without_bias(band: Modality) -> None:
    stem = make_stem(band)
    assert stem.conv1.weight.shape == (32, 1, 3, 3)
    assert stem.conv2.weight.shape == (3, 32, 3, 3)
    for conv in (stem.conv1, stem.conv2):
        bound = (6 / (9 * (conv.in_channels + conv.out_channels))) ** 0.5
        assert 0.8 * bound < conv.weight.abs().max() <= bound
        assert not conv.bias.any()


def test_each_image_is_normalised_separately() -> None:
    stem = InfraredStem().train()
    x = torch.rand(3, 1, 14, 14)
    together = stem(x)
    torch.testing.assert_close(together[1:2], stem(x[1:2]))


def test_instance_norm_is_fp32_under_autocast(monkeypatch) -> None:
    """The variance of a whole image exceeds 16-bit precision."""
    stem = InfraredStem()
    seen = []
    original = spectradino._standardise

    def spy(y, eps):
        out = original(y, eps)
        seen.append((y.dtype, out.dtype))
        return out

    monkeypatch.setattr(spectradino, "_standardise", spy)
    with torch.autocast("cpu", torch.bfloat16):
        out = stem(torch.rand(1, 1, 32, 32))
    assert seen == [(torch.float32, torch.float32)]
    assert out.dtype == torch.bfloat16


def test_instance_norm_equals_torch() -> None:
    stem = InfraredStem()
    torch.nn.init.uniform_(stem.norm.weight)
    torch.nn.init.uniform_(stem.norm.bias)
    x = torch.rand(2, 1, 42, 56)
    raw = stem.conv2(torch.nn.functional.gelu(stem.conv1(x)))
    torch.testing.assert_close(stem(x), stem.norm(raw), atol=1e-5, rtol=1e-5)


def test_flat_image_stays_finite() -> None:
    """An image with standard deviation 0, such as of a lens cap, gives no NaN in outputs or gradients."""
    for level in (0.0, 0.5, 1.0):
        stem, image = InfraredStem(), torch.full((1, 1, 28, 28), level, requires_grad=True)
        out = stem(image)
        out.square().sum().backward()
        assert torch.isfinite(out).all()
        assert all(torch.isfinite(x.grad).all() for x in (image, *stem.parameters()))
