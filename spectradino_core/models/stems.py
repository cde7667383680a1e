"""Per-band stems: convert an image of any band to the three channels of the shared patch embedding.

    B batch    H, W image height and width in pixels

SpectraDINO, Section 3.1.1; the paper gives no widths, kernel sizes or precision, these are our choice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectradino_core.modality import Modality

__all__ = ["InfraredStem", "RGBStem", "make_stem"]

HIDDEN_CHANNELS = 32


class RGBStem(nn.Conv2d):
    """1x1 convolution initialised as the identity, [B, 3, H, W] to [B, 3, H, W]."""

    def __init__(self) -> None:
        super().__init__(3, 3, kernel_size=1)
        self.weight = nn.Parameter(torch.eye(3)[:, :, None, None].clone())
        self.bias = nn.Parameter(torch.zeros(3))


class InfraredStem(nn.Module):
    """`IN(conv2(GELU(conv1(x))))`, [B, 1, H, W] to [B, 3, H, W].

    The instance norm makes the output invariant to the sensor's gain and offset. It is always computed in fp32: the
    variance of a whole image exceeds the precision of fp16.
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
    """Standardise each channel of [B, 3, H, W], averaging within rows and then over rows.

    A single fp32 sum over a whole image, as in ONNX Runtime's InstanceNormalization, has an error of 3e-5, enough to
    shift boxes by a hundredth of a pixel; with two steps the error is 1e-6.
    """
    x = x - x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    variance = x.square().mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    return x * torch.rsqrt(variance + eps)


def make_stem(band: Modality) -> nn.Module:
    """Create the stem of a band with initial weights."""
    return RGBStem() if band is Modality.RGB else InfraredStem()
