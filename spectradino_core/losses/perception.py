"""Fine-tuning losses: focal and generalised IoU loss of the boxes, cross entropy of the mask (Sections 4.3 and 4.4).

Letters: B batch, C box classes, K positives, S mask classes, h x w logits, H x W mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255
"""Mask value of unlabelled pixels."""


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sum of the sigmoid focal loss (Lin et al. 2017, Equation 5) over all entries.

    Args:
        logits: [..., C].
        targets: same shape, 0 or 1.
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: focusing exponent that down-weights easy entries.
    """
    logits, targets = logits.float(), targets.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    p_true = p * targets + (1 - p) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * (1 - p_true) ** gamma * cross_entropy).sum()


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU, in 0..2, of each pair of boxes [K, 4] x1 y1 x2 y2 (Rezatofighi et al. 2019); returns [K]."""
    predicted, target = predicted.float(), target.float()
    overlap = _area(torch.maximum(predicted[:, :2], target[:, :2]), torch.minimum(predicted[:, 2:], target[:, 2:]))
    union = _area(predicted[:, :2], predicted[:, 2:]) + _area(target[:, :2], target[:, 2:]) - overlap
    hull = _area(torch.minimum(predicted[:, :2], target[:, :2]), torch.maximum(predicted[:, 2:], target[:, 2:]))
    eps = 1e-7
    return 1 - overlap / (union + eps) + (hull - union) / (hull + eps)


def segmentation_loss(logits: Tensor, mask: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Mean cross entropy over labelled pixels; 0 without labelled pixels.

    Args:
        logits: [B, S, h, w], interpolated bilinearly to the mask's size.
        mask: integer [B, H, W], `IGNORE` where unlabelled.
        pixels: divisor instead of the number of labelled pixels, for part of a larger batch.
    """
    mask = mask.long()
    logits = F.interpolate(logits.float(), size=mask.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, mask, ignore_index=IGNORE, reduction="sum")
    count = (mask != IGNORE).sum() if pixels is None else pixels
    return total / count.clamp(min=1)


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(dim=-1)
