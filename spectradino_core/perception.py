"""Backbone, fusion and heads joined: the module that is fine-tuned and exported.

    rgb ─┐              ┌─ fusion ─ pyramid ─┬─ detection head: classes and boxes per cell
         ├─ SpectraDINO ┤                    │
    ir  ─┘   (one pass) └                    └─ segmentation head: classes per pixel

Letters: B batch, H x W input pixels, A cells of all pyramid levels, C box classes, S mask classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from torch import Tensor, nn

from spectradino_core.backbone import SpectraDINO, ViTConfig, parameter_roles, vit_config
from spectradino_core.heads.detection import Cells, DenseHead
from spectradino_core.heads.fusion import ConcatFusion
from spectradino_core.heads.pyramid import SimpleFeaturePyramid
from spectradino_core.heads.segmentation import LinearSegmentationHead
from spectradino_core.modality import Modality

__all__ = ["Architecture", "Perception", "Predictions", "perception_roles"]


@dataclass(frozen=True)
class Architecture:
    """What must be known to build a `Perception` before its weights are loaded; stored in checkpoints.

    Attributes:
        variant: backbone variant.
        registers: register tokens of the backbone, 0 or 4.
        infrared: key of the infrared band beside RGB.
        box_classes: C.
        mask_classes: S; 0: no segmentation head.
        pyramid_width: channels of each pyramid level.
        strides: input pixels per cell of each level.
        tower_depth: convolutions in each tower of the detection head.
    """

    variant: str
    infrared: str
    box_classes: int
    mask_classes: int
    registers: int = 0
    pyramid_width: int = 256
    strides: tuple[float, ...] = (7.0, 14.0, 28.0)
    tower_depth: int = 2

    @property
    def vit(self) -> ViTConfig:
        return replace(vit_config(self.variant), registers=self.registers)

    @property
    def bands(self) -> tuple[Modality, Modality]:
        return Modality.RGB, Modality.parse(self.infrared)

    def to_dict(self) -> dict:
        return asdict(self) | {"strides": list(self.strides)}

    @classmethod
    def from_dict(cls, data: dict) -> Architecture:
        return cls(**data | {"strides": tuple(data["strides"])})


@dataclass
class Predictions:
    """Raw output of the heads.

    Attributes:
        logits: [B, A, C], before the sigmoid.
        boxes: float32 [B, A, 4], x1 y1 x2 y2 in network pixels.
        cells: where the A cells are.
        mask_logits: [B, S, h, w] at the finest pyramid level; None without a segmentation head.
    """

    logits: Tensor
    boxes: Tensor
    cells: Cells
    mask_logits: Tensor | None


class Perception(nn.Module):
    """RGB and one infrared band to objects and a mask; runs on both streams, on RGB alone or on infrared alone."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.backbone = SpectraDINO(architecture.vit, architecture.bands)
        width = self.backbone.config.width
        self.fusion = ConcatFusion(width)
        self.pyramid = SimpleFeaturePyramid(width, architecture.pyramid_width, architecture.strides)
        self.detection = DenseHead(
            architecture.pyramid_width, architecture.box_classes, len(architecture.strides), architecture.tower_depth
        )
        self.segmentation = (
            LinearSegmentationHead(architecture.pyramid_width, architecture.mask_classes)
            if architecture.mask_classes
            else None
        )

    @property
    def infrared(self) -> Modality:
        """The infrared band this model takes."""
        return self.architecture.bands[1]

    def forward(self, images: Mapping[Modality, Tensor], present: Tensor | None = None) -> Predictions:
        """Dense predictions for a batch of pairs.

        Args:
            images: RGB [B, 3, H, W] and the infrared band [B, 1, H, W], or one of the two alone: then the backbone runs
                once and the fusion's stand-in takes the other's place.
            present: [B, 2], nonzero where the stream (rgb, infrared) counts; None: all that is given counts.
        """
        features = self.backbone(images)
        rgb, infrared = features.get(Modality.RGB), features.get(self.infrared)
        grid = next(iter(features.values())).grid
        fused = self.fusion(
            None if rgb is None else rgb.patches, None if infrared is None else infrared.patches, present
        )
        maps = self.pyramid(fused, grid)
        logits, boxes, cells = self.detection(maps, self.architecture.strides)
        return Predictions(logits, boxes, cells, self.segmentation(maps[0]) if self.segmentation else None)


def perception_roles(model: Perception) -> dict[str, str]:
    """The role of every parameter by its name: the backbone's roles (see `parameter_roles`) or "head".

    Learning rates and freezing are said in terms of these.
    """
    backbone = {f"backbone.{name}": role for name, role in parameter_roles(model.backbone).items()}
    return {name: backbone.get(name, "head") for name, _ in model.named_parameters()}
