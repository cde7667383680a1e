"""Loader of pretraining batches: prefetched by workers, with damaged items counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from torch.utils.data import Dataset

from spectradino_core.data.loading import Loader
from spectradino_core.data.plan import DamageReport, LoadedView, Plan, PlanStep
from spectradino_core.data.sampling import BandSampling

__all__ = ["PretrainLoader"]

Batch = TypeVar("Batch")


class PretrainLoader(Generic[Batch]):
    """Iterable over the batches of steps `first` to `steps - 1`.

    Attributes:
        sampling: chooses the group of each step; if it is adaptive, `record` every step's loss.
        damage: items that could not be read so far.
    """

    def __init__(
        self,
        plan: Plan,
        collate: Callable[[PlanStep, list[LoadedView]], Batch],
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
            plan: items and views of each step.
            collate: makes a batch of loaded views; must be picklable for workers.
            sampling: chooses the group of each step.
            steps, first: number of steps of the run, and its first one to load.
            rank, world: this process loads the rank-th of `world` contiguous parts of every batch.
            workers: data loading processes; 0: load in this process.
            also: modalities beside those of the step's group to load of the items that have them.
            max_damaged: maximum fraction of damaged items before the run stops.
            pin: see `Loader`.

        Raises:
            ValueError: a batch that `world` does not divide.
        """
        if plan.batch % world or not 0 <= rank < world:
            raise ValueError(
                f"a batch of {plan.batch} can't be shared by {world} processes (this is rank {rank}): choose a multiple"
            )
        self.sampling = sampling
        self.damage = DamageReport(plan.items, max_damaged)
        self._dataset = _Batches(plan, collate, rank, world, also)
        self._steps, self._first, self._workers, self._pin = steps, first, workers, pin

    def __len__(self) -> int:
        return max(0, self._steps - self._first)

    def __iter__(self) -> Iterator[Batch]:
        steps = _PlanSteps(self.sampling, self._first, self._steps)
        loader: Loader[tuple[Batch, list[str]]] = Loader(self._dataset, self._workers, steps, pin=self._pin)
        for batch, damage in loader:
            self.damage.add(damage)
            yield batch


class _PlanSteps:
    """Sampler: yields the group of each step, in the training process and as far ahead as the workers prefetch."""

    def __init__(self, sampling: BandSampling, first: int, steps: int) -> None:
        self._sampling, self._first, self._steps = sampling, first, steps

    def __len__(self) -> int:
        return max(0, self._steps - self._first)

    def __iter__(self) -> Iterator[PlanStep]:
        for step in range(self._first, self._steps):
            yield PlanStep(step, *self._sampling.select(step))


class _Batches(Dataset, Generic[Batch]):
    """Dataset from a step to its batch and the damaged items."""

    def __init__(
        self,
        plan: Plan,
        collate: Callable[[PlanStep, list[LoadedView]], Batch],
        rank: int,
        world: int,
        also: Sequence[str],
    ) -> None:
        self._plan, self._collate, self._rank, self._world, self._also = plan, collate, rank, world, tuple(also)

    def __getitem__(self, step: PlanStep) -> tuple[Batch, list[str]]:
        views, damage = self._plan.load(step, self._rank, self._world, self._also)
        return self._collate(step, views), damage
