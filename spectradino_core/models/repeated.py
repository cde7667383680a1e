"""Baseline: plain DINOv2 with the IR channel repeated to three channels.

    B batch    H, W pixels    D width

It has no stems, adapters or modality embedding; every table compares SpectraDINO with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from spectradino_core.modality import IMAGENET_MEAN, IMAGENET_STD, Modality
from spectradino_core.models.spectradino import in_order
from spectradino_core.models.vit import Features, ViT, ViTConfig

__all__ = ["RepeatedViT"]


class RepeatedViT(nn.Module):
    """DINOv2 with the interface of `SpectraDINO`.

    Args:
        config: a `ViTConfig`, or the name of one in `vit.VARIANTS`.
        bands: bands of its inputs.
        activation_checkpointing: as in `SpectraDINO`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: ViTConfig | str, bands: Sequence[Modality], activation_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.bands = in_order(bands)
        self.vit = ViT(config, activation_checkpointing)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    @property
    def config(self) -> ViTConfig:
        return self.vit.config

    def forward(self, images: Mapping[Modality, Tensor], taps: Sequence[int] | None = None) -> dict[Modality, Features]:
        """Compute features of images of one or more bands in one pass.

        Args:
            images: [B_m, C_m, H, W] by band: RGB normalised with ImageNet's mean and standard deviation, IR in [0, 1],
                which is repeated to three channels and normalised here.
            taps: 0-based blocks whose patch tokens are returned in addition to the last block's.

        Raises:
            ValueError: no images, a wrong shape, or a tap that is not a block.
        """
        if not images:
            raise ValueError("no images: give at least one band")
        wrong = [f"{band.key} {list(x.shape)}" for band, x in images.items() if x.ndim != 4 or x.shape[1] not in (1, 3)]
        if wrong:
            raise ValueError(f"images are [B, 1 or 3, H, W], not {', '.join(wrong)}")
        colours = [(x - self.mean) / self.std if x.shape[1] == 1 else x for x in images.values()]
        features = self.vit(torch.cat(colours), taps or ())
        sizes = [len(x) for x in images.values()]
        pieces = zip(features.cls.split(sizes), features.registers.split(sizes), features.patches.split(sizes))
        tapped = [tap.split(sizes) for tap in features.tapped]
        return {
            band: Features(*piece, features.grid, [tap[run] for tap in tapped])
            for run, (band, piece) in enumerate(zip(images, pieces))
        }

    def freeze_grid(self, h: int, w: int) -> None:
        """See `ViT.freeze_grid`."""
        self.vit.freeze_grid(h, w)
