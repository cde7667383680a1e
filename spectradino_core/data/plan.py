"""Plan of a pretraining run (SpectraDINO and Omnivorous): the items of each step, and their loading.

Items are numbered over all sources (their key). A group is the set of items with the modalities that one kind of step
needs, usually one infrared band. All results are functions of (seed, step), independent of the process.

Letters: B items in a batch, N items of a group, S side of a view in pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spectradino_core.data.sampling import spread_order
from spectradino_core.data.sources import ImageSource, ItemError
from spectradino_core.data.views import ViewOptions, take_view

__all__ = ["DamagedDataError", "DamageReport", "LoadedView", "Plan", "PlanStep"]

_log = logging.getLogger(__name__)

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
class LoadedView:
    """Cropped and augmented view of one item.

    Attributes:
        images: by modality key, [S, S] or [S, S, 3], dtypes as in the source.
        name: origin of the item, for messages.
        key: number of the item over all sources; with `ViewOptions.count`, of the view.
    """

    images: dict[str, np.ndarray]
    name: str
    key: int


@dataclass(frozen=True)
class _Group:
    """Items of a group: `keys`, `sequences`, `frames` and `gaps` are int64 [N], see `spread_order`."""

    modalities: tuple[str, ...]
    keys: np.ndarray
    sequences: np.ndarray
    frames: np.ndarray
    gaps: np.ndarray


class Plan:
    """Items and views of every step.

    Attributes:
        batch: B, over all ranks.
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
    ) -> None:
        """
        Args:
            sources: image sources; several may have the same band.
            groups: by name, the modalities beside RGB that an item of the group must have.
            batch: B, over all ranks.
            side: S.
            seed: seed of order, views and replacements.
            views: how views are drawn.

        Raises:
            ValueError: no sources, or a group with fewer items than a batch.
        """
        if not sources:
            raise ValueError("no sources of images: give at least one")
        if batch < 1 or side < 1:
            raise ValueError(f"batch {batch} and crop {side} must be at least 1")
        self.batch, self._side, self._seed, self._views = batch, side, seed, views
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

    def length(self, group: str) -> int:
        """Return N of a group."""
        return len(self._groups[group].keys)

    def batches(self, group: str) -> int:
        """Return the full batches in an epoch of `group`; the remaining items are used in another epoch."""
        return self.length(group) // self.batch

    def rows(self, step: PlanStep) -> np.ndarray:
        """Return the items of a step as indices into their group, int64 [B]."""
        epoch, index = divmod(step.nth, self.batches(step.group))
        kept = self._orders.get(step.group)
        if kept is None or kept[0] != epoch:
            group = self._groups[step.group]
            number = list(self._groups).index(step.group)
            rng = np.random.default_rng((self._seed, _ORDER, number, epoch))
            order, conflicts = spread_order(group.sequences, group.frames, group.gaps, self.batch, rng)
            if conflicts and step.group not in self._warned:
                self._warned.add(step.group)
                _log.warning(
                    "%s: %d of %d items of an epoch share a batch with a neighbour of their recording, a false "
                    "negative: add recordings or use batches of fewer than %d",
                    step.group, conflicts, len(order), self.batch,
                )  # fmt: skip
            kept = self._orders[step.group] = (epoch, order)
        return kept[1][index * self.batch : (index + 1) * self.batch]

    def load(
        self, step: PlanStep, rank: int = 0, world: int = 1, also: Sequence[str] = ()
    ) -> tuple[list[LoadedView], list[str]]:
        """Load this rank's contiguous part of a step.

        A damaged item is replaced by another of the group, drawn by (seed, step, its position in the batch).

        Args:
            step: the step.
            rank, world: the rank-th of `world` parts is loaded.
            also: modalities beside those of the group to load of the items that have them.

        Returns:
            The views, and an error message for each damaged item.

        Raises:
            DamagedDataError: `_ATTEMPTS` replacements were damaged too.
        """
        rows = self.rows(step)
        local = self.batch // world
        views, damage = [], []
        for slot in range(rank * local, (rank + 1) * local):
            row = int(rows[slot])
            for attempt in range(_ATTEMPTS + 1):
                try:
                    views.append(self._view(step, row, also))
                    break
                except ItemError as error:
                    damage.append(str(error))
                    if attempt == _ATTEMPTS:
                        raise DamagedDataError(
                            f"{_ATTEMPTS} items in succession can't be read, the last: {error}; check the files"
                        ) from None
                    row = self._replacement(step, slot, attempt, rows)
        return views, damage

    def _gather(self, modalities: tuple[str, ...]) -> _Group:
        keys, sequences, frames, gaps = [], [], [], []
        numbers: dict[tuple[int, str], int] = {}
        for which, source in enumerate(self._sources):
            for item in range(len(source)):
                if not set(modalities) <= set(source.modalities(item)):
                    continue
                position = source.position(item)
                keys.append(int(self._starts[which]) + item)
                sequences.append(numbers.setdefault((which, position.sequence), len(numbers)))
                frames.append(-1 if position.frame is None else position.frame)
                gaps.append(source.frame_gap)
        arrays = (np.array(values, np.int64) for values in (keys, sequences, frames, gaps))
        return _Group(modalities, *arrays)

    def _replacement(self, step: PlanStep, slot: int, attempt: int, rows: np.ndarray) -> int:
        rng = np.random.default_rng((self._seed, _REPLACEMENT, step.step, slot, attempt))
        others = np.setdiff1d(np.arange(self.length(step.group)), rows)
        return int(rng.choice(others if len(others) else np.arange(self.length(step.group))))

    def _view(self, step: PlanStep, row: int, also: Sequence[str]) -> LoadedView:
        group = self._groups[step.group]
        key = int(group.keys[row])
        which = int(np.searchsorted(self._starts, key, side="right")) - 1
        source, item = self._sources[which], key - int(self._starts[which])
        extra = [m for m in source.modalities(item) if m in also and m not in group.modalities]
        loaded = source.load(item, (*group.modalities, *extra))
        if self._views.count:
            number = step.nth // self.batches(step.group) % self._views.count
            rng = np.random.default_rng((self._seed, _VIEW, key, number))
            key = key * self._views.count + number
        else:
            rng = np.random.default_rng((self._seed, _VIEW, step.step, key))
        return LoadedView(take_view(loaded, self._views, self._side, rng), loaded.name, key)


class DamageReport:
    """Counts damaged items, logs each once, and stops the run if there are too many.

    Attributes:
        found: error messages of the damaged items, in the order found.
    """

    def __init__(self, items: int, most: float) -> None:
        """
        Args:
            items: total number of items.
            most: maximum fraction of damaged items, 0..1.
        """
        self._items, self._most = items, most
        self.found: dict[str, None] = {}

    def add(self, damage: Sequence[str]) -> None:
        """Add the error messages of damaged items.

        Raises:
            DamagedDataError: the fraction of damaged items exceeds the maximum.
        """
        for text in damage:
            if text not in self.found:
                self.found[text] = None
                _log.warning("skipped a damaged item (%d so far): %s", len(self.found), text)
        if len(self.found) > self._most * self._items:
            names = "; ".join(list(self.found)[:5])
            raise DamagedDataError(
                f"{len(self.found)} of {self._items} items can't be read, more than the allowed {self._most:.1%}: "
                f"{names}. Repair or remove them, or raise max_damaged"
            )
