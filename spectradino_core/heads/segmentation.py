"""The linear segmentation head.

Letters: B batch, P channels, S mask classes, h x w a feature map.
"""

from __future__ import annotations

from torch import Tensor, nn

from spectradino_core.heads.batch_norm import BatchNorm

__all__ = ["LinearSegmentationHead"]


class LinearSegmentationHead(nn.Module):
    """BatchNorm and a 1x1 convolution (DINOv2's linear probe): how much of the mask the features already say.

    It reads the last layer's fused map, the last four concatenated, or a pyramid's finest level: see `registry.py`.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = BatchNorm(width)
        self.classify = nn.Conv2d(width, classes, 1)
        assert self.classify.bias is not None
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)

    def forward(self, x: Tensor) -> Tensor:
        """A map [B, P, h, w] to class logits [B, S, h, w]."""
        return self.classify(self.norm(x))
