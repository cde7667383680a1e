"""Anchor-free detection heads, dense and linear, and target assignment.

B batch    P pyramid width    D backbone width    C classes    A anchor points of all levels    h_i x w_i level i
K objects of an image
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spectradino_core.models.batch_norm import BatchNorm
from spectradino_core.models.pyramid import ChannelNorm

_RADIUS, _LARGEST = 1.5, 8.0  # strides, of `assign`
PRIOR = 0.01
"""Initial class probability of anchor points; nearly all are background, which would else dominate the first steps."""
IGNORE_INDEX = -2
"""Label of anchor points in ignore regions, which are excluded from the loss."""
_REACH = 4.0


@dataclass
class AnchorPoints:
    """Anchor points of all levels.

    Attributes:
        centres: float32 [A, 2], x y in network pixels.
        strides: float32 [A], in network pixels.
    """

    centres: Tensor
    strides: Tensor

    @classmethod
    def of(cls, maps: Sequence[Tensor], strides: Sequence[float]) -> AnchorPoints:
        """Create the points of maps [B, P, h_i, w_i]."""
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in maps]
        return cls.of_sizes(sizes, strides, maps[0].device)

    @classmethod
    def of_sizes(
        cls, sizes: Sequence[tuple[int, int]], strides: Sequence[float], device: torch.device | str = "cpu"
    ) -> AnchorPoints:
        """Create the points of maps of these sizes (h_i, w_i); point (i, j) is at ((j + 0.5) s, (i + 0.5) s)."""
        centres, spacing = [], []
        for (height, width), stride in zip(sizes, strides, strict=True):
            ys = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
            xs = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
            grid = torch.stack((xs[None].expand(height, width), ys[:, None].expand(height, width)), dim=-1)
            centres.append(grid.reshape(-1, 2))
            spacing.append(torch.full((height * width,), stride, device=device))
        return cls(torch.cat(centres), torch.cat(spacing))


class DenseHead(nn.Module):
    """Convolution towers shared by all levels, predicting C class logits and one box per anchor point.

    A box is encoded as the offset of its centre from the anchor point and the logarithms of its sides, in units of the
    stride, so it may be smaller than the stride or centred in the neighbouring cell.
    """

    def __init__(self, width: int, classes: int, levels: int, depth: int = 2) -> None:
        """Make a head for maps of P = `width` channels, with `depth` 3x3 convolutions in each of the two towers."""
        super().__init__()
        self.class_tower = nn.Sequential(*_tower(width, depth))
        self.box_tower = nn.Sequential(*_tower(width, depth))
        self.classify = nn.Conv2d(width, classes, 3, padding=1)
        self.regress = nn.Conv2d(width, 4, 3, padding=1)
        self.level_gain = nn.Parameter(torch.ones(levels))
        _initialise(self.classify, self.regress)

    def forward(self, maps: Sequence[Tensor], strides: Sequence[float]) -> tuple[Tensor, Tensor, AnchorPoints]:
        """Return class logits [B, A, C], boxes [B, A, 4] x1 y1 x2 y2 in network pixels, and the anchor points."""
        anchors = AnchorPoints.of(maps, strides)
        logits, deltas = [], []
        for level, x in enumerate(maps):
            logits.append(self.classify(self.class_tower(x)).flatten(2).transpose(1, 2))
            raw = self.regress(self.box_tower(x)) * self.level_gain[level]
            deltas.append(raw.flatten(2).transpose(1, 2))
        return torch.cat(logits, dim=1), decode(torch.cat(deltas, dim=1), anchors), anchors


class LinearDetectionHead(nn.Module):
    """BatchNorm and 1x1 convolutions on the last fused map, with one anchor point per patch.

    The paper compares "a linear probe" with ViTDet's head (Table 9) without details; this one follows DINOv2's linear
    segmentation probe. Boxes are encoded as in the dense head, so training and decoding are the same.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = BatchNorm(width)
        self.classify = nn.Conv2d(width, classes, 1)
        self.regress = nn.Conv2d(width, 4, 1)
        _initialise(self.classify, self.regress)

    def forward(self, maps: Sequence[Tensor], strides: Sequence[float]) -> tuple[Tensor, Tensor, AnchorPoints]:
        """Return what `DenseHead.forward` does, for one map [B, D, h, w]."""
        anchors = AnchorPoints.of(maps, strides)
        x = self.norm(maps[0])
        logits = self.classify(x).flatten(2).transpose(1, 2)
        return logits, decode(self.regress(x).flatten(2).transpose(1, 2), anchors), anchors


def _initialise(classify: nn.Conv2d, regress: nn.Conv2d) -> None:
    """Initialise the output layers: class probabilities of `PRIOR`, and boxes at the anchor points."""
    assert classify.bias is not None
    assert regress.bias is not None
    nn.init.normal_(classify.weight, std=0.01)
    nn.init.constant_(classify.bias, -math.log((1 - PRIOR) / PRIOR))
    nn.init.normal_(regress.weight, std=0.01)
    nn.init.zeros_(regress.bias)


def decode(deltas: Tensor, anchors: AnchorPoints) -> Tensor:
    """Decode raw regression [B, A, 4] to boxes [B, A, 4] in network pixels, in fp32 even under autocast."""
    deltas = deltas.float()
    stride = anchors.strides[:, None]
    centre = anchors.centres + deltas[..., :2] * stride
    # Sides of 1.5 strides at zero output; the clamp prevents overflow by outliers early in training.
    half = 0.75 * stride * deltas[..., 2:].clamp(max=_REACH).exp()
    return torch.cat((centre - half, centre + half), dim=-1)


def assign(boxes: Tensor, anchors: AnchorPoints, ignored: Tensor | None = None) -> Tensor:
    """Assign objects to anchor points by centre sampling as in FCOS.

    An object belongs to the finest level with its longer side at most `_LARGEST` strides. It is assigned to that
    level's points inside the box and within `_RADIUS` strides of its centre, and always to the nearest point. A point
    claimed by two objects gets the smaller one.

    Args:
        boxes: [K, 4] x1 y1 x2 y2 in network pixels.
        ignored: [I, 4], ignore regions such as crowds, whose points are not background.

    Returns:
        int64 [A]: index of the object, -1 for background, or `IGNORE_INDEX`.
    """
    owner = torch.full((len(anchors.strides),), -1, dtype=torch.int64, device=anchors.strides.device)
    if ignored is not None and len(ignored):
        x, y = anchors.centres[None, :, 0], anchors.centres[None, :, 1]
        hidden = (x > ignored[:, :1]) & (y > ignored[:, 1:2]) & (x < ignored[:, 2:3]) & (y < ignored[:, 3:])
        owner[hidden.any(dim=0)] = IGNORE_INDEX
    if len(boxes) == 0:
        return owner
    sides = boxes[:, 2:] - boxes[:, :2]
    levels = torch.unique(anchors.strides)  # ascending
    wanted = sides.amax(dim=1)[:, None] <= levels[None] * _LARGEST
    wanted[:, -1] = True
    stride_of = levels[wanted.to(torch.int8).argmax(dim=1)]  # first level that is coarse enough

    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (anchors.centres[None] - centres[:, None]).abs().amax(dim=-1)  # [K, A], Chebyshev
    inside = ((anchors.centres[None] > boxes[:, None, :2]) & (anchors.centres[None] < boxes[:, None, 2:])).all(dim=-1)
    on_level = anchors.strides[None] == stride_of[:, None]
    assigned = on_level & inside & (distance < _RADIUS * stride_of[:, None])
    nearest = torch.where(on_level, distance, distance.new_tensor(float("inf"))).argmin(dim=1)
    assigned[torch.arange(len(boxes), device=boxes.device), nearest] = True

    area = sides.prod(dim=1)[:, None].expand_as(distance)
    cost = torch.where(assigned, area, area.new_tensor(float("inf")))
    smallest, index = cost.min(dim=0)
    return torch.where(torch.isfinite(smallest), index, owner)


def _tower(width: int, depth: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), ChannelNorm(width, eps=1e-6), nn.GELU()]
    return layers
