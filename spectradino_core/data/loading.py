"""Batches made ahead by other processes, on machines as they are: little shared memory, and workers that die.

PyTorch hands tensors from process to process in /dev/shm, of which a container has 64 MB unless told otherwise. A batch
that finds no room there is lost on a thread of the worker, and the training waits for it for ever. Here a worker takes
the room itself, and sends what finds none through the pipe, which costs a copy. A worker that dies, or sends nothing
for long, ends the run with the reason.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spectradino_core.data.transfer import map_tensors
from spectradino_core.files import is_disk_full

__all__ = ["Loader", "WorkerError"]

log = logging.getLogger(__name__)

Batch = TypeVar("Batch")

_SHARED_MEMORY = "/dev/shm"
_PATIENCE_S = 900.0
"""Longer than any batch takes, also from a sleeping disk; a run that hangs for a night is worse than one that ends."""


class WorkerError(RuntimeError):
    """A process that made batches died or fell silent; the message gives the reason and a remedy."""


class Loader(Generic[Batch]):
    """The batches of a dataset in order.

    Args:
        dataset: index to batch.
        workers: processes that make batches ahead; 0: this one makes them when asked.
        order: the indices; None: 0 to `len(dataset) - 1`.
        patience_s: how long a batch may take before the run is ended.
        pin: batches in page-locked memory, for a GPU; batches have a method `pin_memory`.

    A run iterates once, over all of its steps, so its workers live as long as it does.
    """

    def __init__(
        self,
        dataset: Any,
        workers: int,
        order: Iterable[Any] | None = None,
        patience_s: float = _PATIENCE_S,
        pin: bool = False,
    ) -> None:
        self._dataset, self._workers, self._order, self._patience_s = dataset, workers, order, patience_s
        self._pin = pin

    def __len__(self) -> int:
        return len(self._dataset if self._order is None else self._order)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        """
        Raises:
            WorkerError: a worker died, or sent nothing for `patience_s`.
        """
        batches, is_reported = self._started(), False
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise _explained(error, self._patience_s) or error from None
            if isinstance(batch, _Packed):
                if not is_reported:
                    log.warning(
                        "%s is too small for batches of %.0f MB (%s): they come through pipes, which is slower; in "
                        "Docker give --shm-size=8g",
                        _SHARED_MEMORY, len(batch.content) / 1e6, _room(),
                    )  # fmt: skip
                    is_reported = True
                batch = pickle.loads(batch.content)  # noqa: S301 - from a process of our own
                if self._pin:  # the loader saw bytes
                    batch = map_tensors(batch, Tensor.pin_memory)
            yield batch

    def _started(self) -> Iterator[Any]:
        try:
            return iter(self._loader(self._workers))
        except OSError as error:
            if not self._workers or not is_disk_full(error, Path(_SHARED_MEMORY)):
                raise
            # Locks and queues of processes lie there too.
            line = "%s is full (%s): this process makes its batches itself, which is slower"
            log.warning(line, _SHARED_MEMORY, _room())
            return iter(self._loader(0))

    def _loader(self, workers: int) -> DataLoader:
        return DataLoader(
            _Packing(self._dataset) if workers else self._dataset,
            batch_size=None,
            sampler=self._order,
            num_workers=workers,
            worker_init_fn=_quiet_worker,
            timeout=self._patience_s if workers else 0,
            pin_memory=self._pin,
        )


@dataclass
class _Packed:
    """A batch that found no room in shared memory."""

    content: bytes


class _Packing(Dataset):
    """The dataset as a worker has it: its batches in shared memory, or packed."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        batch = self._dataset[index]
        try:
            map_tensors(batch, Tensor.share_memory_)
        except (RuntimeError, OSError):  # no room, or no file descriptors left
            return _Packed(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL))
        return batch


def _explained(error: RuntimeError, patience_s: float) -> WorkerError | None:
    """PyTorch's error about its workers, explained; None for errors that a dataset raised."""
    signalled = error.__cause__ if isinstance(error.__cause__, RuntimeError) else error  # names the signal
    text = " ".join(str(signalled).split())
    if text.startswith("DataLoader timed out"):
        return WorkerError(
            f"the processes that make batches sent nothing for {patience_s:.0f} s: look at the disk or network that "
            "the data come from, or try --workers 0"
        )
    if not text.startswith("DataLoader worker"):
        return None
    reason = re.sub(r"^DataLoader worker \(pid.*?\d\) ", "", text).partition(". ")[0].rstrip(".")
    if "Killed" in reason:
        reason += " (the system ends processes when memory is full: fewer --workers, or a smaller --batch)"
    elif "Bus error" in reason:
        reason += f" ({_SHARED_MEMORY} is full, {_room()}: in Docker give --shm-size=8g)"
    return WorkerError(f"a process that makes batches ended, it {reason}; --workers 0 shows errors of the data")


def _room() -> str:
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except OSError as error:
        return str(error.strerror)
    return f"{found.f_bavail * found.f_frsize / 1e6:.0f} of {found.f_blocks * found.f_frsize / 1e6:.0f} MB free"


def _quiet_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the training process has the cores; a worker that spreads only slows it down
    torch.set_num_threads(1)
