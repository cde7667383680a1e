"""Segmentation heads: a linear layer for each patch, and UPerNet.

Letters: B batch, N tokens, D width, P channels of a map, S classes, h x w grid or map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectradino_core.models.batch_norm import BatchNorm
from spectradino_core.models.pyramid import LEVELS, ChannelNorm, SimpleFeaturePyramid
from spectradino_core.runtime.preprocess import Letterbox


@torch.inference_mode()
def mask_at_source(logits: Tensor, box: Letterbox) -> np.ndarray:
    """Enlarge mask logits bilinearly to the source image and choose each pixel's class, uint8, as benchmarks do.

    A class map that is chosen in the network's pixels and then enlarged has steps at class boundaries.

    Args:
        logits: [S, h, w], which cover the network's input.
        box: geometry of the source image in that input.
    """
    sides = zip(box.source, box.content, box.network, strict=True)
    # Centres of the source pixels in the network's input, whose edges are -1 and 1.
    x, y = (
        (torch.arange(source, device=logits.device) + 0.5) * (2 * content / (source * network)) - 1
        for source, content, network in sides
    )
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    full = F.grid_sample(logits[None].float(), grid[None], padding_mode="border", align_corners=False)
    return full[0].argmax(dim=0).to(torch.uint8).cpu().numpy()


class LinearSegmentationHead(nn.Module):
    """BatchNorm and a 1x1 convolution (DINOv2's linear probe)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = BatchNorm(width)
        self.classify = nn.Conv2d(width, classes, 1)
        assert self.classify.bias is not None
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits [B, S, h, w] of a map [B, P, h, w]."""
        return self.classify(self.norm(x))


POOLS = (1, 2, 3, 6)


class UPerNet(nn.Module):
    """Standard segmentation head for evaluating vision foundation models (paper, Section 4.4).

    Levels are computed as in ViTDet's pyramid: level i from the i-th of four layers, shallow layers for fine levels, or
    all from the last layer. The default width is 256, since the usual 512 costs three times the ViT-S backbone.
    LayerNorm over channels replaces the original's BatchNorm (our choice): a map pooled to one pixel has no meaningful
    statistics in a small batch.
    """

    def __init__(self, width: int, classes: int, out_width: int, patch: int) -> None:
        """Make a head for tokens of D = `width` channels, whose own maps have P = `out_width`."""
        super().__init__()
        self.levels = SimpleFeaturePyramid(width, out_width, [level * patch for level in LEVELS], patch)
        self.pools = nn.ModuleList(_conv(out_width, out_width, 1) for _ in POOLS)
        self.pooled = _conv((1 + len(POOLS)) * out_width, out_width, 3)
        self.laterals = nn.ModuleList(_conv(out_width, out_width, 1) for _ in LEVELS[1:])
        self.smooth = nn.ModuleList(_conv(out_width, out_width, 3) for _ in LEVELS[1:])
        self.join = _conv(len(LEVELS) * out_width, out_width, 3)
        self.classify = nn.Conv2d(out_width, classes, 1)
        assert self.classify.bias is not None
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Return class logits [B, S, h_0, w_0] at a stride of a quarter patch.

        Args:
            layers: four tokens [B, N, D], shallow to deep, or one for all levels.
            grid: (h, w), N = h·w.
        """
        maps = self.levels(layers, grid)
        coarsest = maps[-1]
        bins = [
            _resize(conv(adaptive_average(coarsest, k)), coarsest) for conv, k in zip(self.pools, POOLS, strict=True)
        ]
        top = self.pooled(torch.cat([coarsest, *bins], dim=1))
        levels = [top]
        for lateral, x in zip(reversed(self.laterals), reversed(maps[:-1]), strict=True):
            levels.append(lateral(x) + _resize(levels[-1], x))
        merged = [conv(x) for conv, x in zip(self.smooth, reversed(levels[1:]), strict=True)]
        merged = [merged[0], *(_resize(x, merged[0]) for x in [*merged[1:], top])]
        return self.classify(self.join(torch.cat(merged, dim=1)))


def _conv(width: int, out_width: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, out_width, side, padding=side // 2, bias=False), ChannelNorm(out_width, eps=1e-6), nn.GELU()
    )


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly to the size of `like`."""
    size = (int(like.shape[-2]), int(like.shape[-1]))
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def adaptive_average(x: Tensor, k: int) -> Tensor:
    """Pool [B, P, h, w] to [B, P, k, k] over the regions of `nn.AdaptiveAvgPool2d`, which ONNX lacks.

    Region i of a side of n pixels is floor(i n / k) to ceil((i + 1) n / k), so regions overlap if k does not divide n.
    At a fixed size both matrices are constants of the exported graph.
    """
    rows, columns = (_regions(int(n), k).to(x) for n in x.shape[-2:])
    return rows @ x @ columns.T


def _regions(n: int, k: int) -> Tensor:
    """Weight of each pixel in each region, [k, n]; built from lists so that export folds it to a constant."""
    rows = []
    for i in range(k):
        start, end = i * n // k, math.ceil((i + 1) * n / k)
        rows.append([1 / (end - start) if start <= pixel < end else 0.0 for pixel in range(n)])
    return torch.tensor(rows)
