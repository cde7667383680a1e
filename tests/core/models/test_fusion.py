"""Concatenation fusion with both streams, one stream and a masked stream."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from spectradino_core.models.fusion import ConcatFusion

B, N, D = 3, 5, 8


@pytest.fixture
def fusion() -> ConcatFusion:
    torch.manual_seed(0)
    module = ConcatFusion(D)
    torch.nn.init.normal_(module.absent)
    return module.eval()


def test_equals_linear_norm_gelu_by_hand(fusion):
    rgb, ir = torch.randn(B, N, D), torch.randn(B, N, D)
    weight, bias = fusion.project.weight, fusion.project.bias
    by_hand = rgb @ weight[:, :D].T + ir @ weight[:, D:].T + bias
    by_hand = F.gelu(F.layer_norm(by_hand, (D,), fusion.norm.weight, fusion.norm.bias, eps=1e-6))
    torch.testing.assert_close(fusion(rgb, ir), by_hand)


def test_masked_stream_equals_absent_stream_per_sample(fusion):
    rgb, ir = torch.randn(B, N, D), torch.randn(B, N, D)
    present = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    mixed = fusion(rgb, ir, present)
    torch.testing.assert_close(mixed[0], fusion(rgb, ir)[0])
    torch.testing.assert_close(mixed[1], fusion(rgb, None)[1])
    torch.testing.assert_close(mixed[2], fusion(None, ir)[2])


def test_content_of_masked_stream_is_ignored(fusion):
    rgb = torch.randn(B, N, D)
    present = torch.tensor([[1.0, 0.0]] * B)
    a = fusion(rgb, torch.randn(B, N, D), present)
    b = fusion(rgb, torch.full((B, N, D), float("inf")), present)
    torch.testing.assert_close(a, b)


def test_no_stream_is_rejected(fusion):
    with pytest.raises(ValueError, match="at least one stream"):
        fusion(None, None)
