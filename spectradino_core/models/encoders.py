"""Common interface of both backbones: images of any modality to features of each.

    B batch    H, W pixels    T tokens    D width

A modality is named by the key of a band ("rgb", "nir", ...) or of a map ("depth", "segmentation"). A plain DINOv2
processes every modality as an RGB image. A SpectraDINO uses the stems of its IR bands and processes maps as RGB images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from spectradino_core.modality import Modality
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import Features, ViT

__all__ = ["BandedEncoder", "Encoder", "PlainEncoder", "Prefix", "encoder_of"]


class Encoder(Protocol):
    """Backbone interface used by evaluation."""

    def channels(self, key: str) -> int:
        """Input channels: 3 (RGB, normalised with ImageNet's mean and standard deviation) or 1 (in [0, 1])."""
        ...

    def __call__(self, images: Mapping[str, Tensor]) -> dict[str, Features]: ...


@dataclass(frozen=True)
class Prefix:
    """Tokens [sum of B, T, D] after the first blocks, with the keys and sizes to split them."""

    tokens: Tensor
    grid: tuple[int, int]
    keys: tuple[str, ...]
    sizes: tuple[int, ...]


class PlainEncoder(nn.Module):
    """Plain DINOv2 encoder for all modalities.

    Args:
        vit: the model.
        shared: number of first blocks run by `begin` without gradients; `finish` can be called several times on their
            result. 0: all blocks are trainable.
    """

    def __init__(self, vit: ViT, shared: int = 0) -> None:
        super().__init__()
        if not 0 <= shared <= vit.config.depth:
            raise ValueError(f"shared is {shared} blocks, but the model has {vit.config.depth}")
        self.vit, self.shared = vit, shared

    def channels(self, key: str) -> int:
        return 3

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Features]:
        """Compute features by modality from images [B, 3, H, W] by modality."""
        return self.finish(self.begin(images))

    def begin(self, images: Mapping[str, Tensor]) -> Prefix:
        """Run all images as one batch through the embedding and the shared blocks."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.shared):
            tokens, grid = self.vit.embed(torch.cat(list(images.values())))
            rotation = self.vit.rotation(grid)
            for block in self.vit.blocks[: self.shared]:
                tokens = block(tokens, rotation)
        return Prefix(tokens, grid, tuple(images), tuple(len(x) for x in images.values()))

    def finish(self, prefix: Prefix) -> dict[str, Features]:
        """Run the remaining blocks and the final norm."""
        tokens, rotation = prefix.tokens, self.vit.rotation(prefix.grid)
        for block in self.vit.blocks[self.shared :]:
            tokens = self.vit.run(block, tokens, rotation)
        parts = self.vit.norm(tokens).split(prefix.sizes)
        return {key: Features.of(part, prefix.grid) for key, part in zip(prefix.keys, parts, strict=True)}


class BandedEncoder(nn.Module):
    """SpectraDINO encoder: bands use their own stems and adapters, other modalities the RGB ones.

    A model with only the RGB band processes every modality as RGB, like a plain DINOv2.
    """

    def __init__(self, backbone: SpectraDINO) -> None:
        super().__init__()
        self.backbone = backbone

    def channels(self, key: str) -> int:
        return self._band(key).band.channels

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Features]:
        """Compute features by modality from images [B, C, H, W] by modality, C as given by `channels`."""
        together: dict[Modality, list[str]] = {}
        for key in images:
            together.setdefault(self._band(key), []).append(key)
        features = self.backbone({band: torch.cat([images[k] for k in keys]) for band, keys in together.items()})
        out = {}
        for band, keys in together.items():
            out.update(_split(features[band], keys, [len(images[key]) for key in keys]))
        return {key: out[key] for key in images}

    def _band(self, key: str) -> Modality:
        band = next((band for band in self.backbone.bands if band.key == key), Modality.RGB)
        if band.key != key and key in (b.key for b in Modality) and len(self.backbone.bands) > 1:
            raise ValueError(f"this model has no {key} band: it holds {', '.join(b.key for b in self.backbone.bands)}")
        return band


def encoder_of(model: ViT | SpectraDINO) -> PlainEncoder | BandedEncoder:
    """Wrap either model in the common interface."""
    return PlainEncoder(model) if isinstance(model, ViT) else BandedEncoder(model)


def _split(features: Features, keys: Sequence[str], sizes: Sequence[int]) -> dict[str, Features]:
    pieces = zip(features.cls.split(sizes), features.registers.split(sizes), features.patches.split(sizes))
    return {key: Features(*piece, features.grid) for key, piece in zip(keys, pieces, strict=True)}
