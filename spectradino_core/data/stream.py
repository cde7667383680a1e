"""Batches in order, made by this process or ahead of it by workers, with the damage they met counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from torch.utils.data import Dataset

from spectradino_core.data.loading import Loader
from spectradino_core.data.plan import DamageReport, LoadedView, Place, Plan
from spectradino_core.data.sampling import BandSampling

__all__ = ["Stream"]

Batch = TypeVar("Batch")


class Stream(Generic[Batch]):
    """An iterable over the batches of steps `first` to `steps - 1`.

    Attributes:
        sampling: decides what each step shows; its `record` wants every step's loss where it is adaptive.
        damage: what could not be read so far.
    """

    def __init__(
        self,
        plan: Plan,
        collate: Callable[[Place, list[LoadedView]], Batch],
        sampling: BandSampling,
        steps: int,
        first: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        also: Sequence[str] = (),
        max_damaged: float = 0.01,
        pin: bool = False,
    ) -> None:
        """
        Args:
            plan: what a step loads.
            collate: loaded views to a batch; must be picklable where there are workers.
            sampling: which group a step shows.
            steps, first: the run's length, and where to begin.
            rank, world: this process's contiguous share of every batch is the rank-th of `world`.
            workers: processes that make batches ahead; 0: this one makes them.
            also: modalities to load of the items that have them, beside what the step's group needs.
            max_damaged: share of all items that may be damaged before the run is refused.
            pin: see `Loader`.

        Raises:
            ValueError: a batch that `world` does not divide.
        """
        if plan.batch % world or not 0 <= rank < world:
            raise ValueError(
                f"a batch of {plan.batch} can't be shared by {world} processes (this is number {rank}): "
                "choose a multiple"
            )
        self.sampling = sampling
        self.damage = DamageReport(plan.items, max_damaged)
        self._dataset = _Batches(plan, collate, rank, world, also)
        self._steps, self._first, self._workers, self._pin = steps, first, workers, pin

    def __len__(self) -> int:
        return max(0, self._steps - self._first)

    def __iter__(self) -> Iterator[Batch]:
        places = _Places(self.sampling, self._first, self._steps)
        loader: Loader[tuple[Batch, list[str]]] = Loader(self._dataset, self._workers, places, pin=self._pin)
        for batch, damage in loader:
            self.damage.add(damage)
            yield batch


class _Places:
    """Asks the sampling what each step shows; runs in the training process, ahead of it by what the workers hold."""

    def __init__(self, sampling: BandSampling, first: int, steps: int) -> None:
        self._sampling, self._first, self._steps = sampling, first, steps

    def __len__(self) -> int:
        return max(0, self._steps - self._first)

    def __iter__(self) -> Iterator[Place]:
        for step in range(self._first, self._steps):
            yield Place(step, *self._sampling.place(step))


class _Batches(Dataset, Generic[Batch]):
    """Place to batch, and what was damaged."""

    def __init__(
        self,
        plan: Plan,
        collate: Callable[[Place, list[LoadedView]], Batch],
        rank: int,
        world: int,
        also: Sequence[str],
    ) -> None:
        self._plan, self._collate, self._rank, self._world, self._also = plan, collate, rank, world, tuple(also)

    def __getitem__(self, place: Place) -> tuple[Batch, list[str]]:
        views, damage = self._plan.load(place, self._rank, self._world, self._also)
        return self._collate(place, views), damage
