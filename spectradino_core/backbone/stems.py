"""Stems: what turns an image of any band into the three channels that the shared patch embedding reads.

    B batch    H, W image height and width in pixels

SpectraDINO Section 3.1.1. The widths, the kernel sizes and the precision are ours, the paper being silent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectradino_core.modality import Modality

__all__ = ["InfraredStem", "RGBStem", "make_stem"]

HIDDEN_CHANNELS = 32


class RGBStem(nn.Conv2d):
    """A 1x1 convolution that starts as the exact identity. [B, 3, H, W] to [B, 3, H, W]."""

    def __init__(self) -> None:
        super().__init__(3, 3, kernel_size=1)
        self.weight = nn.Parameter(torch.eye(3)[:, :, None, None].clone())
        self.bias = nn.Parameter(torch.zeros(3))


class InfraredStem(nn.Module):
    """`IN(conv2(GELU(conv1(x))))`, [B, 1, H, W] to [B, 3, H, W].

    The instance norm makes the output indifferent to gain and offset of an unnormalised sensor. It is computed in fp32
    whatever the precision around it: a variance over a whole image is beyond fp16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, HIDDEN_CHANNELS, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(HIDDEN_CHANNELS, 3, kernel_size=3, padding=1)
        self.norm = nn.InstanceNorm2d(3, affine=True)
        for conv in (self.conv1, self.conv2):
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(F.gelu(self.conv1(x)))
        weight, bias = (p.float()[:, None, None] for p in (self.norm.weight, self.norm.bias))
        return (_standardise(x.float(), self.norm.eps) * weight + bias).to(x.dtype)


def _standardise(x: Tensor, eps: float) -> Tensor:
    """Each channel of [B, 3, H, W] to mean 0 and variance 1, averaged row by row and then over rows.

    One sum over a whole image in fp32, as ONNX Runtime makes it for InstanceNormalization, is off by 3e-5, and boxes
    by a hundredth of a pixel with it; sums in two steps are off by 1e-6.
    """
    x = x - x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    variance = x.square().mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    return x * torch.rsqrt(variance + eps)


def make_stem(band: Modality) -> nn.Module:
    """The stem of a band, freshly initialised."""
    return RGBStem() if band is Modality.RGB else InfraredStem()
