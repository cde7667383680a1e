"""Per-pixel cross entropy (paper, Section 4.4).

Letters: B batch, S classes, h x w logits, H x W mask.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["IGNORE", "segmentation_loss"]

IGNORE = 255
"""Mask value of unlabelled pixels."""


def segmentation_loss(
    logits: Tensor, mask: Tensor, class_weights: Tensor | None = None, pixels: Tensor | None = None
) -> Tensor:
    """Mean cross entropy over labelled pixels; 0 without labelled pixels.

    Args:
        logits: [B, S, h, w], interpolated bilinearly to the mask's size.
        mask: integer [B, H, W], `IGNORE` where unlabelled.
        class_weights: [S] or None.
        pixels: divisor instead of the number of labelled pixels, for part of a larger batch.
    """
    mask = mask.long()
    logits = F.interpolate(logits.float(), size=mask.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, mask, weight=class_weights, ignore_index=IGNORE, reduction="sum")
    if pixels is not None:
        return total / pixels.clamp(min=1)
    labelled = mask != IGNORE
    if class_weights is None:
        return total / labelled.sum().clamp(min=1)
    return total / class_weights[mask.masked_fill(~labelled, 0)].mul(labelled).sum().clamp(min=1e-6)
