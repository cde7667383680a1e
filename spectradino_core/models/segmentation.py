"""Linear segmentation head.

Letters: B batch, P channels, S mask classes, h x w feature map.
"""

from __future__ import annotations

from torch import Tensor, nn

from spectradino_core.models.batch_norm import BatchNorm

__all__ = ["LinearSegmentationHead"]


class LinearSegmentationHead(nn.Module):
    """BatchNorm and a 1x1 convolution (DINOv2's linear probe).

    The input is the last fused layer, the last four concatenated, or the finest pyramid level: see `registry.py`.
    """

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
