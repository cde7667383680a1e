"""Fusion by cross attention: each stream asks the other what lies where, then both are concatenated.

Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from spectradino_core.heads.fusion import ConcatFusion

__all__ = ["CrossAttentionFusion"]

_HEAD_WIDTH = 64
"""Of DINOv2's own attention heads."""


class CrossAttentionFusion(ConcatFusion):
    """Attention between the two feature maps in both directions, added to each stream, then concatenation.

    The paper ablates "cross attention, which computes pairwise attention between modality-specific feature maps"
    (Appendix C3, its best fusion) and gives no more; pre-norm, one layer a direction, heads of 64 channels and a zero
    start (a fresh module equals `ConcatFusion`) are ours. A token may find its partner some patches away, which is what
    two cameras that are not quite aligned need.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.to_rgb = _CrossAttention(width)
        self.to_infrared = _CrossAttention(width)

    def fuse(self, rgb: Tensor, infrared: Tensor, seen: Tensor) -> Tensor:
        return super().fuse(rgb + self.to_rgb(rgb, infrared), infrared + self.to_infrared(infrared, rgb), seen)


class _CrossAttention(nn.Module):
    """What the tokens of one stream read from those of the other, [B, N, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // _HEAD_WIDTH)
        self.norm_asks = nn.LayerNorm(width, eps=1e-6)
        self.norm_told = nn.LayerNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, asks: Tensor, told: Tensor) -> Tensor:
        q = self.query(self.norm_asks(asks)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(self.norm_told(told)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
