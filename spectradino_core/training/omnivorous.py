"""Omnivorous pretraining: align the features of all modalities by training the last third of a DINOv2's blocks.

Letters: B samples on this process, D width, S sampled patch positions.

There are two bases. "plain" is the paper's: a plain ViT whose input is always three-channel; maps and infrared are
coloured by their own values (`colourise`) and blended with the paired RGB image. "both" is ours, Omnivorous on top of
SpectraDINO: infrared passes through trainable stems and adapters and is blended with the image's luminance; maps are
coloured as above.

The teacher of the anchoring loss is a frozen copy of the initial student, applied to the same images.

Source: "A Mixed Diet Makes DINO an Omnivorous Vision Encoder", Section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spectradino_core.data.pretraining import OmnivorousBatch, from_imagenet, to_imagenet
from spectradino_core.data.views import DEPTH_RANGE_M
from spectradino_core.losses.alignment import sample_positions
from spectradino_core.losses.omnivorous import (
    LogitScale,
    alignment_loss,
    anchoring_loss,
    colourise,
    dense_alignment_loss,
    luminance,
    mixup,
)
from spectradino_core.models.encoders import BandedEncoder, PlainEncoder, Prefix
from spectradino_core.models.spectradino import SpectraDINO, parameter_roles
from spectradino_core.models.vit import VARIANTS, Features, ViT, ViTConfig

__all__ = [
    "OmnivorousRecipe",
    "OmnivorousStudent",
    "OmnivorousTask",
    "encoder_inputs",
    "frozen_blocks",
    "omnivorous_recipe",
    "trainable",
]


@dataclass(frozen=True)
class OmnivorousRecipe:
    """Recipe of one run; values are the paper's unless marked assumed.

    Attributes:
        variant: key of `VARIANTS`; the paper's is B.
        steps: optimiser steps.
        batch: samples per step over all processes.
        rate: peak learning rate.
        tokens: patch tokens sampled per image.
        anchor: weight of the anchoring losses.
        largest_alpha: maximum fraction of RGB in the blend.
        colourise: colour maps and infrared as the RGB image is where they have a value; otherwise they are grey.
        dense: weight of the losses on patch tokens relative to those on CLS. Assumed: equal.
        weight_decay: AdamW's weight decay. Assumed.
        warmup: fraction of the steps with a rising learning rate. Assumed.
        clip: maximum gradient norm. Assumed.
        crop: side of the square views in pixels.
        depth_range_m: see `data.views.depth_values`. Ours.

    Raises:
        ValueError: a value is out of its range.
    """

    variant: str
    steps: int = 20_000
    batch: int = 512
    rate: float = 1e-4
    tokens: int = 64
    anchor: float = 10.0
    largest_alpha: float = 0.5
    colourise: bool = True
    dense: float = 1.0
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float = 3.0
    crop: int = 224
    depth_range_m: tuple[float, float] = DEPTH_RANGE_M

    def __post_init__(self) -> None:
        if not 0 <= self.largest_alpha <= 1:
            raise ValueError(f"the largest fraction of RGB (alpha) must lie in 0 to 1, got {self.largest_alpha:g}")
        if self.tokens < 1:
            raise ValueError(f"at least one patch token is sampled per image, got {self.tokens}")
        if not 0 < self.depth_range_m[0] < self.depth_range_m[1]:
            raise ValueError(f"the depth range needs 0 < near < far, got {self.depth_range_m} m")


def omnivorous_recipe(variant: str) -> OmnivorousRecipe:
    """Return the recipe of a variant: the paper's values; ours for `tiny` and `test`.

    Raises:
        ValueError: unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"no Omnivorous recipe for variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    if variant == "tiny":
        return OmnivorousRecipe(variant, steps=600, batch=32, rate=5e-4, tokens=16, crop=112)
    if variant == "test":
        return OmnivorousRecipe(variant, steps=20, batch=4, rate=1e-3, tokens=4, crop=56)
    return OmnivorousRecipe(variant)


def frozen_blocks(config: ViTConfig) -> int:
    """Return the number of first blocks that stay frozen: 8 of 12, two thirds of any other depth (assumed)."""
    return config.depth - max(1, round(config.depth / 3))


def trainable(model: ViT | SpectraDINO) -> list[str]:
    """Return the names of the parameters that are trained.

    These are the last third of the blocks and the final norm, which lies behind the stop-gradient in the official code,
    and, in a SpectraDINO, also the infrared stems, the adapters and the modality embedding (ours). Patch embedding and
    tokens stay frozen.
    """
    config = model.config
    roles = {f"blocks.{index}" for index in range(frozen_blocks(config), config.depth)} | {"norm"}
    if isinstance(model, SpectraDINO) and len(model.bands) > 1:
        roles |= {f"stems.{band.key}" for band in model.bands if band.band.channels == 1}
        roles |= {"adapters", "modality_embedding"}
    return [name for name, role in parameter_roles(model).items() if role in roles]


def encoder_inputs(
    batch: OmnivorousBatch, encoder: PlainEncoder | BandedEncoder, paint: bool = True, blend: bool = True
) -> dict[str, Tensor]:
    """Return the encoder's input of each modality: colourised, blended, and with the channels that it takes.

    Args:
        batch: RGB [B, 3, H, W]; other modalities [B, 1, H, W].
        encoder: defines the number of channels of each modality.
        paint: colour three-channel inputs by their own values (see `colourise`); otherwise they are grey.
        blend: mix each modality with RGB by the batch's alpha.
    """
    rgb = batch.images["rgb"]
    colours = from_imagenet(rgb)
    out = {"rgb": rgb}
    for key, image in batch.images.items():
        if key == "rgb":
            continue
        if encoder.channels(key) == 1:
            out[key] = mixup(image, luminance(colours)[:, None], batch.alpha[key]) if blend else image
            continue
        if paint:
            coloured = colourise(image, colours, classes=key == "segmentation")
        else:
            coloured = image.expand(-1, 3, -1, -1)
        out[key] = to_imagenet(mixup(coloured, colours, batch.alpha[key]) if blend else coloured)
    return out


@dataclass(frozen=True)
class StudentOutput:
    """Output of the student in one step.

    Attributes:
        cls: CLS by modality, [B, D].
        tokens: patch tokens at the sampled positions by modality, [B, S, D].
        cls_scale, dense_scale: factors on similarities.
        prefix: tokens after the frozen blocks, which the teacher reuses; None for a SpectraDINO, where they differ.
    """

    cls: dict[str, Tensor]
    tokens: dict[str, Tensor]
    cls_scale: Tensor
    dense_scale: Tensor
    prefix: Prefix | None


class OmnivorousStudent(nn.Module):
    """The trained backbone, with one learned temperature for CLS and one for tokens (two are assumed)."""

    def __init__(self, backbone: ViT | SpectraDINO) -> None:
        super().__init__()
        names = set(trainable(backbone))
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name in names)
        self.encoder: PlainEncoder | BandedEncoder = (
            PlainEncoder(backbone, frozen_blocks(backbone.config))
            if isinstance(backbone, ViT)
            else BandedEncoder(backbone)
        )
        self.cls_scale, self.dense_scale = LogitScale(), LogitScale()

    @property
    def backbone(self) -> ViT | SpectraDINO:
        return self.encoder.vit if isinstance(self.encoder, PlainEncoder) else self.encoder.backbone

    def forward(self, images: Mapping[str, Tensor], positions: Tensor) -> dict[str, object]:
        """Return the fields of `StudentOutput` as a dict, in which DDP finds tensors."""
        prefix: Prefix | None = None
        if isinstance(self.encoder, PlainEncoder):
            prefix = self.encoder.begin(images)
            features = self.encoder.finish(prefix)
        else:
            features = self.encoder(images)
        cls, tokens = _pick(features, positions)
        return {
            "cls": cls,
            "tokens": tokens,
            "cls_scale": self.cls_scale(),
            "dense_scale": self.dense_scale(),
            "prefix": prefix,
        }


class OmnivorousTask:
    """Loss of a step, called by the loop with (student as this process runs it, batch).

    Attributes:
        teacher: frozen copy of the initial student.
    """

    def __init__(self, student: OmnivorousStudent, recipe: OmnivorousRecipe, seed: int, first: int = 0) -> None:
        """
        Args:
            student: with its initial weights, which are copied to the teacher.
            recipe: loss weights and image preparation.
            seed: seed of the sampled positions.
            first: first step.
        """
        self.teacher: PlainEncoder | BandedEncoder = deepcopy(student.encoder)
        self.teacher.requires_grad_(False).eval()
        self._patch = student.backbone.config.patch
        self._recipe, self._seed, self.step = recipe, seed, first

    def __call__(self, student: nn.Module, batch: OmnivorousBatch) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Returns:
            Scalars "total", "align_cls", "align_dense", "anchor_cls", "anchor_dense", "scale_cls" and "scale_dense".
        """
        recipe = self._recipe
        images = encoder_inputs(batch, self.teacher, recipe.colourise, recipe.largest_alpha > 0)
        positions = self._positions(images["rgb"])
        output = StudentOutput(**student(images, positions))
        with torch.no_grad():
            if output.prefix is not None and isinstance(self.teacher, PlainEncoder):
                features = self.teacher.finish(output.prefix)  # both have the same frozen blocks
            else:
                features = self.teacher(images)
            teacher_cls, teacher_tokens = _pick(features, positions)
        losses = {
            "align_cls": alignment_loss(output.cls, output.cls_scale),
            "align_dense": dense_alignment_loss(output.tokens, output.dense_scale),
            "anchor_cls": anchoring_loss(output.cls, teacher_cls),
            "anchor_dense": anchoring_loss(output.tokens, teacher_tokens),
        }
        align = losses["align_cls"] + recipe.dense * losses["align_dense"]
        anchor = losses["anchor_cls"] + recipe.dense * losses["anchor_dense"]
        self.step += 1
        return {
            "total": align + recipe.anchor * anchor,
            **losses,
            "scale_cls": output.cls_scale.detach(),
            "scale_dense": output.dense_scale.detach(),
        }

    def _positions(self, rgb: Tensor) -> Tensor:
        """Return the patch positions [S] compared in this step, the same in all processes."""
        patch = self._patch
        patches = (rgb.shape[-2] // patch) * (rgb.shape[-1] // patch)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.step)
        return sample_positions(patches, min(1.0, self._recipe.tokens / patches), generator).to(rgb.device)


def _pick(features: Mapping[str, Features], positions: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return CLS, and the patch tokens at `positions`, by modality."""
    return {k: f.cls for k, f in features.items()}, {k: f.patches[:, positions] for k, f in features.items()}
