"""Fusion: both streams, one stream, a hidden stream."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from spectradino_core.heads.fusion import ConcatFusion

B, N, D = 3, 5, 8


@pytest.fixture
def fusion() -> ConcatFusion:
    torch.manual_seed(0)
    module = ConcatFusion(D)
    torch.nn.init.normal_(module.absent)
    return module.eval()


def test_is_linear_norm_gelu_of_the_concatenated_tokens(fusion):
    rgb, ir = torch.randn(B, N, D), torch.randn(B, N, D)
    weight, bias = fusion.project.weight, fusion.project.bias
    by_hand = rgb @ weight[:, :D].T + ir @ weight[:, D:].T + bias
    by_hand = F.gelu(F.layer_norm(by_hand, (D,), fusion.norm.weight, fusion.norm.bias, eps=1e-6))
    torch.testing.assert_close(fusion(rgb, ir), by_hand)


def test_a_hidden_stream_counts_like_an_absent_one_sample_by_sample(fusion):
    rgb, ir = torch.randn(B, N, D), torch.randn(B, N, D)
    present = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    mixed = fusion(rgb, ir, present)
    torch.testing.assert_close(mixed[0], fusion(rgb, ir)[0])
    torch.testing.assert_close(mixed[1], fusion(rgb, None)[1])
    torch.testing.assert_close(mixed[2], fusion(None, ir)[2])


def test_what_a_hidden_stream_shows_does_not_matter(fusion):
    rgb = torch.randn(B, N, D)
    present = torch.tensor([[1.0, 0.0]] * B)
    a = fusion(rgb, torch.randn(B, N, D), present)
    b = fusion(rgb, torch.full((B, N, D), float("inf")), present)
    torch.testing.assert_close(a, b)


def test_needs_a_stream(fusion):
    with pytest.raises(ValueError, match="at least one stream"):
        fusion(None, None)
