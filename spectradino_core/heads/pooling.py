"""Adaptive average pooling that exports: the same regions as `nn.AdaptiveAvgPool2d`, as two matrix products.

Letters: B batch, P channels, h x w a map, k regions a side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["adaptive_average"]


def adaptive_average(x: Tensor, k: int) -> Tensor:
    """[B, P, h, w] to [B, P, k, k].

    Region i of a side of n pixels goes from floor(i n / k) to ceil((i + 1) n / k), so regions overlap where k does not
    divide n. ONNX has no such operator; with a fixed size both matrices are constants of the graph.
    """
    rows, columns = (_regions(int(n), k).to(x) for n in x.shape[-2:])
    return rows @ x @ columns.T


def _regions(n: int, k: int) -> Tensor:
    """[k, n]: the weight of each pixel in each region. Made from lists, so that an exported graph holds numbers."""
    rows = []
    for i in range(k):
        start, end = i * n // k, math.ceil((i + 1) * n / k)
        rows.append([1 / (end - start) if start <= pixel < end else 0.0 for pixel in range(n)])
    return torch.tensor(rows)
