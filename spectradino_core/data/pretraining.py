"""Batches of both pretraining recipes.

SpectraDINO takes pairs of RGB and one infrared band per step, the Omnivorous recipe items in RGB and in one group of
other modalities: a band, or depth and segmentation maps.

Letters: B items of this rank's part of a batch, S side of the square crop in pixels, K items that have another band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectradino_core.data.plan import LoadedView, Plan, PlanStep, PretrainLoader
from spectradino_core.data.sampling import BandSampling, RoundRobin
from spectradino_core.data.sources import MAPS, ImageSource
from spectradino_core.data.transfer import OnHost, RawInfrared, RawRGB, infrared_counts, map_tensors
from spectradino_core.data.views import COLOURS, DEPTH_RANGE_M, ViewOptions, infrared_levels, map_tensor
from spectradino_core.modality import IMAGENET_MEAN, IMAGENET_STD, INFRARED, Modality
from spectradino_core.thermal import ThermalContract

_ALPHA = 23  # random stream, see plan.py
_THERMAL = ThermalContract()


@dataclass
class PretrainBatch:
    """Pairs of one infrared band.

    Attributes:
        band: infrared band of this step.
        rgb: float32 [B, 3, S, S], normalised with ImageNet's statistics.
        infrared: float32 [B, 1, S, S] in [0, 1].
        names: origin of each item, for messages.
        keys: int64 [B], number of the item over all sources, or of its view if `ViewOptions.count` is set.
        extra: other infrared bands of the items that have them, float32 [K, 1, S, S]; only if requested.
        extra_rows: int64 [K], indices of these items in the batch.
    """

    band: Modality
    rgb: Tensor
    infrared: Tensor
    names: list[str]
    keys: Tensor
    extra: dict[Modality, Tensor] = field(default_factory=dict)
    extra_rows: dict[Modality, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> PretrainBatch:
        """Return the batch on `device`."""
        return map_tensors(self, lambda x: x.to(device, non_blocking=True))


@dataclass
class OmnivorousBatch:
    """Items of one group of modalities; `names` and `keys` as in `PretrainBatch`.

    Attributes:
        images: by modality key. "rgb": float32 [B, 3, S, S], normalised with ImageNet's statistics; others: float32
            [B, 1, S, S] in [0, 1].
        alpha: fraction of RGB to blend into each of the others, float32 [B] in [0, 1].
    """

    images: dict[str, Tensor]
    alpha: dict[str, Tensor]
    names: list[str]
    keys: Tensor

    def to(self, device: torch.device | str) -> OmnivorousBatch:
        """Return the batch on `device`."""
        return map_tensors(self, lambda x: x.to(device, non_blocking=True))


def available_bands(sources: Sequence[ImageSource]) -> tuple[Modality, ...]:
    """Return the infrared bands that any item of the sources has, in the order of training."""
    counts = items_by_band(sources, INFRARED)
    return tuple(band for band in INFRARED if counts[band.key])


def available_groups(sources: Sequence[ImageSource]) -> dict[str, tuple[str, ...]]:
    """Return the groups of a step: the paper's two maps if items have both, then each band; ValueError for none."""
    have = {frozenset(source.modalities(item)) for source in sources for item in range(len(source))}
    wanted: dict[str, tuple[str, ...]] = {"maps": MAPS} | {band.key: (band.key,) for band in INFRARED}
    groups = {name: keys for name, keys in wanted.items() if any(there.issuperset(keys) for there in have)}
    if not groups and any(have):
        raise ValueError(
            "depth and segmentation maps are trained as a pair, and no item has both: give a manifest whose items have "
            "both, or infrared images"
        )
    if not groups:
        raise ValueError("the sources hold no modality beside RGB: give sources with infrared images or maps")
    return groups


def pretraining_batches(
    sources: Sequence[ImageSource],
    batch: int,
    crop: int,
    seed: int,
    steps: int,
    first: int = 0,
    rank: int = 0,
    world: int = 1,
    sampling: BandSampling | None = None,
    workers: int = 0,
    bands: Sequence[Modality] | None = None,
    views: ViewOptions | None = None,
    extra: bool = False,
    max_damaged: float = 0.01,
    pin: bool = False,
) -> PretrainLoader[OnHost[PretrainBatch]]:
    """Return the batches of steps `first` to `steps - 1`, each determined by the seed and its step.

    Args:
        sources, batch, crop, seed, views, rank, world: see `Plan`; the items of a step do not depend on `world`.
        workers, max_damaged, pin: see `PretrainLoader`.
        sampling: chooses the band of each step; None: round robin over `bands`.
        bands: infrared bands to train; None: all that the sources have.
        extra: also load the other infrared bands of items that have them.

    Raises:
        ValueError: nothing to train on, a band with fewer pairs than a batch, or a batch that `world` does not divide.
    """
    chosen = available_bands(sources) if bands is None else tuple(Modality.parse(band) for band in bands)
    if not chosen:
        raise ValueError("the sources hold no infrared band: give sources with nir, swir or lwir images")
    if Modality.RGB in chosen:
        raise ValueError("RGB is in every pair: name infrared bands only")
    groups = {band.key: (band.key,) for band in chosen}
    also = [band.key for band in INFRARED] if extra else []
    plan = Plan(sources, groups, batch, crop, seed, views or ViewOptions(), _pair_batch, rank, world, also)
    return PretrainLoader(plan, sampling or RoundRobin(list(groups)), range(first, steps), workers, max_damaged, pin)


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
    alpha_max: float = 0.5,
    sampling: BandSampling | None = None,
    workers: int = 0,
    views: ViewOptions | None = None,
    max_damaged: float = 0.01,
    pin: bool = False,
    depth_range_m: tuple[float, float] = DEPTH_RANGE_M,
) -> PretrainLoader[OnHost[OmnivorousBatch]]:
    """Return the batches of steps `first` to `steps - 1`, each determined by the seed and its step.

    Args:
        groups: by name, the modalities beside RGB of a step (see `available_groups`).
        alpha_max: alpha is drawn uniformly from 0 to this.
        depth_range_m: see `views.depth_values`.
        sources .. pin: see `pretraining_batches`.
    """
    if not 0 <= alpha_max <= 1:
        raise ValueError(f"alpha_max must be in 0..1, not {alpha_max}")
    collate = partial(_omnivorous_batch, seed, alpha_max, depth_range_m)
    plan = Plan(sources, groups, batch, crop, seed, views or ViewOptions(), collate, rank, world)
    return PretrainLoader(plan, sampling or RoundRobin(list(groups)), range(first, steps), workers, max_damaged, pin)


def steps_per_epoch(sources: Sequence[ImageSource], batch: int, bands: Sequence[Modality] | None = None) -> int:
    """Return the number of full batches of all bands, the paper's epoch.

    Round robin divides these equally among the bands, so pairs of a smaller band are seen more often within an epoch.
    """
    chosen = bands if bands is not None else available_bands(sources)
    return sum(count // batch for count in items_by_band(sources, chosen).values())


def items_by_band(sources: Sequence[ImageSource], bands: Sequence[Modality]) -> dict[str, int]:
    """Return the number of items that have each of the bands, by its key."""
    return {
        band.key: sum(band.key in source.modalities(item) for source in sources for item in range(len(source)))
        for band in bands
    }


def to_imagenet(colours: Tensor) -> Tensor:
    """Normalise RGB in [0, 1], [B, 3, H, W], with ImageNet's statistics."""
    mean, std = (colours.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (colours - mean) / std


def from_imagenet(normalised: Tensor) -> Tensor:
    """Invert `to_imagenet`."""
    mean, std = (normalised.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (normalised * std + mean).clamp(0, 1)


def as_colour(image: Tensor) -> Tensor:
    """Convert one channel in [0, 1], [B, 1, H, W], to a grey input of a plain DINOv2, [B, 3, H, W]."""
    return to_imagenet(image.expand(-1, 3, -1, -1))


def make_batch(views: Sequence[LoadedView], band: Modality, thermal: ThermalContract) -> OnHost[PretrainBatch]:
    """Make a batch of loaded views; raises ThermalError if an infrared frame does not match the contract."""
    rows_of = {
        other: [row for row, view in enumerate(views) if other.key in view.images]
        for other in INFRARED
        if other is not band
    }
    extra_rows = {other: rows for other, rows in rows_of.items() if rows}
    content = {
        "band": band,
        "rgb": _colours(views),
        "infrared": _counts(views, band.key, thermal),
        "extra": {other: _counts([views[i] for i in rows], other.key, thermal) for other, rows in extra_rows.items()},
        "extra_rows": {other: torch.tensor(rows, dtype=torch.int64) for other, rows in extra_rows.items()},
    }
    return OnHost(PretrainBatch, content | _origins(views))


def _pair_batch(step: PlanStep, views: list[LoadedView]) -> OnHost[PretrainBatch]:
    return make_batch(views, Modality.parse(step.group), _THERMAL)


def _omnivorous_batch(
    seed: int, alpha_max: float, depth_range_m: tuple[float, float], step: PlanStep, views: list[LoadedView]
) -> OnHost[OmnivorousBatch]:
    images: dict[str, Any] = {"rgb": _colours(views)}
    alpha: dict[str, Tensor] = {}
    rngs = [np.random.default_rng((seed, _ALPHA, step.step, view.key)) for view in views]
    for key in views[0].images:
        if key == "rgb":
            continue
        if key in MAPS:
            maps = [map_tensor(key, view.images[key], _THERMAL, depth_range_m) for view in views]
            images[key] = torch.from_numpy(np.stack(maps))
        else:
            images[key] = _counts(views, key, _THERMAL)
        alpha[key] = torch.tensor([rng.uniform(0, alpha_max) for rng in rngs], dtype=torch.float32)
    return OnHost(OmnivorousBatch, {"images": images, "alpha": alpha} | _origins(views))


def _colours(views: Sequence[LoadedView]) -> RawRGB:
    return RawRGB(torch.from_numpy(np.stack([view.images["rgb"] for view in views])), torch.from_numpy(COLOURS))


def _counts(views: Sequence[LoadedView], key: str, thermal: ThermalContract) -> RawInfrared:
    return infrared_counts([infrared_levels(view.images[key], thermal) for view in views])


def _origins(views: Sequence[LoadedView]) -> dict[str, Any]:
    return {
        "names": [view.name for view in views],
        "keys": torch.tensor([view.key for view in views], dtype=torch.int64),
    }
