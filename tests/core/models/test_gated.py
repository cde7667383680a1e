"""Gated fusion: equal weights at initialisation, one gate per token, and pass-through of a single stream."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from spectradino_core.models.fusion import GatedFusion

B, N, D = 3, 5, 8


@pytest.fixture
def fusion() -> GatedFusion:
    torch.manual_seed(0)
    return GatedFusion(D).eval()


def test_initial_fusion_is_normalised_mean(fusion):
    rgb, ir = torch.randn(B, N, D), torch.randn(B, N, D)
    torch.testing.assert_close(fusion(rgb, ir), F.layer_norm((rgb + ir) / 2, (D,), eps=1e-6))


def test_every_token_has_its_own_gate(fusion):
    torch.nn.init.normal_(fusion.gate.weight)
    rgb, ir = torch.randn(B, N, D), torch.randn(B, N, D)
    gate = (torch.cat((rgb, ir), dim=-1) @ fusion.gate.weight[0] + fusion.gate.bias).sigmoid()[..., None]
    assert gate.std() > 0.05
    torch.testing.assert_close(fusion(rgb, ir), F.layer_norm(gate * rgb + (1 - gate) * ir, (D,), eps=1e-6))


def test_companions_passes_through(fusion):
    torch.nn.init.normal_(fusion.gate.weight)
    rgb, ir = torch.randn(B, N, D), torch.full((B, N, D), float("inf"))
    alone = F.layer_norm(rgb, (D,), eps=1e-6)
    torch.testing.assert_close(fusion(rgb, None), alone)
    torch.testing.assert_close(fusion(None, rgb), alone)
    torch.testing.assert_close(fusion(rgb, ir, torch.tensor([[1.0, 0.0]] * B)), alone)
    torch.testing.assert_close(fusion(ir, rgb, torch.tensor([[0.0, 1.0]] * B)), alone)


def test_presence_is_per_sample(fusion):
    torch.nn.init.normal_(fusion.gate.weight)
    rgb, ir = torch.randn(B, N, D), torch.randn(B, N, D)
    mixed = fusion(rgb, ir, torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(mixed[0], fusion(rgb, ir)[0])
    torch.testing.assert_close(mixed[1], fusion(rgb, None)[1])
    torch.testing.assert_close(mixed[2], fusion(None, ir)[2])
