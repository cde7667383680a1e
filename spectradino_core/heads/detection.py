"""A dense, anchor-free detection head, and which of its cells answer for which object.

Letters: B batch, P pyramid width, C classes, A cells of all levels, h_i x w_i a level's map, K objects of one image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spectradino_core.heads.pyramid import ChannelNorm

__all__ = ["NEITHER", "PRIOR", "Cells", "DenseHead", "assign", "decode"]

PRIOR = 0.01
"""Probability that a fresh head gives every class of every cell: nearly every cell is background, and starting low
keeps the first steps from drowning the objects."""
NEITHER = -2
"""Of a cell that is neither an object's nor background: it lies in a region that is to be ignored."""
_REACH = 4.0


@dataclass
class Cells:
    """Where the cells of all levels are, in network pixels.

    Attributes:
        centres: float32 [A, 2], x y.
        strides: float32 [A].
    """

    centres: Tensor
    strides: Tensor

    @classmethod
    def of(cls, maps: Sequence[Tensor], strides: Sequence[float]) -> Cells:
        """Cells of the maps [B, P, h_i, w_i]; cell (i, j) is at ((j + 0.5) s, (i + 0.5) s)."""
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in maps]
        return cls.of_sizes(sizes, strides, maps[0].device)

    @classmethod
    def of_sizes(
        cls, sizes: Sequence[tuple[int, int]], strides: Sequence[float], device: torch.device | str = "cpu"
    ) -> Cells:
        """Cells of maps of these sizes (h_i, w_i)."""
        centres, spacing = [], []
        for (height, width), stride in zip(sizes, strides, strict=True):
            ys = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
            xs = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
            grid = torch.stack((xs[None].expand(height, width), ys[:, None].expand(height, width)), dim=-1)
            centres.append(grid.reshape(-1, 2))
            spacing.append(torch.full((height * width,), stride, device=device))
        return cls(torch.cat(centres), torch.cat(spacing))


class DenseHead(nn.Module):
    """Convolution towers shared by all levels; per cell C class logits and one box.

    A box is its centre's offset from the cell's centre and the logarithms of its sides, all in units of the stride, so
    a cell may answer for an object smaller than itself or one whose centre lies in the next cell.
    """

    def __init__(self, width: int, classes: int, levels: int, depth: int = 2) -> None:
        """
        Args:
            width: P of the pyramid.
            classes: C.
            levels: number of pyramid levels.
            depth: 3x3 convolutions in each of the two towers.
        """
        super().__init__()
        self.class_tower = nn.Sequential(*_tower(width, depth))
        self.box_tower = nn.Sequential(*_tower(width, depth))
        self.classify = nn.Conv2d(width, classes, 3, padding=1)
        self.regress = nn.Conv2d(width, 4, 3, padding=1)
        self.level_gain = nn.Parameter(torch.ones(levels))
        assert self.classify.bias is not None
        assert self.regress.bias is not None
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.constant_(self.classify.bias, -math.log((1 - PRIOR) / PRIOR))
        nn.init.normal_(self.regress.weight, std=0.01)
        nn.init.zeros_(self.regress.bias)

    def forward(self, maps: Sequence[Tensor], strides: Sequence[float]) -> tuple[Tensor, Tensor, Cells]:
        """Class logits [B, A, C] and boxes [B, A, 4] x1 y1 x2 y2 in network pixels, with the cells they belong to."""
        cells = Cells.of(maps, strides)
        logits, deltas = [], []
        for level, x in enumerate(maps):
            logits.append(self.classify(self.class_tower(x)).flatten(2).transpose(1, 2))
            raw = self.regress(self.box_tower(x)) * self.level_gain[level]
            deltas.append(raw.flatten(2).transpose(1, 2))
        return torch.cat(logits, dim=1), decode(torch.cat(deltas, dim=1), cells), cells


def decode(deltas: Tensor, cells: Cells) -> Tensor:
    """Raw regression [B, A, 4] to boxes [B, A, 4] in network pixels, in fp32 whatever the autocast."""
    deltas = deltas.float()
    stride = cells.strides[:, None]
    centre = cells.centres + deltas[..., :2] * stride
    # 1.5 strides at rest, at most e^4 strides: no overflow from a wild logit early in training
    half = 0.75 * stride * deltas[..., 2:].clamp(max=_REACH).exp()
    return torch.cat((centre - half, centre + half), dim=-1)


def assign(
    boxes: Tensor, cells: Cells, radius: float = 1.5, largest: float = 8.0, ignored: Tensor | None = None
) -> Tensor:
    """Which object each cell answers for (centre sampling as in FCOS, with ranges in strides).

    An object belongs to the finest level whose stride is at least its longer side divided by `largest`; there the cells
    within `radius` strides of its centre answer for it, as far as they lie inside the box, and the nearest cell always
    does. Where two objects want a cell, the smaller one has it.

    Args:
        boxes: [K, 4] x1 y1 x2 y2 in network pixels.
        cells: of A cells.
        radius, largest: see above.
        ignored: [I, 4], regions whose cells are background to nobody, such as crowds.

    Returns:
        int64 [A]: the object's index, or -1 for background, or `NEITHER`.
    """
    owner = torch.full((len(cells.strides),), -1, dtype=torch.int64, device=cells.strides.device)
    if ignored is not None and len(ignored):
        x, y = cells.centres[None, :, 0], cells.centres[None, :, 1]
        hidden = (x > ignored[:, :1]) & (y > ignored[:, 1:2]) & (x < ignored[:, 2:3]) & (y < ignored[:, 3:])
        owner[hidden.any(dim=0)] = NEITHER
    if len(boxes) == 0:
        return owner
    sides = boxes[:, 2:] - boxes[:, :2]
    levels = torch.unique(cells.strides)  # ascending
    wanted = sides.amax(dim=1)[:, None] <= levels[None] * largest
    wanted[:, -1] = True
    stride_of = levels[wanted.to(torch.int8).argmax(dim=1)]  # first level that is coarse enough

    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    away = (cells.centres[None] - centres[:, None]).abs().amax(dim=-1)  # [K, A], Chebyshev
    inside = ((cells.centres[None] > boxes[:, None, :2]) & (cells.centres[None] < boxes[:, None, 2:])).all(dim=-1)
    on_level = cells.strides[None] == stride_of[:, None]
    answers = on_level & inside & (away < radius * stride_of[:, None])
    nearest = torch.where(on_level, away, away.new_tensor(float("inf"))).argmin(dim=1)
    answers[torch.arange(len(boxes), device=boxes.device), nearest] = True

    area = sides.prod(dim=1)[:, None].expand_as(away)
    cost = torch.where(answers, area, area.new_tensor(float("inf")))
    smallest, index = cost.min(dim=0)
    return torch.where(torch.isfinite(smallest), index, owner)


def _tower(width: int, depth: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), ChannelNorm(width, eps=1e-6), nn.GELU()]
    return layers
