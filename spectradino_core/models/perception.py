"""Perception model: backbone, fusion and heads, as fine-tuned and exported.

    rgb ─┐            ┌─ fusion (at the last block, or ─┬─ (pyramid) ─ detection head: classes, boxes per anchor point
         ├─ backbone ─┤   one at each tapped block)     │
    ir  ─┘ (one pass) └                                 └─ (pyramid) ─ segmentation head: classes per pixel

`Architecture` selects backbone, fusion and heads. A head that is not trained is absent.

Letters: B batch, N tokens, D width, H x W input pixels, A anchor points, C box classes, S mask classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from spectradino_core.modality import Modality
from spectradino_core.models import Features, SpectraDINO, ViT, ViTConfig, parameter_roles, vit_config
from spectradino_core.models.detection import AnchorPoints
from spectradino_core.models.pyramid import SimpleFeaturePyramid, usual_strides
from spectradino_core.models.registry import (
    DETECTION,
    FUSIONS,
    LAST_LAYERS,
    SEGMENTATION,
    Fused,
    HeadSize,
    Kind,
    choose,
)
from spectradino_core.models.repeated import RepeatedViT

__all__ = ["BACKBONES", "Architecture", "Perception", "Predictions", "perception_roles"]

BACKBONES: dict[str, type[SpectraDINO] | type[RepeatedViT]] = {"spectradino": SpectraDINO, "dinov2_repeat": RepeatedViT}
"""`dinov2_repeat` is the baseline: plain DINOv2 with the IR channel repeated to three."""


_MAXIMA = {
    "box_classes": 5_000, "mask_classes": 5_000, "registers": 256, "pyramid_width": 4096, "tower_depth": 32,
    "upernet_width": 4096,
}  # fmt: skip
"""Limits for architectures read from checkpoints, checked before the weights are loaded."""


@dataclass(frozen=True)
class Architecture:
    """Configuration of a `Perception`, stored in checkpoints.

    Attributes:
        variant: backbone variant.
        infrared: key of the infrared band used with RGB.
        box_classes: C; 0: no detection head.
        mask_classes: S; 0: no segmentation head.
        registers: register tokens of the backbone, 0 or 4; None: the variant's (0 for DINOv2, 4 for DINOv3).
        pyramid_width: channels of each pyramid level.
        strides: strides of the pyramid levels in input pixels (presets: `pyramid.PRESETS`); empty: 0.5, 1 and 2 patches
            of the variant.
        tower_depth: convolutions in each tower of the dense detection head.
        backbone: one of `BACKBONES`.
        detection: one of `registry.DETECTION`: "dense" (ViTDet's pyramid and convolution towers), "linear" (a probe).
        segmentation: one of `registry.SEGMENTATION`: "pyramid_linear", "linear", "linear4", "upernet".
        fusion: one of `registry.FUSIONS`: "concat", "cross_attention", "gated".
        fuse_at: "last": fuse both streams after the last block, for all heads (the paper's choice for ViTDet); "taps":
            fuse them after each tapped block by separate fusions, so that multi-scale heads read shallow blocks for
            fine scales (the paper's choice for UPerNet, Section 4.2.1).
        taps: tapped blocks, 0-based, ascending, ending with the last block; empty: the variant's `ViTConfig.taps`, or
            the last four blocks for "linear4".
        upernet_width: channels of UPerNet.

    Raises:
        ValueError: an unknown name, or incompatible options.
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
    taps: tuple[int, ...] = ()
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
        if self.taps and (self.taps[-1] != last or sorted(set(self.taps)) != list(self.taps) or self.taps[0] < 0):
            raise ValueError(f"taps are blocks 0..{last}, ascending, the last one {last}; not {list(self.taps)}")

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
        if self.taps:
            return self.taps
        if self.mask_classes and self.segmentation == "linear4":
            return tuple(range(max(0, depth - LAST_LAYERS), depth))
        return self.vit.taps

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
        return asdict(self) | {"strides": list(self.strides), "taps": list(self.taps)}

    @classmethod
    def from_dict(cls, data: dict) -> Architecture:
        """Inverse of `to_dict`; fields missing in older checkpoints get defaults that keep the old behaviour."""
        tuples: dict[str, Any] = {"strides": tuple(data["strides"]), "taps": tuple(data.get("taps", ()))}
        return cls(**data | tuples)


@dataclass
class Predictions:
    """Raw output of the heads.

    Attributes:
        logits: [B, A, C], before the sigmoid; None without a detection head, as are `boxes` and `anchors`.
        boxes: float32 [B, A, 4], x1 y1 x2 y2 in network pixels.
        anchors: the A anchor points.
        mask_logits: [B, S, h, w] at the segmentation head's resolution; None without one.
    """

    logits: Tensor | None
    boxes: Tensor | None
    anchors: AnchorPoints | None
    mask_logits: Tensor | None


class Perception(nn.Module):
    """Detection and segmentation on RGB and one infrared band, or on either stream alone."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.backbone = BACKBONES[architecture.backbone](architecture.vit, architecture.bands)
        width, blocks = self.backbone.config.width, architecture.fused
        fusion = FUSIONS[architecture.fusion]
        self.fusion = fusion(width) if architecture.fuse_at == "last" else nn.ModuleList(fusion(width) for _ in blocks)
        size = HeadSize(
            width,
            len(blocks),
            architecture.pyramid_width,
            architecture.strides,
            architecture.tower_depth,
            architecture.upernet_width,
            architecture.vit.patch,
        )
        self.pyramid = (
            SimpleFeaturePyramid(width, architecture.pyramid_width, architecture.strides, architecture.vit.patch)
            if any(kind is not None and kind.pyramid for kind in architecture.kinds)
            else None
        )
        detection, segmentation = architecture.kinds
        self.detection = detection.make(size, architecture.box_classes) if detection else None
        self.segmentation = segmentation.make(size, architecture.mask_classes) if segmentation else None

    @property
    def infrared(self) -> Modality:
        """Infrared band of the model."""
        return self.architecture.bands[1]

    @property
    def encoder(self) -> SpectraDINO | ViT:
        """Backbone for evaluation and distillation; for the baseline its plain DINOv2."""
        return self.backbone.vit if isinstance(self.backbone, RepeatedViT) else self.backbone

    def forward(self, images: Mapping[Modality, Tensor], present: Tensor | None = None) -> Predictions:
        """Compute dense predictions for a batch of pairs.

        Args:
            images: RGB [B, 3, H, W] and the infrared band [B, 1, H, W], or only one of them; the fusion's placeholder
                then replaces the other.
            present: [B, 2], nonzero where the stream (rgb, infrared) is used; None: all given streams are used.
        """
        return self.predict(self.fuse(images, present))

    def predict(self, fused: Fused) -> Predictions:
        """Run the heads."""
        detection, segmentation = self.architecture.kinds
        logits = boxes = anchors = mask_logits = None
        if detection is not None:
            logits, boxes, anchors = detection.run(self.detection, fused, self.architecture.cell_strides)
        if segmentation is not None:
            mask_logits = segmentation.run(self.segmentation, fused, self.architecture.strides)
        return Predictions(logits, boxes, anchors, mask_logits)

    def fuse(
        self,
        images: Mapping[Modality, Tensor],
        present: Tensor | None = None,
        infrared_layers: Sequence[Tensor] | None = None,
    ) -> Fused:
        """Compute the input of the heads from the inputs of `forward`.

        Args:
            images, present: as for `forward`.
            infrared_layers: `Fused.infrared` of an earlier call, in place of an infrared image.
        """
        at_taps = isinstance(self.fusion, nn.ModuleList)
        rows = _rows(present) if self.training and present is not None and len(images) == 2 else None
        if rows is not None:
            images = {band: x[rows[band is not Modality.RGB]] for band, x in images.items()}
        features = self.backbone(images, self.architecture.fused if at_taps else None)
        rgb, infrared = features.get(Modality.RGB), features.get(self.infrared)
        layers_of = [_layers(rgb, at_taps), _layers(infrared, at_taps)]
        if rows is not None and present is not None:
            layers_of = [_spread(layers, kept, len(present)) for layers, kept in zip(layers_of, rows, strict=True)]
        if infrared_layers is not None:
            layers_of[1] = infrared_layers
        streams = list(zip(*layers_of))
        if isinstance(self.fusion, nn.ModuleList):
            layers = [fusion(a, b, present) for fusion, (a, b) in zip(self.fusion, streams)]
        else:
            layers = [self.fusion(a, b, present) for a, b in streams]
        grid = next(iter(features.values())).grid
        maps = self.pyramid(layers, grid) if self.pyramid is not None else []
        return Fused(layers, grid, maps, [b for _, b in streams if b is not None])


def _layers(features: Features | None, tapped: bool) -> Iterable[Tensor | None]:
    """Return the layers of one stream to be fused; an infinite sequence of None for an absent stream."""
    if features is None:
        return repeat(None)
    return features.tapped if tapped else [features.patches]


def _rows(present: Tensor) -> list[Tensor] | None:
    """Return the samples to run the backbone on for each stream; None: all.

    Skipping frames that are masked in the fusion halves the work on single-camera data. At least one sample per stream
    is run, so that every parameter has a gradient on every process.
    """
    counted = present > 0
    if bool(counted.all()):
        return None
    rows = [counted[:, stream].nonzero()[:, 0] for stream in range(2)]
    return [kept if len(kept) else present.new_zeros(1, dtype=torch.int64) for kept in rows]


def _spread(layers: Iterable[Tensor | None], rows: Tensor, batch: int) -> Iterator[Tensor | None]:
    """Scatter tokens [K, N, D] of the samples `rows` into a zero batch [B, N, D]."""
    for x in layers:
        yield None if x is None else x.new_zeros(batch, *x.shape[1:]).index_copy(0, rows, x)


def perception_roles(model: Perception) -> dict[str, str]:
    """Return the role of every parameter by name: a backbone role (see `parameter_roles`) or "head".

    Learning rates and freezing are configured by role.
    """
    backbone = {f"backbone.{name}": role for name, role in parameter_roles(model.backbone).items()}
    return {name: backbone.get(name, "head") for name, _ in model.named_parameters()}
