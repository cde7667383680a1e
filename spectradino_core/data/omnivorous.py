"""Batches for the Omnivorous recipe: items in RGB and in other modalities, bands as well as maps.

Letters: B items of this process's part of a batch, S side of the square crop in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectradino_core.data.plan import LoadedView, Plan, PlanStep
from spectradino_core.data.pretrain_loader import PretrainLoader
from spectradino_core.data.sampling import BandSampling, RoundRobin
from spectradino_core.data.sources import MAPS, ImageSource
from spectradino_core.data.transfer import OnHost, RawRGB, infrared_counts, map_tensors
from spectradino_core.data.views import COLOURS, ViewOptions, infrared_levels, infrared_tensor
from spectradino_core.modality import IMAGENET_MEAN, IMAGENET_STD, INFRARED
from spectradino_core.thermal import ThermalContract

__all__ = [
    "OmnivorousBatch",
    "as_colour",
    "DEPTH_RANGE_M",
    "available_groups",
    "depth_values",
    "omnivorous_batches",
    "from_imagenet",
    "map_tensor",
    "segmentation_values",
    "to_imagenet",
]

DEPTH_RANGE_M = (1.0, 100.0)
"""Depths mapped to white and black, for streets; indoors 0.5 to 10 m. Ours: fixed, so that equal depths have equal
values in all images."""

_ALPHA = 23  # random stream, see plan.py


@dataclass
class OmnivorousBatch:
    """Items of one group of modalities.

    Attributes:
        images: by modality key. "rgb": float32 [B, 3, S, S], normalised with ImageNet's mean and standard deviation;
            all others: float32 [B, 1, S, S] in [0, 1].
        alpha: fraction of RGB to blend into each of the others, float32 [B] in [0, 1]; a function of (seed, step,
            item).
        names: origin of each item, for messages.
        keys: int64 [B], number of the item over all sources.
    """

    images: dict[str, Tensor]
    alpha: dict[str, Tensor]
    names: list[str]
    keys: Tensor

    def to(self, device: torch.device | str) -> OmnivorousBatch:
        """Return the batch on `device`."""
        return map_tensors(self, lambda x: x.to(device, non_blocking=True))


def available_groups(sources: Sequence[ImageSource]) -> dict[str, tuple[str, ...]]:
    """Return the groups of modalities of a step: the paper's two maps if items have both, then each infrared band.

    Raises:
        ValueError: no group.
    """
    have = {frozenset(source.modalities(item)) for source in sources for item in range(len(source))}
    groups: dict[str, tuple[str, ...]] = {}
    if any(set(MAPS) <= keys for keys in have):
        groups["maps"] = MAPS
    for band in INFRARED:
        if any(band.key in keys for keys in have):
            groups[band.key] = (band.key,)
    if not groups and any(have):
        raise ValueError(
            "depth and segmentation maps are trained as a pair, and no item has both: give a manifest whose items have "
            "both, or infrared images"
        )
    if not groups:
        raise ValueError("the sources hold no modality beside RGB: give sources with infrared images or maps")
    return groups


def omnivorous_batches(
    sources: Sequence[ImageSource],
    groups: Mapping[str, Sequence[str]],
    batch: int,
    crop: int,
    seed: int,
    steps: int,
    first: int = 0,
    rank: int = 0,
    world: int = 1,
    largest_alpha: float = 0.5,
    sampling: BandSampling | None = None,
    workers: int = 0,
    views: ViewOptions | None = None,
    thermal: ThermalContract | None = None,
    max_damaged: float = 0.01,
    pin: bool = False,
    depth_range_m: tuple[float, float] = DEPTH_RANGE_M,
) -> PretrainLoader[OnHost[OmnivorousBatch]]:
    """Return the batches of steps `first` to `steps - 1`, each determined by the seed and its step.

    Args:
        groups: by name, the modalities beside RGB of a step (see `available_groups`).
        largest_alpha: alpha is drawn uniformly from 0 to this.
        depth_range_m: see `depth_values`.
        sources, batch, crop, seed, steps, first, rank, world, sampling, workers, views, thermal, max_damaged, pin: see
            `pretraining.pretraining_batches`.

    Raises:
        ValueError: a group with fewer items than a batch, or a batch that `world` does not divide.
    """
    if not 0 <= largest_alpha <= 1:
        raise ValueError(f"largest_alpha must be in 0..1, not {largest_alpha}")
    plan = Plan(sources, groups, batch, crop, seed, views if views is not None else ViewOptions())
    collate = partial(_collate, seed, largest_alpha, thermal or ThermalContract(), depth_range_m)
    return PretrainLoader(
        plan, collate, sampling or RoundRobin(list(groups)), steps, first, rank, world, workers, (), max_damaged, pin
    )


# ------------------------------------------------------------------------------------------------------------- tensors


def map_tensor(
    key: str, image: np.ndarray, thermal: ThermalContract, depth_range_m: tuple[float, float] = DEPTH_RANGE_M
) -> np.ndarray:
    """Convert an image of any modality but RGB, [S, S], to float32 [1, S, S] in [0, 1]."""
    if key == "depth":
        return depth_values(image, depth_range_m)[None]
    if key == "segmentation":
        return segmentation_values(image)[None]
    return infrared_tensor(image, thermal)


def depth_values(metres: np.ndarray, range_m: tuple[float, float] = DEPTH_RANGE_M) -> np.ndarray:
    """Map depth logarithmically to brightness: 1 at the near end and below, 0 at the far end, above and if unknown.

    Args:
        metres: depth, 0 where unknown, of any shape.
        range_m: near and far end, 0 < near < far.

    Raises:
        ValueError: the range is empty.
    """
    near, far = range_m
    if not 0 < near < far:
        raise ValueError(f"a depth range has a near end above 0 and below its far end, not {near:g} to {far:g} m")
    known = metres > 0
    depth = np.clip(np.where(known, metres, far), near, far)
    value = 1 - np.log(depth / near) / np.log(far / near)
    return np.where(known, np.clip(value, 0, 1), 0).astype(np.float32)


def segmentation_values(mask: np.ndarray) -> np.ndarray:
    """Map class indices to brightness, the same in all images; 0 where unlabelled.

    Class c gets the fractional part of (c + 1) times the golden ratio, which separates neighbouring indices.
    """
    table = ((np.arange(256) + 1) * 0.6180339887498949 % 1).astype(np.float32)
    table[255] = 0
    return table[mask]


def to_imagenet(colours: Tensor) -> Tensor:
    """Normalise RGB in [0, 1], [B, 3, H, W], with ImageNet's mean and standard deviation."""
    mean, std = (colours.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (colours - mean) / std


def from_imagenet(normalised: Tensor) -> Tensor:
    """Invert `to_imagenet`."""
    mean, std = (normalised.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (normalised * std + mean).clamp(0, 1)


def as_colour(image: Tensor) -> Tensor:
    """Convert one channel in [0, 1], [B, 1, H, W], to a grey input of a plain DINOv2, [B, 3, H, W]."""
    return to_imagenet(image.expand(-1, 3, -1, -1))


def _collate(
    seed: int, largest_alpha: float, thermal: ThermalContract, depth_range_m: tuple[float, float], step: PlanStep,
    views: list[LoadedView],
) -> OnHost[OmnivorousBatch]:  # fmt: skip
    images: dict[str, Any] = {}
    alpha: dict[str, Tensor] = {}
    rngs = [np.random.default_rng((seed, _ALPHA, step.step, view.key)) for view in views]
    for key in views[0].images:
        frames = [view.images[key] for view in views]
        if key == "rgb":
            images[key] = RawRGB(torch.from_numpy(np.stack(frames)), torch.from_numpy(COLOURS))
            continue
        if key in MAPS:
            images[key] = torch.from_numpy(
                np.stack([map_tensor(key, frame, thermal, depth_range_m) for frame in frames])
            )
        else:
            images[key] = infrared_counts([infrared_levels(frame, thermal) for frame in frames])
        alpha[key] = torch.tensor([rng.uniform(0, largest_alpha) for rng in rngs], dtype=torch.float32)
    content = {
        "images": images,
        "alpha": alpha,
        "names": [view.name for view in views],
        "keys": torch.tensor([view.key for view in views], dtype=torch.int64),
    }
    return OnHost(OmnivorousBatch, content)
