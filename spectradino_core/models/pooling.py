"""Adaptive average pooling as two matrix products, which ONNX can express.

Letters: B batch, P channels, h x w feature map, k regions per side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["adaptive_average"]


def adaptive_average(x: Tensor, k: int) -> Tensor:
    """Pool [B, P, h, w] to [B, P, k, k] over the regions of `nn.AdaptiveAvgPool2d`.

    Region i of a side of n pixels is floor(i n / k) to ceil((i + 1) n / k), so regions overlap if k does not divide n.
    ONNX has no such operator; at a fixed size both matrices are constants of the graph.
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
