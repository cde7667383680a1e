"""Linear detection probe, predicting boxes from each token independently.

Letters: B batch, D width, C classes, h x w patch grid, A = h·w anchor points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from spectradino_core.models.batch_norm import BatchNorm
from spectradino_core.models.detection import PRIOR, AnchorPoints, decode

__all__ = ["LinearDetectionHead"]


class LinearDetectionHead(nn.Module):
    """BatchNorm and 1x1 convolutions on the last fused map, with one anchor point per patch.

    The paper compares "a linear probe" with ViTDet's head (Table 9) without details; this one follows DINOv2's linear
    segmentation probe. Boxes are encoded as in the dense head, so training and decoding are the same.
    """

    def __init__(self, width: int, classes: int) -> None:
        """
        Args:
            width: D.
            classes: C.
        """
        super().__init__()
        self.norm = BatchNorm(width)
        self.classify = nn.Conv2d(width, classes, 1)
        self.regress = nn.Conv2d(width, 4, 1)
        for conv in (self.classify, self.regress):
            assert conv.bias is not None
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        assert self.classify.bias is not None
        nn.init.constant_(self.classify.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, maps: Sequence[Tensor], strides: Sequence[float]) -> tuple[Tensor, Tensor, AnchorPoints]:
        """Return what `DenseHead.forward` does, for one map [B, D, h, w]."""
        anchors = AnchorPoints.of(maps, strides)
        x = self.norm(maps[0])
        logits = self.classify(x).flatten(2).transpose(1, 2)
        return logits, decode(self.regress(x).flatten(2).transpose(1, 2), anchors), anchors
