"""Which items each step of a pretraining run loads, and the loading: shared by SpectraDINO and Omnivorous pretraining.

Items of all sources are numbered through (their key); a group is the items that have what one kind of step needs, as a
rule one infrared band. Everything here is a function of (seed, step), never of the process that asks.

Letters: B items in a batch, N items of a group.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spectradino_core.data.sampling import spread_order
from spectradino_core.data.sources import ImageSource, ItemError
from spectradino_core.data.views import ViewOptions, take_view

__all__ = ["DamagedDataError", "DamageReport", "LoadedView", "Place", "Plan"]

_log = logging.getLogger(__name__)

_ORDER, _VIEW, _STAND_IN = 11, 17, 19  # streams of random numbers, apart from each other
_ATTEMPTS = 50


class DamagedDataError(ValueError):
    """More items are damaged than the run was told to bear."""


@dataclass(frozen=True)
class Place:
    """One step's share of the data: its number, its group, and how many steps have shown that group before."""

    step: int
    group: str
    nth: int


@dataclass
class LoadedView:
    """One item of a batch, cut and varied.

    Attributes:
        images: by modality key, [S, S] or [S, S, 3], dtypes as in the source.
        name: for messages.
        key: the item's number over all sources; with `ViewOptions.count` the view's.
    """

    images: dict[str, np.ndarray]
    name: str
    key: int


@dataclass(frozen=True)
class _Group:
    """The items of a group, by their number over all sources.

    `keys`, `sequences`, `frames` and `gaps` are int64 [N]; see `spread_order`.
    """

    modalities: tuple[str, ...]
    keys: np.ndarray
    sequences: np.ndarray
    frames: np.ndarray
    gaps: np.ndarray


class Plan:
    """What to load at every step.

    Attributes:
        batch: B, over all ranks.
        items: how many items all sources hold.
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
            sources: all of them, several per band as may be.
            groups: by name, the modalities that an item must have beside RGB to be of the group.
            batch: B, over all ranks.
            side: of the square views, pixels.
            seed: of everything random.
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
                    f"{batch}: an item would meet itself. Give more data or a smaller batch"
                )
        self._orders: dict[str, tuple[int, np.ndarray]] = {}
        self._told: set[str] = set()

    def length(self, group: str) -> int:
        """N."""
        return len(self._groups[group].keys)

    def batches(self, group: str) -> int:
        """Whole batches in an epoch of `group`; the rest of its items has its turn in another epoch."""
        return self.length(group) // self.batch

    def rows(self, place: Place) -> np.ndarray:
        """The items of a step, int64 [B], as places in their group."""
        epoch, index = divmod(place.nth, self.batches(place.group))
        kept = self._orders.get(place.group)
        if kept is None or kept[0] != epoch:
            group = self._groups[place.group]
            number = list(self._groups).index(place.group)
            rng = np.random.default_rng((self._seed, _ORDER, number, epoch))
            order, met = spread_order(group.sequences, group.frames, group.gaps, self.batch, rng)
            if met and place.group not in self._told:
                self._told.add(place.group)
                _log.warning(
                    "%s: %d of %d items of an epoch share a batch with a neighbour of their recording, a false "
                    "negative: there are too few recordings for batches of %d",
                    place.group, met, len(order), self.batch,
                )  # fmt: skip
            kept = self._orders[place.group] = (epoch, order)
        return kept[1][index * self.batch : (index + 1) * self.batch]

    def load(
        self, place: Place, rank: int = 0, world: int = 1, also: Sequence[str] = ()
    ) -> tuple[list[LoadedView], list[str]]:
        """This rank's contiguous share of a step.

        An item that is damaged is stood in for by another of the group, drawn by (seed, step, its place in the batch).

        Args:
            place: which step.
            rank, world: which share.
            also: modalities to load of the items that have them, beside what the group needs.

        Returns:
            The views, and what was damaged, in words.

        Raises:
            DamagedDataError: dozens of stand-ins were damaged too.
        """
        rows = self.rows(place)
        share = self.batch // world
        views, damage = [], []
        for slot in range(rank * share, (rank + 1) * share):
            row = int(rows[slot])
            for attempt in range(_ATTEMPTS + 1):
                try:
                    views.append(self._view(place, row, also))
                    break
                except ItemError as error:
                    damage.append(str(error))
                    if attempt == _ATTEMPTS:
                        raise DamagedDataError(f"{_ATTEMPTS} items in turn can't be read; the last: {error}") from None
                    row = self._stand_in(place, slot, attempt, rows)
        return views, damage

    def _gather(self, modalities: tuple[str, ...]) -> _Group:
        keys, sequences, frames, gaps = [], [], [], []
        numbers: dict[tuple[int, str], int] = {}
        for which, source in enumerate(self._sources):
            for item in range(len(source)):
                if not set(modalities) <= set(source.modalities(item)):
                    continue
                moment = source.moment(item)
                keys.append(int(self._starts[which]) + item)
                sequences.append(numbers.setdefault((which, moment.sequence), len(numbers)))
                frames.append(-1 if moment.frame is None else moment.frame)
                gaps.append(source.frame_gap)
        arrays = (np.array(values, np.int64) for values in (keys, sequences, frames, gaps))
        return _Group(modalities, *arrays)

    def _stand_in(self, place: Place, slot: int, attempt: int, rows: np.ndarray) -> int:
        rng = np.random.default_rng((self._seed, _STAND_IN, place.step, slot, attempt))
        others = np.setdiff1d(np.arange(self.length(place.group)), rows)
        return int(rng.choice(others if len(others) else np.arange(self.length(place.group))))

    def _view(self, place: Place, row: int, also: Sequence[str]) -> LoadedView:
        group = self._groups[place.group]
        key = int(group.keys[row])
        which = int(np.searchsorted(self._starts, key, side="right")) - 1
        source, item = self._sources[which], key - int(self._starts[which])
        extra = [m for m in source.modalities(item) if m in also and m not in group.modalities]
        loaded = source.load(item, (*group.modalities, *extra))
        if self._views.count:
            number = place.nth // self.batches(place.group) % self._views.count
            rng = np.random.default_rng((self._seed, _VIEW, key, number))
            key = key * self._views.count + number
        else:
            rng = np.random.default_rng((self._seed, _VIEW, place.step, key))
        return LoadedView(take_view(loaded, self._views, self._side, rng), loaded.name, key)


class DamageReport:
    """Counts damaged items, names each once, and stops the run when there are too many.

    Attributes:
        found: what was damaged, in words, in the order found.
    """

    def __init__(self, items: int, most: float) -> None:
        """
        Args:
            items: how many there are in all.
            most: the share of them that may be damaged, 0..1.
        """
        self._items, self._most = items, most
        self.found: dict[str, None] = {}

    def add(self, damage: Sequence[str]) -> None:
        """
        Raises:
            DamagedDataError: more than the stated share of all items is damaged.
        """
        for text in damage:
            if text not in self.found:
                self.found[text] = None
                _log.warning("left out (%d so far): %s", len(self.found), text)
        if len(self.found) > self._most * self._items:
            names = "; ".join(list(self.found)[:5])
            raise DamagedDataError(
                f"{len(self.found)} of {self._items} items can't be read, more than the {self._most:.1%} that this run "
                f"bears: {names}. Repair or remove them, or raise max_damaged"
            )
