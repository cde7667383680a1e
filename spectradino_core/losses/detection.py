"""Detection losses: focal loss for classes and generalised IoU loss for boxes (paper, Section 4.3).

Letters: A predictions, C classes, K positives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["focal_loss", "giou_loss"]


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
    """1 - GIoU of each pair of boxes (Rezatofighi et al. 2019).

    Args:
        predicted, target: [K, 4] x1 y1 x2 y2, x1 <= x2 and y1 <= y2.

    Returns:
        [K], in 0..2.
    """
    predicted, target = predicted.float(), target.float()
    overlap = _area(torch.maximum(predicted[:, :2], target[:, :2]), torch.minimum(predicted[:, 2:], target[:, 2:]))
    union = _area(predicted[:, :2], predicted[:, 2:]) + _area(target[:, :2], target[:, 2:]) - overlap
    hull = _area(torch.minimum(predicted[:, :2], target[:, :2]), torch.maximum(predicted[:, 2:], target[:, 2:]))
    eps = 1e-7
    return 1 - overlap / (union + eps) + (hull - union) / (hull + eps)


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(dim=-1)
