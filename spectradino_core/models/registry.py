"""Registry of backbones, fusions and heads by name, and the `Architecture` that chooses among them.

To add one: a file in this folder, a line here, and a test.

Letters: B batch, N tokens, D width, h x w patch grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from spectradino_core.modality import Modality
from spectradino_core.models import SpectraDINO, ViTConfig, vit_config
from spectradino_core.models.detection import DenseHead, LinearDetectionHead
from spectradino_core.models.encoders import RepeatedViT
from spectradino_core.models.fusion import ConcatFusion, CrossAttentionFusion, Fusion, GatedFusion
from spectradino_core.models.pyramid import usual_strides
from spectradino_core.models.segmentation import LinearSegmentationHead, UPerNet

LAST_LAYERS = 4
"""Number of last blocks concatenated by "linear4", as in DINOv2's linear probe."""


@dataclass(frozen=True)
class Fused:
    """Input of the heads.

    Attributes:
        layers: fused tokens [B, N, D], shallow to deep, the last block's last.
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
        make: builds the module from (architecture, classes).
        run: computes the head's output from (module, fused input, strides).
        pyramid: whether the head reads the pyramid, which all such heads share.
        patches: fixed strides of a detection head in patches; None: the architecture's strides.
        several: whether the head needs several layers, so that `fuse_at` must be "taps".
    """

    make: Callable[[Architecture, int], nn.Module]
    run: Callable[[Any, Fused, Sequence[float]], Any]
    pyramid: bool = False
    patches: tuple[float, ...] | None = None
    several: bool = False


BACKBONES: dict[str, type[SpectraDINO] | type[RepeatedViT]] = {"spectradino": SpectraDINO, "dinov2_repeat": RepeatedViT}
"""`dinov2_repeat` is the baseline: plain DINOv2 with the IR channel repeated to three."""

FUSIONS: dict[str, type[Fusion]] = {
    "concat": ConcatFusion,
    "cross_attention": CrossAttentionFusion,
    "gated": GatedFusion,
}

DETECTION = {
    "dense": Kind(
        make=lambda arch, classes: DenseHead(arch.pyramid_width, classes, len(arch.strides), arch.tower_depth),
        run=lambda head, fused, strides: head(fused.maps, strides),
        pyramid=True,
    ),
    "linear": Kind(
        make=lambda arch, classes: LinearDetectionHead(arch.vit.width, classes),
        run=lambda head, fused, strides: head([fused.image(fused.layers[-1])], strides),
        patches=(1.0,),
    ),
}

SEGMENTATION = {
    "pyramid_linear": Kind(
        make=lambda arch, classes: LinearSegmentationHead(arch.pyramid_width, classes),
        run=lambda head, fused, strides: head(fused.maps[0]),
        pyramid=True,
    ),
    "linear": Kind(
        make=lambda arch, classes: LinearSegmentationHead(arch.vit.width, classes),
        run=lambda head, fused, strides: head(fused.image(fused.layers[-1])),
    ),
    "linear4": Kind(
        make=lambda arch, classes: LinearSegmentationHead(arch.vit.width * len(arch.fused), classes),
        run=lambda head, fused, strides: head(fused.image(*fused.layers)),
        several=True,
    ),
    "upernet": Kind(
        make=lambda arch, classes: UPerNet(arch.vit.width, classes, arch.upernet_width, arch.vit.patch),
        run=lambda head, fused, strides: head(fused.layers, fused.grid),
    ),
}


def choose(table: dict[str, Any], what: str, name: str) -> Any:
    """Return the entry `name` of a table; ValueError: unknown."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}: choose one of {', '.join(table)}")
    return table[name]


_MAXIMA = {
    "box_classes": 5_000, "mask_classes": 5_000, "registers": 256, "pyramid_width": 4096, "tower_depth": 32,
    "upernet_width": 4096,
}  # fmt: skip
"""Limits for architectures read from checkpoints, checked before the weights are loaded."""


@dataclass(frozen=True)
class Architecture:
    """Configuration of a `Perception`, stored in checkpoints.

    Attributes:
        infrared: key of the infrared band used with RGB.
        box_classes: C; 0: no detection head.
        mask_classes: S; 0: no segmentation head.
        registers: register tokens of the backbone, 0 or 4; None: the variant's (0 for DINOv2, 4 for DINOv3).
        pyramid_width: channels of each pyramid level.
        strides: strides of the pyramid levels in input pixels (presets: `pyramid.PRESETS`); empty: 0.5, 1 and 2 patches
            of the variant.
        tower_depth: convolutions in each tower of the dense detection head.
        backbone, detection, segmentation, fusion: names in the tables above.
        fuse_at: "last": fuse both streams after the last block, for all heads (the paper's choice for ViTDet); "taps":
            fuse them after each block of `out_indices` by separate fusions, so that multi-scale heads read shallow
            blocks for fine scales (the paper's choice for UPerNet, Section 4.2.1).
        out_indices: blocks, 0-based, ascending, ending with the last; empty: the variant's `ViTConfig.out_indices`, or
            the last four blocks for "linear4".
    """

    variant: str
    infrared: str
    box_classes: int
    mask_classes: int
    registers: int | None = None
    pyramid_width: int = 256
    strides: tuple[float, ...] = ()
    tower_depth: int = 2
    backbone: str = "spectradino"
    detection: str = "dense"
    segmentation: str = "pyramid_linear"
    fusion: str = "concat"
    fuse_at: str = "last"
    out_indices: tuple[int, ...] = ()
    upernet_width: int = 256

    def __post_init__(self) -> None:
        if self.registers is None:
            object.__setattr__(self, "registers", vit_config(self.variant).registers)
        for name, maximum in _MAXIMA.items():
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= maximum:
                raise ValueError(f"{name} must be an integer up to {maximum}, got {value!r}")
        if not self.strides:
            object.__setattr__(self, "strides", usual_strides(self.vit.patch))
        if len(self.strides) > 8 or not all(0 < stride <= 512 for stride in self.strides):
            raise ValueError(f"strides are up to 8 numbers above 0, got {list(self.strides)}")
        choose(BACKBONES, "backbone", self.backbone)
        choose(FUSIONS, "fusion", self.fusion)
        choose(DETECTION, "detection head", self.detection)
        choose(SEGMENTATION, "segmentation head", self.segmentation)
        choose({"last": 0, "taps": 0}, "fuse_at", self.fuse_at)
        if self.mask_classes and SEGMENTATION[self.segmentation].several and self.fuse_at == "last":
            raise ValueError(f"the head {self.segmentation!r} reads several blocks: it needs fuse_at 'taps'")
        last = self.vit.depth - 1
        chosen = list(self.out_indices)
        if chosen and (chosen[-1] != last or sorted(set(chosen)) != chosen or chosen[0] < 0):
            raise ValueError(f"out_indices are blocks 0..{last}, ascending, the last one {last}; not {chosen}")

    @property
    def vit(self) -> ViTConfig:
        return replace(vit_config(self.variant), registers=self.registers or 0)

    @property
    def bands(self) -> tuple[Modality, Modality]:
        return Modality.RGB, Modality.parse(self.infrared)

    @property
    def fused(self) -> tuple[int, ...]:
        """Blocks after which the streams are fused, ascending."""
        depth = self.vit.depth
        if self.fuse_at == "last":
            return (depth - 1,)
        if self.out_indices:
            return self.out_indices
        if self.mask_classes and self.segmentation == "linear4":
            return tuple(range(max(0, depth - LAST_LAYERS), depth))
        return self.vit.out_indices

    @property
    def kinds(self) -> tuple[Kind | None, Kind | None]:
        """Registry entries of the detection and the segmentation head; None for an absent head."""
        return (
            DETECTION[self.detection] if self.box_classes else None,
            SEGMENTATION[self.segmentation] if self.mask_classes else None,
        )

    @property
    def cell_strides(self) -> tuple[float, ...]:
        """Strides of the detection head's levels in input pixels; without that head, of the pyramid."""
        kind = self.kinds[0]
        if kind is None or kind.patches is None:
            return self.strides
        return tuple(self.vit.patch * patches for patches in kind.patches)

    def to_dict(self) -> dict:
        return asdict(self) | {"strides": list(self.strides), "out_indices": list(self.out_indices)}

    @classmethod
    def from_dict(cls, data: dict) -> Architecture:
        """Inverse of `to_dict`; fields missing in older checkpoints get defaults that keep the old behaviour."""
        data = dict(data)
        former = data.pop("taps", ())  # in files of earlier versions
        tuples = {"strides": tuple(data["strides"]), "out_indices": tuple(data.get("out_indices", former))}
        return cls(**data | tuples)
