"""Registry of heads and fusions by name.

To add one: a file in this folder, a line here, and a test.

Letters: B batch, N tokens, D width, h x w patch grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spectradino_core.models.detection import DenseHead
from spectradino_core.models.fusion import ConcatFusion, CrossAttentionFusion, Fusion, GatedFusion
from spectradino_core.models.linear_detection import LinearDetectionHead
from spectradino_core.models.segmentation import LinearSegmentationHead, UPerNet

__all__ = ["DETECTION", "FUSIONS", "LAST_LAYERS", "SEGMENTATION", "Fused", "HeadSize", "Kind", "choose"]

LAST_LAYERS = 4
"""Number of last blocks concatenated by "linear4", as in DINOv2's linear probe."""


@dataclass(frozen=True)
class HeadSize:
    """Sizes from which heads are built.

    Attributes:
        width: D.
        layers: number of fused layers; 1 with fusion at the last block only.
        pyramid_width, strides, tower_depth, upernet_width: see `Architecture`.
        patch: side of the backbone's patches in pixels.
    """

    width: int
    layers: int
    pyramid_width: int
    strides: tuple[float, ...]
    tower_depth: int
    upernet_width: int
    patch: int


@dataclass(frozen=True)
class Fused:
    """Input of the heads.

    Attributes:
        layers: fused tokens [B, N, D], shallow to deep, the last block's last.
        grid: (h, w).
        maps: pyramid levels; empty without a pyramid.
        infrared: tokens [B, N, D] of the infrared stream that were fused, a tensor per layer; empty without the stream.
    """

    layers: Sequence[Tensor]
    grid: tuple[int, int]
    maps: Sequence[Tensor]
    infrared: Sequence[Tensor] = ()

    def image(self, *layers: Tensor) -> Tensor:
        """Concatenate n layers [B, N, D] along the feature axis to a map [B, n·D, h, w]."""
        return torch.cat(layers, dim=-1).transpose(1, 2).unflatten(2, self.grid)


@dataclass(frozen=True)
class Kind:
    """Registry entry of a head.

    Attributes:
        make: builds the module from (sizes, classes).
        run: computes the head's output from (module, fused input, strides).
        pyramid: whether the head reads the pyramid, which all such heads share.
        patches: fixed strides of a detection head in patches; None: the architecture's strides.
        several: whether the head needs several layers, so that fusion must be at the taps.
    """

    make: Callable[[HeadSize, int], nn.Module]
    run: Callable[[Any, Fused, Sequence[float]], Any]
    pyramid: bool = False
    patches: tuple[float, ...] | None = None
    several: bool = False


FUSIONS: dict[str, type[Fusion]] = {
    "concat": ConcatFusion,
    "cross_attention": CrossAttentionFusion,
    "gated": GatedFusion,
}

DETECTION = {
    "dense": Kind(
        make=lambda size, classes: DenseHead(size.pyramid_width, classes, len(size.strides), size.tower_depth),
        run=lambda head, fused, strides: head(fused.maps, strides),
        pyramid=True,
    ),
    "linear": Kind(
        make=lambda size, classes: LinearDetectionHead(size.width, classes),
        run=lambda head, fused, strides: head([fused.image(fused.layers[-1])], strides),
        patches=(1.0,),
    ),
}

SEGMENTATION = {
    "pyramid_linear": Kind(
        make=lambda size, classes: LinearSegmentationHead(size.pyramid_width, classes),
        run=lambda head, fused, strides: head(fused.maps[0]),
        pyramid=True,
    ),
    "linear": Kind(
        make=lambda size, classes: LinearSegmentationHead(size.width, classes),
        run=lambda head, fused, strides: head(fused.image(fused.layers[-1])),
    ),
    "linear4": Kind(
        make=lambda size, classes: LinearSegmentationHead(size.width * size.layers, classes),
        run=lambda head, fused, strides: head(fused.image(*fused.layers)),
        several=True,
    ),
    "upernet": Kind(
        make=lambda size, classes: UPerNet(size.width, classes, size.upernet_width, size.patch),
        run=lambda head, fused, strides: head(fused.layers, fused.grid),
    ),
}


def choose(table: dict[str, Any], what: str, name: str) -> Any:
    """Return the entry `name` of a table.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}: choose one of {', '.join(table)}")
    return table[name]
