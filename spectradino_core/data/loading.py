"""Data loading in worker processes that tolerates little shared memory and reports dead workers.

PyTorch passes tensors between processes in /dev/shm, of which a container has 64 MB by default. A batch that does not
fit is lost in a thread of the worker, and training waits for it forever. Here the worker allocates the shared memory
itself, and sends batches that do not fit through the pipe at the cost of a copy. A worker that dies or sends nothing
for a long time ends the run with an error that gives the reason.
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

log = logging.getLogger(__name__)

Batch = TypeVar("Batch")

_SHARED_MEMORY = "/dev/shm"
_TIMEOUT_S = 900.0
"""Longer than any batch takes, even from a sleeping disk."""


class WorkerError(RuntimeError):
    """A data loading process died or timed out; the message gives the reason and a remedy."""


class Loader(Generic[Batch]):
    """Loads the batches of a dataset in order, once: its workers live as long as the run.

    Args:
        dataset: maps an index to a batch.
        workers: data loading processes; 0: load in this process.
        order: indices; None: 0 to `len(dataset) - 1`.
        timeout_s: maximum time for a batch before the run ends.
        pin: batches in page-locked memory, for a GPU; requires a method `pin_memory` of batches.
    """

    def __init__(
        self,
        dataset: Any,
        workers: int,
        order: Iterable[Any] | None = None,
        timeout_s: float = _TIMEOUT_S,
        pin: bool = False,
    ) -> None:
        self._dataset, self._workers, self._order, self._timeout_s = dataset, workers, order, timeout_s
        self._pin = pin

    def __len__(self) -> int:
        return len(self._dataset if self._order is None else self._order)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; raises WorkerError if a worker died or sent nothing for `timeout_s`."""
        batches, is_reported = self._start(), False
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise _explain(error, self._timeout_s) or error from None
            if isinstance(batch, _Packed):
                if not is_reported:
                    log.warning(
                        "%s is too small for batches of %.0f MB (%s): they are sent through pipes, which is slower; in "
                        "Docker give --shm-size=8g",
                        _SHARED_MEMORY, len(batch.content) / 1e6, _free_space(),
                    )  # fmt: skip
                    is_reported = True
                batch = pickle.loads(batch.content)  # noqa: S301 - from our own worker
                if self._pin:  # the DataLoader could not pin packed bytes
                    batch = map_tensors(batch, Tensor.pin_memory)
            yield batch

    def _start(self) -> Iterator[Any]:
        try:
            return iter(self._loader(self._workers))
        except OSError as error:
            if not self._workers or not is_disk_full(error, Path(_SHARED_MEMORY)):
                raise
            # Locks and queues between processes need shared memory too.
            message = (
                "%s is full (%s): batches are loaded without workers, which is slower; in Docker give --shm-size=8g"
            )
            log.warning(message, _SHARED_MEMORY, _free_space())
            return iter(self._loader(0))

    def _loader(self, workers: int) -> DataLoader:
        return DataLoader(
            _Packing(self._dataset) if workers else self._dataset,
            batch_size=None,
            sampler=self._order,
            num_workers=workers,
            worker_init_fn=_quiet_worker,
            timeout=self._timeout_s if workers else 0,
            pin_memory=self._pin,
        )


@dataclass
class _Packed:
    content: bytes


class _Packing(Dataset):
    """Dataset in a worker: moves batches to shared memory, or packs them if they do not fit."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        batch = self._dataset[index]
        try:
            map_tensors(batch, Tensor.share_memory_)
        except (RuntimeError, OSError):  # no space, or no file descriptors left
            return _Packed(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL))
        return batch


def _explain(error: RuntimeError, timeout_s: float) -> WorkerError | None:
    """Convert PyTorch's error about a worker; None for an error that the dataset raised."""
    signalled = error.__cause__ if isinstance(error.__cause__, RuntimeError) else error  # names the signal
    text = " ".join(str(signalled).split())
    if text.startswith("DataLoader timed out"):
        return WorkerError(
            f"the data loading processes sent nothing for {timeout_s:.0f} s: check the disk or network of the data, or "
            "try --workers 0"
        )
    if not text.startswith("DataLoader worker"):
        return None
    reason = re.sub(r"^DataLoader worker \(pid.*?\d\) ", "", text).partition(". ")[0].rstrip(".")
    if "Killed" in reason:
        reason += " (probably out of memory: use fewer --workers or a smaller --batch)"
    elif "Bus error" in reason:
        reason += f" ({_SHARED_MEMORY} is full, {_free_space()}: in Docker give --shm-size=8g)"
    return WorkerError(f"a data loading process ended, it {reason}; --workers 0 shows errors of the data")


def _free_space() -> str:
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except OSError as error:
        return str(error.strerror)
    return f"{found.f_bavail * found.f_frsize / 1e6:.0f} of {found.f_blocks * found.f_frsize / 1e6:.0f} MB free"


def _quiet_worker(_: int) -> None:
    cv2.setNumThreads(0)  # threads of workers would compete with the training process for the cores
    torch.set_num_threads(1)
