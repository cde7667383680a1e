"""Perception model: backbone, fusion and heads, as fine-tuned and exported.

    rgb ─┐            ┌─ fusion (at the last block, or ─┬─ (pyramid) ─ detection head: classes, boxes per anchor point
         ├─ backbone ─┤   one at each of out_indices)   │
    ir  ─┘ (one pass) └                                 └─ (pyramid) ─ segmentation head: classes per pixel

`registry.Architecture` selects backbone, fusion and heads. A head that is not trained is absent.

Letters: B batch, N tokens, D width, H x W input pixels, A anchor points, C box classes, S mask classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn

from spectradino_core.modality import Modality
from spectradino_core.models import Features, SpectraDINO, ViT, parameter_roles
from spectradino_core.models.encoders import RepeatedViT
from spectradino_core.models.pyramid import SimpleFeaturePyramid
from spectradino_core.models.registry import BACKBONES, FUSIONS, Architecture, Fused


@dataclass
class Predictions:
    """Raw output of the heads.

    Attributes:
        logits: [B, A, C], before the sigmoid; None without a detection head, as is `boxes`.
        boxes: float32 [B, A, 4], x1 y1 x2 y2 in network pixels.
        mask_logits: [B, S, h, w] at the segmentation head's resolution; None without one.
    """

    logits: Tensor | None
    boxes: Tensor | None
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
        self.pyramid = (
            SimpleFeaturePyramid(width, architecture.pyramid_width, architecture.strides, architecture.vit.patch)
            if any(kind is not None and kind.pyramid for kind in architecture.kinds)
            else None
        )
        detection, segmentation = architecture.kinds
        self.detection = detection.make(architecture, architecture.box_classes) if detection else None
        self.segmentation = segmentation.make(architecture, architecture.mask_classes) if segmentation else None

    @property
    def infrared(self) -> Modality:
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
        detection, segmentation = self.architecture.kinds
        logits = boxes = mask_logits = None
        if detection is not None:
            logits, boxes, _ = detection.run(self.detection, fused, self.architecture.cell_strides)
        if segmentation is not None:
            mask_logits = segmentation.run(self.segmentation, fused, self.architecture.strides)
        return Predictions(logits, boxes, mask_logits)

    def fuse(
        self,
        images: Mapping[Modality, Tensor],
        present: Tensor | None = None,
        infrared_layers: Sequence[Tensor] | None = None,
    ) -> Fused:
        """Compute the input of the heads; `Fused.infrared` of an earlier call can replace the infrared image."""
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
        fusions = [*self.fusion] if isinstance(self.fusion, nn.ModuleList) else [self.fusion]
        layers = [fusion(a, b, present) for fusion, (a, b) in zip(fusions, streams, strict=True)]
        grid = next(iter(features.values())).grid
        maps = self.pyramid(layers, grid) if self.pyramid is not None else []
        return Fused(layers, grid, maps, [b for _, b in streams if b is not None])


def _layers(features: Features | None, at_taps: bool) -> Iterable[Tensor | None]:
    """Return the layers of one stream to be fused; an infinite sequence of None for an absent stream."""
    if features is None:
        return repeat(None)
    return features.intermediate if at_taps else [features.patches]


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
    """Return the role of every parameter by name: a backbone role (see `parameter_roles`) or "head"."""
    backbone = {f"backbone.{name}": role for name, role in parameter_roles(model.backbone).items()}
    return {name: backbone.get(name, "head") for name, _ in model.named_parameters()}
