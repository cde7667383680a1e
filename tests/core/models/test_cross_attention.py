"""Cross-attention fusion: equals concatenation at initialisation and attends to the other stream at any distance."""

from __future__ import annotations

import pytest
import torch

from spectradino_core.models.fusion import ConcatFusion, CrossAttentionFusion

B, N, D = 2, 6, 128


@pytest.fixture
def fusion() -> CrossAttentionFusion:
    torch.manual_seed(0)
    module = CrossAttentionFusion(D)
    torch.nn.init.normal_(module.absent)
    return module.eval()


def lively(fusion: CrossAttentionFusion) -> CrossAttentionFusion:
    for side in (fusion.to_rgb, fusion.to_infrared):
        torch.nn.init.normal_(side.project.weight, std=0.2)
    return fusion


def test_initial_fusion_equals_concatenation(fusion):
    plain = ConcatFusion(D)
    plain.load_state_dict({k: v for k, v in fusion.state_dict().items() if not k.startswith("to_")})
    rgb, ir = torch.randn(B, N, D), torch.randn(B, N, D)
    torch.testing.assert_close(fusion(rgb, ir), plain(rgb, ir))


def test_equals_multi_head_attention_by_hand(fusion):
    side = lively(fusion).to_rgb
    rgb, ir = torch.randn(B, N, D), torch.randn(B, N, D)
    query, context = side.norm_query(rgb), side.norm_context(ir)
    heads, width = D // 64, 64
    q = side.query(query).view(B, N, heads, width)
    k, v = (x.reshape(B, N, heads, width) for x in side.key_value(context).chunk(2, dim=-1))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).div(width**0.5).softmax(dim=-1)
    by_hand = side.project(torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(B, N, D))
    torch.testing.assert_close(side(rgb, ir), by_hand, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_with_the_former_names_of_the_norms_loads(fusion):
    torch.nn.init.normal_(fusion.to_rgb.norm_query.bias)
    torch.nn.init.normal_(fusion.to_infrared.norm_context.weight)
    names = {"norm_query": "norm_asks", "norm_context": "norm_told"}
    former = {}
    for name, value in fusion.state_dict().items():
        for present, old in names.items():
            name = name.replace(present, old)
        former[name] = value.clone()
    loaded = CrossAttentionFusion(D)
    loaded.load_state_dict(former)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in fusion.state_dict().items())
    assert "to_rgb.norm_asks.bias" in former  # the caller's dictionary is unchanged


def test_attention_is_invariant_to_token_order_of_other_stream(fusion):
    lively(fusion)
    rgb, ir = torch.randn(B, N, D), torch.randn(B, N, D)
    turned = ir[:, torch.tensor([0, 5, 4, 3, 2, 1])]
    a, b = fusion.to_rgb(rgb, ir), fusion.to_rgb(rgb, turned)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    moved = ir.clone()
    moved[:, 5] = torch.randn(B, D)  # a distant token affects every token
    assert (fusion(rgb, moved)[:, 0] - fusion(rgb, ir)[:, 0]).abs().max() > 1e-3


def test_masked_stream_equals_absent_stream(fusion):
    lively(fusion)
    rgb = torch.randn(B, N, D)
    hidden = torch.tensor([[1.0, 0.0]] * B)
    torch.testing.assert_close(fusion(rgb, torch.full((B, N, D), float("nan")), hidden), fusion(rgb, None))
