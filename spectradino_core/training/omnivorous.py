"""Omnivorous pretraining: the last third of a DINOv2's blocks learns to see every modality alike, and to stay itself.

    B samples on this process    D width    S patch positions sampled

Two bases. "plain" is the paper's: a plain ViT, everything a colour picture, maps and infrared painted in the paired
RGB picture's palette and blended with it. "both" is ours, Omnivorous on top of SpectraDINO: infrared goes through stems
and adapters, which learn on, and is blended with the picture's brightness; maps are colour pictures as above.

The teacher that anchors is a frozen copy of what the student started from, on the same images.
"A Mixed Diet Makes DINO an Omnivorous Vision Encoder", Section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spectradino_core.data.omnivorous import OmnivorousBatch, from_imagenet, to_imagenet
from spectradino_core.losses.alignment import sample_positions
from spectradino_core.losses.omnivorous import (
    LogitScale,
    alignment_loss,
    anchoring_loss,
    colourise,
    dense_alignment_loss,
    luminance,
    mixup,
    palette,
)
from spectradino_core.models.encoders import BandedEncoder, PlainEncoder, Prefix
from spectradino_core.models.spectradino import SpectraDINO, parameter_roles
from spectradino_core.models.vit import VARIANTS, Features, ViT, ViTConfig

__all__ = [
    "OmnivorousRecipe",
    "OmnivorousStudent",
    "OmnivorousTask",
    "feed",
    "frozen_blocks",
    "omnivorous_recipe",
    "trainable",
]


@dataclass(frozen=True)
class OmnivorousRecipe:
    """One run.

    Attributes:
        variant: key of `VARIANTS`; the paper's is B.
        steps, batch, rate: given: 20,000, 512 over all processes, 1e-4.
        tokens: patch tokens sampled of an image (given).
        anchor: weight of the anchoring losses (given).
        largest_alpha: greatest share of RGB in the blend (given).
        colourise: paint maps and infrared in the RGB picture's palette (given); off, they are grey.
        dense: weight of the losses on patch tokens beside those on CLS. Assumed: both count alike.
        weight_decay, warmup: of AdamW, and the share of the steps over which the rate rises. Assumed.
        clip: greatest gradient norm. Assumed.
        crop: side of the square views, pixels (given).
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


def omnivorous_recipe(variant: str) -> OmnivorousRecipe:
    """The recipe of a variant; the paper's figures but for `tiny` and `test`, which are ours.

    Raises:
        ValueError: no such variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"no Omnivorous recipe for variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    if variant == "tiny":
        return OmnivorousRecipe(variant, steps=600, batch=32, rate=5e-4, tokens=16, crop=112)
    if variant == "test":
        return OmnivorousRecipe(variant, steps=20, batch=4, rate=1e-3, tokens=4, crop=56)
    return OmnivorousRecipe(variant)


def frozen_blocks(config: ViTConfig) -> int:
    """How many of the first blocks stay frozen: 8 of 12, and two thirds of any other depth (assumed)."""
    return config.depth - max(1, round(config.depth / 3))


def trainable(model: ViT | SpectraDINO) -> list[str]:
    """Names, in `model.named_parameters()`, of what is trained: the last third of the blocks; of a SpectraDINO also the
    infrared stems, the adapters and the modality embedding (ours). The final norm stays, as do patch embedding and
    tokens."""
    config = model.config
    roles = {f"blocks.{index}" for index in range(frozen_blocks(config), config.depth)}
    if isinstance(model, SpectraDINO) and len(model.bands) > 1:
        roles |= {f"stems.{band.key}" for band in model.bands if band.band.channels == 1}
        roles |= {"adapters", "modality_embedding"}
    return [name for name, role in parameter_roles(model).items() if role in roles]


def feed(
    batch: OmnivorousBatch, encoder: PlainEncoder | BandedEncoder, paint: bool = True, blend: bool = True
) -> dict[str, Tensor]:
    """What the encoder is shown of a batch: painted, blended, and with the channels it wants.

    Args:
        batch: one-channel images but for RGB.
        encoder: says how many channels it wants of each.
        paint: three-channel images take the RGB picture's palette; otherwise they are grey.
        blend: mix each with RGB by the batch's alpha.
    """
    rgb = batch.images["rgb"]
    colours = from_imagenet(rgb)
    out = {"rgb": rgb}
    own_palette: Tensor | None = None
    for key, image in batch.images.items():
        if key == "rgb":
            continue
        if encoder.channels(key) == 1:
            out[key] = mixup(image, luminance(colours)[:, None], batch.alpha[key]) if blend else image
            continue
        if paint:
            own_palette = palette(colours) if own_palette is None else own_palette
            picture = colourise(image, own_palette)
        else:
            picture = image.expand(-1, 3, -1, -1)
        out[key] = to_imagenet(mixup(picture, colours, batch.alpha[key]) if blend else picture)
    return out


@dataclass(frozen=True)
class StudentAnswer:
    """What a step needs of the student.

    Attributes:
        cls: by modality, [B, D].
        tokens: by modality, the patch tokens at the sampled positions, [B, S, D].
        cls_scale, dense_scale: factors on similarities.
        prefix: the tokens after the frozen blocks, for the teacher; None on a SpectraDINO, where they differ.
    """

    cls: dict[str, Tensor]
    tokens: dict[str, Tensor]
    cls_scale: Tensor
    dense_scale: Tensor
    prefix: Prefix | None


class OmnivorousStudent(nn.Module):
    """What is trained: the backbone, and a temperature each for CLS and for tokens (that there are two is assumed)."""

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
        """See `StudentAnswer`; a dict, because DDP looks for tensors in those."""
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
    """What a step computes: called by the loop with (student as this process runs it, batch).

    Attributes:
        teacher: a frozen copy of what the student started from.
    """

    def __init__(self, student: OmnivorousStudent, recipe: OmnivorousRecipe, seed: int, first: int = 0) -> None:
        """
        Args:
            student: untrained as yet, or the teacher must be set to what it started from.
            recipe: weights of the losses, and how images are fed.
            seed: of the sampled positions.
            first: the step to begin at.
        """
        self.teacher: PlainEncoder | BandedEncoder = deepcopy(student.encoder)
        self.teacher.requires_grad_(False).eval()
        self._patch = student.backbone.config.patch
        self._recipe, self._seed, self.step = recipe, seed, first

    def __call__(self, student: nn.Module, batch: OmnivorousBatch) -> dict[str, Tensor]:
        """
        Returns:
            "total", "align_cls", "align_dense", "anchor_cls", "anchor_dense", "scale_cls", "scale_dense": scalars.
        """
        recipe = self._recipe
        images = feed(batch, self.teacher, recipe.colourise, recipe.largest_alpha > 0)
        positions = self._positions(images["rgb"])
        answer = StudentAnswer(**student(images, positions))
        with torch.no_grad():
            if answer.prefix is not None and isinstance(self.teacher, PlainEncoder):
                features = self.teacher.finish(answer.prefix)  # the frozen blocks are one and the same
            else:
                features = self.teacher(images)
            teacher_cls, teacher_tokens = _pick(features, positions)
        losses = {
            "align_cls": alignment_loss(answer.cls, answer.cls_scale),
            "align_dense": dense_alignment_loss(answer.tokens, answer.dense_scale),
            "anchor_cls": anchoring_loss(answer.cls, teacher_cls),
            "anchor_dense": anchoring_loss(answer.tokens, teacher_tokens),
        }
        align = losses["align_cls"] + recipe.dense * losses["align_dense"]
        anchor = losses["anchor_cls"] + recipe.dense * losses["anchor_dense"]
        self.step += 1
        return {
            "total": align + recipe.anchor * anchor,
            **losses,
            "scale_cls": answer.cls_scale.detach(),
            "scale_dense": answer.dense_scale.detach(),
        }

    def _positions(self, rgb: Tensor) -> Tensor:
        """The patch positions that this step compares, the same on all processes, [S]."""
        patch = self._patch
        patches = (rgb.shape[-2] // patch) * (rgb.shape[-1] // patch)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.step)
        return sample_positions(patches, min(1.0, self._recipe.tokens / patches), generator).to(rgb.device)


def _pick(features: Mapping[str, Features], positions: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """CLS, and the patch tokens at `positions`."""
    return {k: f.cls for k, f in features.items()}, {k: f.patches[:, positions] for k, f in features.items()}
