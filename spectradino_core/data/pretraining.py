"""Batches of pairs for SpectraDINO's pretraining: RGB and one infrared band per step.

Letters: B items of this rank's part of a batch, S side of the square crop in pixels, K items that have another band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from spectradino_core.data.plan import LoadedView, Plan, PlanStep
from spectradino_core.data.pretrain_loader import PretrainLoader
from spectradino_core.data.sampling import BandSampling, RoundRobin
from spectradino_core.data.sources import ImageSource
from spectradino_core.data.transfer import OnHost, RawInfrared, RawRGB, infrared_counts, map_tensors
from spectradino_core.data.views import COLOURS, ViewOptions, infrared_levels
from spectradino_core.modality import INFRARED, Modality
from spectradino_core.thermal import ThermalContract

__all__ = ["PretrainBatch", "available_bands", "items_by_band", "pretraining_batches", "steps_per_epoch"]


@dataclass
class PretrainBatch:
    """Pairs of one infrared band.

    Attributes:
        band: infrared band of this step.
        rgb: float32 [B, 3, S, S], normalised with ImageNet's mean and standard deviation.
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


def available_bands(sources: Sequence[ImageSource]) -> tuple[Modality, ...]:
    """Return the infrared bands that any item of the sources has, in the order of training."""
    keys: set[str] = set()
    for source in sources:
        for item in range(len(source)):
            keys.update(source.modalities(item))
            if len(keys.intersection(band.key for band in INFRARED)) == len(INFRARED):
                return INFRARED
    return tuple(band for band in INFRARED if band.key in keys)


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
    thermal: ThermalContract | None = None,
    extra: bool = False,
    max_damaged: float = 0.01,
    pin: bool = False,
) -> PretrainLoader[OnHost[PretrainBatch]]:
    """Return the batches of steps `first` to `steps - 1`, each determined by the seed and its step.

    Args:
        sources: image sources; several may have the same band.
        batch: items per step over *all* ranks; the items of a step do not depend on `world`.
        crop: S, a multiple of the patch size.
        seed: seed of order, views and noise.
        steps: number of steps of the run.
        first: first step, after a resume.
        rank, world: this process loads the rank-th of `world` contiguous parts of every batch.
        sampling: chooses the band of each step; None: round robin over `bands`.
        workers: data loading processes; 0: load in this process.
        bands: infrared bands to train; None: all that the sources have.
        views: how views are drawn; None: the defaults.
        thermal: contract from counts to network input; None: the default.
        extra: also load the other infrared bands of items that have them.
        max_damaged: maximum fraction of damaged items before the run stops.
        pin: batches in page-locked memory, for asynchronous copies to a GPU.

    Raises:
        ValueError: nothing to train on, a band with fewer pairs than a batch, or a batch that `world` does not divide.
    """
    chosen = tuple(Modality.parse(b) for b in bands) if bands is not None else available_bands(sources)
    if not chosen:
        raise ValueError("the sources hold no infrared band: give sources with nir, swir or lwir images")
    if Modality.RGB in chosen:
        raise ValueError("RGB is in every pair: name infrared bands only")
    views = views if views is not None else ViewOptions()
    plan = Plan(sources, {band.key: (band.key,) for band in chosen}, batch, crop, seed, views)
    return PretrainLoader(
        plan,
        partial(_collate, thermal or ThermalContract()),
        sampling or RoundRobin([band.key for band in chosen]),
        steps,
        first,
        rank,
        world,
        workers,
        tuple(band.key for band in INFRARED) if extra else (),
        max_damaged,
        pin,
    )


def steps_per_epoch(sources: Sequence[ImageSource], batch: int, bands: Sequence[Modality] | None = None) -> int:
    """Return the number of full batches of all bands, the paper's epoch.

    Round robin divides these steps equally among the bands, so within an epoch the pairs of a smaller band are seen
    more often than those of a larger one.
    """
    chosen = bands if bands is not None else available_bands(sources)
    return sum(count // batch for count in items_by_band(sources, chosen).values())


def items_by_band(sources: Sequence[ImageSource], bands: Sequence[Modality]) -> dict[str, int]:
    """Return the number of items that have each of the bands, by its key."""
    return {
        band.key: sum(band.key in source.modalities(item) for source in sources for item in range(len(source)))
        for band in bands
    }


def make_batch(views: Sequence[LoadedView], band: Modality, thermal: ThermalContract) -> OnHost[PretrainBatch]:
    """Make a batch of loaded views.

    Raises:
        ThermalError: an infrared frame does not match the contract.
    """

    def frames(of: Modality, rows: Sequence[int]) -> RawInfrared:
        return infrared_counts([infrared_levels(views[row].images[of.key], thermal) for row in rows])

    extra_rows = {
        other: [row for row, view in enumerate(views) if other.key in view.images]
        for other in INFRARED
        if other is not band
    }
    content = {
        "band": band,
        "rgb": RawRGB(torch.from_numpy(np.stack([view.images["rgb"] for view in views])), torch.from_numpy(COLOURS)),
        "infrared": frames(band, range(len(views))),
        "names": [view.name for view in views],
        "keys": torch.tensor([view.key for view in views], dtype=torch.int64),
        "extra": {other: frames(other, rows) for other, rows in extra_rows.items() if rows},
        "extra_rows": {o: torch.tensor(rows, dtype=torch.int64) for o, rows in extra_rows.items() if rows},
    }
    return OnHost(PretrainBatch, content)


def _collate(thermal: ThermalContract, step: PlanStep, views: list[LoadedView]) -> OnHost[PretrainBatch]:
    return make_batch(views, Modality.parse(step.group), thermal)
