"""Plan of a pretraining run (SpectraDINO and Omnivorous): the items of each step, and the loader of its batches.

Items are numbered over all sources (their key). A group is the set of items with the modalities that one kind of step
needs, usually one infrared band. All results are functions of (seed, step), independent of the process.

Letters: B items in a batch, N items of a group, S side of a view in pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from torch.utils.data import Dataset

from spectradino_core.data.loading import Loader
from spectradino_core.data.sampling import BandSampling, spread_order
from spectradino_core.data.sources import ImageSet, ImageSource, ItemError
from spectradino_core.data.views import ViewOptions, take_view

_log = logging.getLogger(__name__)

Batch = TypeVar("Batch")

_ORDER, _VIEW, _REPLACEMENT = 11, 17, 19  # independent random streams
_ATTEMPTS = 50


class DamagedDataError(ValueError):
    """More items are damaged than the run allows."""


@dataclass(frozen=True)
class PlanStep:
    """One step: its number, its group, and the number of earlier steps with this group."""

    step: int
    group: str
    nth: int


@dataclass
class LoadedView(ImageSet):
    """Cropped and augmented view of one item, [S, S] or [S, S, 3], dtypes as in the source.

    Its key is the number of the item over all sources; with `ViewOptions.count`, of the view.
    """

    key: int


@dataclass(frozen=True)
class _Group:
    """Items of a group: `keys`, `sequences`, `frames` and `gaps` are int64 [N], see `spread_order`."""

    modalities: tuple[str, ...]
    keys: np.ndarray
    sequences: np.ndarray
    frames: np.ndarray
    gaps: np.ndarray


class Plan(Dataset, Generic[Batch]):
    """Dataset from a step to this process's part of its batch, and an error message for each damaged item.

    A damaged item is replaced by another of the group, drawn by (seed, step, its position in the batch).

    Attributes:
        items: number of items of all sources.
    """

    def __init__(
        self,
        sources: Sequence[ImageSource],
        groups: Mapping[str, Sequence[str]],
        batch: int,
        side: int,
        seed: int,
        views: ViewOptions,
        collate: Callable[[PlanStep, list[LoadedView]], Batch],
        rank: int = 0,
        world: int = 1,
        extra_modalities: Sequence[str] = (),
    ) -> None:
        """
        Args:
            sources: image sources; several may have the same band.
            groups: by name, the modalities beside RGB that an item of the group must have.
            batch: B, over all ranks.
            side: S, a multiple of the patch size.
            seed: seed of order, views and replacements.
            views: how views are drawn.
            collate: makes a batch of loaded views; must be picklable for workers.
            rank, world: the rank-th of `world` contiguous parts of every batch is loaded.
            extra_modalities: modalities beside those of the step's group to load of the items that have them.

        Raises:
            ValueError: no sources, a group with fewer items than a batch, or a batch that `world` does not divide.
        """
        if not sources:
            raise ValueError("no sources of images: give at least one")
        if batch < 1 or side < 1:
            raise ValueError(f"batch {batch} and crop {side} must be at least 1")
        if batch % world or not 0 <= rank < world:
            raise ValueError(
                f"a batch of {batch} can't be shared by {world} processes (this is rank {rank}): choose a multiple"
            )
        self._batch, self._side, self._seed, self._views = batch, side, seed, views
        self._collate, self._rank, self._world_size, self._extra = collate, rank, world, tuple(extra_modalities)
        self._sources = list(sources)
        self._starts = np.cumsum([0, *(len(source) for source in sources)])
        self.items = int(self._starts[-1])
        self._groups = {name: self._gather(tuple(modalities)) for name, modalities in groups.items()}
        for name, group in self._groups.items():
            if len(group.keys) < batch:
                raise ValueError(
                    f"{len(group.keys)} items have {' and '.join(group.modalities)} (group {name}), the batch is "
                    f"{batch}: an item would occur twice in it. Give more data or a smaller batch"
                )
        self._orders: dict[str, tuple[int, np.ndarray]] = {}
        self._warned: set[str] = set()

    def _batches(self, group: str) -> int:
        """Return the full batches in an epoch of `group`; the remaining items are used in another epoch."""
        return len(self._groups[group].keys) // self._batch

    def _rows(self, step: PlanStep) -> np.ndarray:
        """Return the items of a step as indices into their group, int64 [B]."""
        epoch, index = divmod(step.nth, self._batches(step.group))
        kept = self._orders.get(step.group)
        if kept is None or kept[0] != epoch:
            group = self._groups[step.group]
            number = list(self._groups).index(step.group)
            rng = np.random.default_rng((self._seed, _ORDER, number, epoch))
            order, conflicts = spread_order(group.sequences, group.frames, group.gaps, self._batch, rng)
            if conflicts and step.group not in self._warned:
                self._warned.add(step.group)
                _log.warning(
                    "%s: %d of %d items of an epoch share a batch with a neighbour of their recording, a false "
                    "negative: add recordings or use batches of fewer than %d",
                    step.group, conflicts, len(order), self._batch,
                )  # fmt: skip
            kept = self._orders[step.group] = (epoch, order)
        return kept[1][index * self._batch : (index + 1) * self._batch]

    def __getitem__(self, step: PlanStep) -> tuple[Batch, list[str]]:
        rows = self._rows(step)
        local = self._batch // self._world_size
        views, damage = [], []
        for slot in range(self._rank * local, (self._rank + 1) * local):
            row = int(rows[slot])
            for attempt in range(_ATTEMPTS + 1):
                try:
                    views.append(self._view(step, row))
                    break
                except ItemError as error:
                    damage.append(str(error))
                    if attempt == _ATTEMPTS:
                        raise DamagedDataError(
                            f"{_ATTEMPTS} items in succession can't be read, the last: {error}; check the files"
                        ) from None
                    row = self._replacement(step, slot, attempt, rows)
        return self._collate(step, views), damage

    def _gather(self, modalities: tuple[str, ...]) -> _Group:
        found = []
        numbers: dict[tuple[int, str], int] = {}
        for which, source in enumerate(self._sources):
            for item in range(len(source)):
                if not set(modalities) <= set(source.modalities(item)):
                    continue
                position = source.position(item)
                sequence = numbers.setdefault((which, position.sequence), len(numbers))
                frame = -1 if position.frame is None else position.frame
                found.append((int(self._starts[which]) + item, sequence, frame, source.frame_gap))
        return _Group(modalities, *np.array(found, np.int64).reshape(-1, 4).T)

    def _replacement(self, step: PlanStep, slot: int, attempt: int, rows: np.ndarray) -> int:
        rng = np.random.default_rng((self._seed, _REPLACEMENT, step.step, slot, attempt))
        every = np.arange(len(self._groups[step.group].keys))
        others = np.setdiff1d(every, rows)
        return int(rng.choice(others if len(others) else every))

    def _view(self, step: PlanStep, row: int) -> LoadedView:
        group = self._groups[step.group]
        key = int(group.keys[row])
        which = int(np.searchsorted(self._starts, key, side="right")) - 1
        source, item = self._sources[which], key - int(self._starts[which])
        extra = [m for m in source.modalities(item) if m in self._extra and m not in group.modalities]
        loaded = source.load(item, (*group.modalities, *extra))
        if self._views.count:
            number = step.nth // self._batches(step.group) % self._views.count
            rng = np.random.default_rng((self._seed, _VIEW, key, number))
            key = key * self._views.count + number
        else:
            rng = np.random.default_rng((self._seed, _VIEW, step.step, key))
        return LoadedView(take_view(loaded, self._views, self._side, rng), loaded.name, key)


class PretrainLoader(Generic[Batch]):
    """Iterable over the batches of the steps of a plan; raises DamagedDataError for too many damaged items.

    Attributes:
        sampling: chooses the group of each step; if it is adaptive, `record` every step's loss.
        damage: error messages of the items that could not be read so far, as keys.
    """

    def __init__(
        self,
        plan: Plan[Batch],
        sampling: BandSampling,
        steps: range,
        workers: int = 0,
        max_damaged: float = 0.01,
        pin: bool = False,
    ) -> None:
        """
        Args:
            plan, sampling, steps: batches, the choice of their groups, and numbers of the steps.
            workers: data loading processes; 0: load in this process.
            max_damaged: maximum fraction of damaged items before the run stops.
            pin: see `Loader`.
        """
        self.sampling = sampling
        self.damage: dict[str, None] = {}
        self._plan, self._steps, self._workers, self._pin = plan, steps, workers, pin
        self._max_damaged = max_damaged

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Batch]:
        steps = _Steps(self.sampling, self._steps)
        loader: Loader[tuple[Batch, list[str]]] = Loader(self._plan, self._workers, steps, pin=self._pin)
        for batch, damage in loader:
            self._count(damage)
            yield batch

    def _count(self, damage: Sequence[str]) -> None:
        for text in damage:
            if text not in self.damage:
                self.damage[text] = None
                _log.warning("skipped a damaged item (%d so far): %s", len(self.damage), text)
        if len(self.damage) > self._max_damaged * self._plan.items:
            names = "; ".join(list(self.damage)[:5])
            raise DamagedDataError(
                f"{len(self.damage)} of {self._plan.items} items can't be read, more than the allowed "
                f"{self._max_damaged:.1%}: {names}. Repair or remove them, or raise max_damaged"
            )


@dataclass
class _Steps:
    """Sampler: yields the group of each step, in the training process and as far ahead as the workers prefetch."""

    sampling: BandSampling
    numbers: range

    def __iter__(self) -> Iterator[PlanStep]:
        return (PlanStep(step, *self.sampling.select(step)) for step in self.numbers)
