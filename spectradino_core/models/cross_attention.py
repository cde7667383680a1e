"""Fusion by cross attention between both streams, followed by concatenation.

Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from spectradino_core.models.fusion import ConcatFusion

__all__ = ["CrossAttentionFusion"]

_HEAD_WIDTH = 64  # as in DINOv2


class CrossAttentionFusion(ConcatFusion):
    """Residual cross attention in both directions, then concatenation.

    The paper ablates "cross attention, which computes pairwise attention between modality-specific feature maps"
    (Appendix C3, its best fusion) without further details; pre-norm, one layer per direction, heads of 64 channels and
    zero initialisation (a new module equals `ConcatFusion`) are our choice. A token can attend to its counterpart some
    patches away, which tolerates imperfect alignment of the cameras.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.to_rgb = _CrossAttention(width)
        self.to_infrared = _CrossAttention(width)

    def fuse(self, rgb: Tensor, infrared: Tensor, seen: Tensor) -> Tensor:
        return super().fuse(rgb + self.to_rgb(rgb, infrared), infrared + self.to_infrared(infrared, rgb), seen)


class _CrossAttention(nn.Module):
    """Cross attention from the tokens of one stream to those of the other, [B, N, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // _HEAD_WIDTH)
        self.norm_asks = nn.LayerNorm(width, eps=1e-6)  # of the query; both names are checkpoint keys
        self.norm_told = nn.LayerNorm(width, eps=1e-6)  # of the context
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        q = self.query(self.norm_asks(query)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key_value = self.key_value(self.norm_told(context)).unflatten(-1, (2, self.heads, -1))
        k, v = key_value.permute(2, 0, 3, 1, 4).unbind(0)
        return self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
