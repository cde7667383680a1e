"""UPerNet and its adaptive pooling."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spectradino_core.models.pyramid import LEVELS
from spectradino_core.models.segmentation import POOLS, UPerNet, adaptive_average


@pytest.mark.parametrize("size", [(18, 23), (5, 6), (1, 1), (3, 2), (12, 7)])
@pytest.mark.parametrize("k", POOLS)
def test_pooling_equals_adaptive_average_pooling(size, k):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(adaptive_average(x, k), nn.AdaptiveAvgPool2d(k)(x), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("grid", [(37, 46), (8, 10), (3, 5)])
def test_output_stride_on_odd_grids(grid):
    head = UPerNet(16, 5, 8, 14).eval()
    with torch.no_grad():
        out = head([torch.randn(2, grid[0] * grid[1], 16)] * 4, grid)
    assert out.shape == (2, 5, 4 * grid[0], 4 * grid[1])


def test_every_layer_feeds_its_level():
    torch.manual_seed(0)
    head, grid = UPerNet(16, 5, 8, 14).eval(), (4, 5)
    nn.init.normal_(head.classify.weight)
    layers = [torch.randn(1, 20, 16) for _ in LEVELS]
    with torch.no_grad():
        maps = head.levels(layers, grid)
        for index, layer in enumerate(layers):
            changed = [*layers]
            changed[index] = layer + torch.randn_like(layer)
            other = head.levels(changed, grid)
            assert [torch.equal(a, b) for a, b in zip(maps, other)] == [i != index for i in range(4)]
            assert not torch.allclose(head(layers, grid), head(changed, grid))


def test_coarsest_level_gives_global_context():
    torch.manual_seed(0)
    head, grid = UPerNet(16, 5, 8, 14).eval(), (12, 12)
    nn.init.normal_(head.classify.weight)
    layers = [torch.randn(1, 144, 16, requires_grad=index == 3) for index in range(4)]
    head(layers, grid)[0, :, 0, 0].sum().backward()
    reached = layers[3].grad.abs().sum(dim=-1).view(6, 2, 6, 2) > 0
    assert reached.any(dim=3).any(dim=1).all()  # one of each 2 x 2 that is max-pooled to the coarsest level
