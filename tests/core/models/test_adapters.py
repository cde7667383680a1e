"""Adapters: the batched matmuls equal the per-sample formula for every mixture of bands."""

from __future__ import annotations

import pytest
import torch

from spectradino_core.models.spectradino import INIT_STD, Adapter, Routing

WIDTH, BOTTLENECK = 12, 3


@pytest.fixture
def adapter() -> Adapter:
    torch.manual_seed(0)
    adapter = Adapter(4, WIDTH, BOTTLENECK)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    return adapter


def by_hand(adapter: Adapter, z: torch.Tensor, slot: int) -> torch.Tensor:
    """The paper's z' + W_up · GELU(W_down · z' + b) + b' for one sample."""
    hidden = torch.nn.functional.gelu(z @ adapter.down[slot] + adapter.down_bias[slot])
    return z + hidden @ adapter.up[slot] + adapter.up_bias[slot]


@pytest.mark.parametrize(
    ("slots", "sizes"),
    [
        ((2,), (3,)),
        ((0, 3), (2, 2)),
        ((3, 0), (2, 2)),
        ((1, 2), (2, 2)),
        ((0, 1, 2, 3), (1, 1, 1, 1)),
        ((0, 3), (1, 4)),
    ],
)
def test_every_band_mixture_equals_formula(adapter: Adapter, slots: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    routing = Routing(slots, sizes)
    z = torch.randn(sum(sizes), 5, WIDTH)
    index = routing.index.tolist()
    assert index == [slot for slot, size in zip(slots, sizes) for _ in range(size)]
    expected = torch.stack([by_hand(adapter, sample, slot) for sample, slot in zip(z, index)])
    torch.testing.assert_close(adapter(z, routing), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3)])
def test_gradients_reach_only_bands_in_batch(adapter: Adapter, sizes: tuple[int, ...]) -> None:
    adapter(torch.randn(4, 5, WIDTH), Routing((0, 2), sizes)).square().sum().backward()
    for parameter in adapter.parameters():
        assert [bool(row.any()) for row in parameter.grad] == [True, False, True, False]


def test_pick_returns_view_for_consecutive_bands(adapter: Adapter) -> None:
    picked = Routing((1, 2), (1, 1)).pick(adapter.down)
    assert picked.data_ptr() == adapter.down[1].data_ptr()


def test_initialisation() -> None:
    torch.manual_seed(0)
    adapter = Adapter(4, 96, 24)
    assert not adapter.down_bias.any()
    assert not adapter.up_bias.any()
    for weight in (adapter.down, adapter.up):
        assert float(weight.detach().std()) == pytest.approx(INIT_STD, rel=0.05)


def test_zeroed_output_is_identity(adapter: Adapter) -> None:
    torch.nn.init.zeros_(adapter.up)
    torch.nn.init.zeros_(adapter.up_bias)
    z = torch.randn(2, 5, WIDTH)
    assert torch.equal(adapter(z, Routing((0, 1), (1, 1))), z)


def test_keep_selects_slots_in_order(adapter: Adapter) -> None:
    before = {name: value.detach().clone() for name, value in adapter.named_parameters()}
    adapter.down.requires_grad_(False)
    adapter.keep([0, 3])
    for name, value in adapter.named_parameters():
        assert torch.equal(value, before[name][[0, 3]])
    assert not adapter.down.requires_grad
    assert adapter.up.requires_grad
