"""Pairs for pretraining tests: smooth random images that three infrared bands show differently."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from spectradino_core.data.pretraining import PretrainBatch, pretraining_batches
from spectradino_core.data.sources import FramePosition, ImageSet
from spectradino_core.data.views import ViewOptions
from spectradino_core.modality import INFRARED, Modality

SIDE = 64
CALM = ViewOptions(photometry=None)
"""Crops and flips only: what jitter draws from depends on OpenCV's version, and takes most of the time."""

_MIX = {"nir": (0.6, 0.3, 0.1), "swir": (0.1, 0.2, 0.7), "lwir": (-0.5, -0.3, -0.2)}


class Patterns:
    """An `ImageSource` without files."""

    frame_gap = 1

    def __init__(self, count: int, bands: Sequence[str] = ("nir", "swir", "lwir"), first: int = 0) -> None:
        self.name, self._count, self._bands, self._first = f"{count} patterns from {first}", count, tuple(bands), first

    def __len__(self) -> int:
        return self._count

    def modalities(self, item: int) -> tuple[str, ...]:
        return self._bands

    def position(self, item: int) -> FramePosition:
        return FramePosition(f"pattern {self._first + item}", 0)

    def load(self, item: int, modalities: Sequence[str]) -> ImageSet:
        coarse = np.random.default_rng(self._first + item).integers(0, 256, (5, 5, 3)).astype(np.uint8)
        rgb = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        images = {"rgb": rgb}
        for key in modalities:
            mixed = rgb.astype(np.float32) @ np.array(_MIX[key], np.float32)
            images[key] = np.clip(mixed + (255 if min(_MIX[key]) < 0 else 0), 0, 255).astype(np.uint8)
        return ImageSet(images, f"pattern {self._first + item}")


def random_batch(band: Modality = Modality.NIR, count: int = 4, seed: int = 0, side: int = 56) -> PretrainBatch:
    """Batch of noise that does not depend on any image library."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randn(count, 3, side, side, generator=generator)
    infrared = (rgb.mean(dim=1, keepdim=True) * 0.3 + 0.5).clamp(0, 1)
    return PretrainBatch(band, rgb, infrared, [str(i) for i in range(count)], torch.arange(count))


def smooth_batches(steps: int, count: int = 4, side: int = 56) -> list[PretrainBatch]:
    """Round robin over the bands, made with torch only: the same on every machine."""
    made = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(1000 + step)
        coarse = torch.randn(count, 3, 4, 4, generator=generator)
        rgb = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)
        band = INFRARED[step % 3]
        weights = torch.tensor(_MIX[band.key])[:, None, None]
        infrared = torch.sigmoid((rgb * weights).sum(dim=1, keepdim=True))
        made.append(PretrainBatch(band, rgb, infrared, [""] * count, torch.arange(count) + step * count))
    return made


def batches(source: Patterns, batch: int, steps: int, first: int = 0, seed: int = 0, **options):
    """Batches of a source with weak augmentation."""
    return on_cpu(pretraining_batches([source], batch, 56, seed, steps, first, views=CALM, **options))


def on_cpu(stream):
    """Return the batches of a stream one by one, like the training loop."""
    return (batch.to("cpu") for batch in stream)
