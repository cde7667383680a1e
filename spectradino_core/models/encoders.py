"""Adapters of the backbones: the baseline on repeated infrared, and encoders of any modality.

    B batch    H, W pixels    T tokens    D width

`RepeatedViT` gives a plain DINOv2 the interface of `SpectraDINO`. Encoders give both the interface that evaluation and
Omnivorous pretraining use, with modalities named by the key of a band ("rgb", "nir", ...) or of a map ("depth",
"segmentation").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from spectradino_core.modality import IMAGENET_MEAN, IMAGENET_STD, Modality
from spectradino_core.models.spectradino import SpectraDINO, in_order
from spectradino_core.models.vit import Features, ViT, ViTConfig


class RepeatedViT(nn.Module):
    """Baseline: plain DINOv2 on IR repeated to three channels, without stems, adapters or modality embedding.

    Every table compares SpectraDINO, whose constructor and calls it shares, with it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ViTConfig | str, bands: Sequence[Modality]) -> None:
        super().__init__()
        self.bands = in_order(bands)
        self.vit = ViT(config)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    @property
    def config(self) -> ViTConfig:
        return self.vit.config

    def forward(
        self, images: Mapping[Modality, Tensor], out_indices: Sequence[int] | None = None
    ) -> dict[Modality, Features]:
        """Compute features as `SpectraDINO.forward`; images of one channel are repeated and normalised here.

        Raises:
            ValueError: no images, a wrong shape, or an index that is not a block.
        """
        if not images:
            raise ValueError("no images: give at least one band")
        wrong = [f"{band.key} {list(x.shape)}" for band, x in images.items() if x.ndim != 4 or x.shape[1] not in (1, 3)]
        if wrong:
            raise ValueError(f"images are [B, 1 or 3, H, W], not {', '.join(wrong)}")
        colours = [(x - self.mean) / self.std if x.shape[1] == 1 else x for x in images.values()]
        features = self.vit(torch.cat(colours), out_indices or ())
        return dict(zip(images, features.split([len(x) for x in images.values()]), strict=True))

    def freeze_grid(self, h: int, w: int) -> None:
        """See `ViT.freeze_grid`."""
        self.vit.freeze_grid(h, w)


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
    """Plain DINOv2 encoder: every modality is an RGB image.

    Args:
        vit: the network.
        shared: number of first blocks run without gradient; a teacher with the same blocks can reuse their output (see
            `begin` and `finish`).
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
        features = Features.of(self.vit.norm(tokens), prefix.grid)
        return dict(zip(prefix.keys, features.split(prefix.sizes), strict=True))


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
        out: dict[str, Features] = {}
        for band, keys in together.items():
            out.update(zip(keys, features[band].split([len(images[key]) for key in keys]), strict=True))
        return {key: out[key] for key in images}

    def _band(self, key: str) -> Modality:
        band = next((band for band in self.backbone.bands if band.key == key), Modality.RGB)
        if band.key != key and key in (b.key for b in Modality) and len(self.backbone.bands) > 1:
            raise ValueError(f"this model has no {key} band: it holds {', '.join(b.key for b in self.backbone.bands)}")
        return band


def encoder_of(model: ViT | SpectraDINO) -> PlainEncoder | BandedEncoder:
    """Wrap either model in the common interface."""
    return PlainEncoder(model) if isinstance(model, ViT) else BandedEncoder(model)
