"""Feature pyramid: strides, shapes and odd grids."""

from __future__ import annotations

import pytest
import torch

from spectradino_core.models.pyramid import PRESETS, ChannelNorm, SimpleFeaturePyramid, level_sizes


def test_map_shape_of_every_stride():
    pyramid = SimpleFeaturePyramid(16, 8, (3.5, 7.0, 14.0, 28.0), 14).eval()
    maps = pyramid(torch.randn(2, 37 * 9, 16), (37, 9))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 148, 36), (2, 8, 74, 18), (2, 8, 37, 9), (2, 8, 18, 4)]


def test_tokens_are_row_major():
    tokens = torch.zeros(1, 6, 16)
    ramp = torch.linspace(-1, 1, 16).expand(1, 6, 16)
    tokens[0, 4, :8] = 5.0  # row 1, column 1 of a grid of 2 x 3
    pyramid = SimpleFeaturePyramid(16, 16, (14.0,), 14).eval()
    for conv in (pyramid.levels[0][0], pyramid.levels[0][2]):  # identity convolutions keep only the layout
        torch.nn.init.dirac_(conv.weight)
    changed = (pyramid(tokens + ramp, (2, 3))[0] - pyramid(ramp, (2, 3))[0]).abs().sum(dim=1)[0]
    assert changed.argmax().item() == 4


def test_unsupported_strides_are_rejected():
    with pytest.raises(ValueError, match=r"stride 8 .* patch 14 gives: 3\.5, 7, 14, 28"):
        SimpleFeaturePyramid(16, 8, (8.0,), 14)
    assert SimpleFeaturePyramid(16, 8, (8.0,), 16).strides == (8.0,)


def test_channel_norm_normalises_channels_at_each_position():
    out = ChannelNorm(8)(torch.randn(2, 8, 3, 4) * 7 + 3)
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(dim=1, unbiased=False), torch.ones(2, 3, 4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("grid", [(37, 46), (10, 12)])
def test_level_sizes_match_maps(preset, grid):
    strides = [14 * level for level in PRESETS[preset]]
    pyramid = SimpleFeaturePyramid(16, 8, strides, 14).eval()
    maps = pyramid(torch.randn(1, grid[0] * grid[1], 16), grid)
    assert [tuple(m.shape[-2:]) for m in maps] == level_sizes((14 * grid[0], 14 * grid[1]), strides)


def test_levels_read_their_layers_and_repeat_the_first_if_too_few():
    torch.manual_seed(0)
    pyramid = SimpleFeaturePyramid(16, 8, (7.0, 14.0, 28.0), 14).eval()
    layers = [torch.randn(1, 16, 16) for _ in range(4)]
    maps = pyramid(layers, (4, 4))
    for level, layer in zip(range(3), layers[1:]):  # the last three of four
        torch.testing.assert_close(maps[level], pyramid(layer, (4, 4))[level])
    few = pyramid(layers[:2], (4, 4))
    torch.testing.assert_close(few[0], pyramid(layers[0], (4, 4))[0])
    torch.testing.assert_close(few[1], pyramid(layers[0], (4, 4))[1])
    torch.testing.assert_close(few[2], pyramid(layers[1], (4, 4))[2])
