"""What a run can be taken up from: folders that are whole or not there.

`<run>/checkpoints/step-00000500/` holds `weights.safetensors`, `average.safetensors` (where a moving average is kept)
and `state.pt`: the step, the optimiser, the loss scaler, the random generators and whatever else the task keeps (the
teacher queue, the band sampling). The sampler's position is the step. A folder is written under another name and
renamed; the last few are kept. With sharded parameters every process writes its own `state-<rank>.pt`.

Runs of earlier versions have one file, `<run>/resume.pt`; it is read where there is no folder.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spectradino_core.files import is_disk_full, write_error
from spectradino_core.training.distributed import DistEnv, full_state, is_sharded, load_full_state

__all__ = ["Checkpoints", "ResumeError", "Stateful", "resume_step"]

_FORMAT = "spectradino-run/2"


class ResumeError(ValueError):
    """A checkpoint can't be taken up; the message says which and what to do."""


class Stateful(Protocol):
    """Anything with a state to keep: modules, samplings."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


def resume_step(folder: Path) -> int:
    """The step that a run in `folder` would go on from; 0 for a new one."""
    newest = Checkpoints(folder).newest()
    if newest is not None:
        return int(newest.name.removeprefix("step-"))
    old = folder / "resume.pt"
    return int(torch.load(old, map_location="cpu", weights_only=True)["step"]) if old.is_file() else 0


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: of the run.
        keep: how many to keep, the newest.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._run, self._folder, self._keep = folder, folder / "checkpoints", max(1, keep)

    def newest(self) -> Path | None:
        """The folder of the newest checkpoint."""
        return max(self._all(), default=None)

    def save(
        self,
        step: int,
        model: nn.Module,
        average: nn.Module | None,
        optimiser: torch.optim.Optimizer,
        others: Mapping[str, Stateful],
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Writes a checkpoint and removes the oldest. All processes of a run call it.

        `weights` is the model's `full_state` where the caller has it; None: it is gathered here.

        Raises:
            OSError: it could not be written (a full disk); the one before is untouched.
        """
        place, sharded = DistEnv.current(), is_sharded(model)
        path = self._folder / f"step-{step:08d}"
        scratch = self._folder / f".{path.name}.part"
        if weights is None:
            weights = full_state(model)  # with sharded parameters all processes take part
        try:
            if place.first:
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir(parents=True)
                _save_tensors(scratch / "weights.safetensors", weights)
                if average is not None:
                    _save_tensors(scratch / "average.safetensors", full_state(average))
            place.wait()
            if place.first or sharded:
                state = {
                    "format": _FORMAT,
                    "step": step,
                    "world": place.world if sharded else None,
                    "optimiser": optimiser.state_dict(),
                    "others": {name: other.state_dict() for name, other in others.items()},
                    "random": _random_state(),
                }
                _save_state(scratch / _state_name(place, sharded), state)
            place.wait()
            if place.first:
                if path.exists():  # the same step again, e.g. a finished run with the same number of steps
                    shutil.rmtree(path)
                os.replace(scratch, path)
                _sync_folder(self._folder)
                for old in sorted(self._all())[: -self._keep]:
                    shutil.rmtree(old)
        except (OSError, RuntimeError, SafetensorError) as error:
            needed = sum(value.nbytes for value in model.state_dict().values()) * (3 if average is None else 4)
            if isinstance(error, OSError) or is_disk_full(error, self._folder):
                raise write_error(path, error, needed) from error
            raise
        finally:
            if place.first:
                shutil.rmtree(scratch, ignore_errors=True)
        place.wait()

    def load(
        self,
        model: nn.Module,
        average: nn.Module | None,
        optimiser: torch.optim.Optimizer,
        others: Mapping[str, Stateful],
    ) -> int:
        """Takes up the newest checkpoint; returns its step, 0 where there is none.

        Raises:
            ResumeError: it is damaged, or of another run.
        """
        path = self.newest()
        if path is None:
            old = self._run / "resume.pt"
            return _load_old(old, model, average, optimiser) if old.is_file() else 0
        place, sharded = DistEnv.current(), is_sharded(model)
        try:
            state = torch.load(path / _state_name(place, sharded), map_location="cpu", weights_only=True)
            weights = load_file(path / "weights.safetensors")
            averaged = load_file(path / "average.safetensors") if average is not None else None
        except FileNotFoundError as error:
            raise ResumeError(
                f"{path} lacks {Path(error.filename or str(error)).name}: it was made with other options, or with "
                "another number of processes for sharded parameters. Run as before, or start in a new folder"
            ) from None
        except (OSError, RuntimeError, SafetensorError, EOFError, ValueError, UnpicklingError) as error:
            raise ResumeError(
                f"{path} is damaged ({error}): delete that folder, and the run goes on from the one before"
            ) from error
        if sharded and state["world"] != place.world:
            raise ResumeError(f"{path} is of {state['world']} processes, this run has {place.world}: use as many")
        try:
            load_full_state(model, weights)
            if average is not None and averaged is not None:
                load_full_state(average, averaged)
            optimiser.load_state_dict(state["optimiser"])
            for name, other in others.items():
                other.load_state_dict(state["others"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ResumeError(
                f"{path} is of another run than this one ({error}): give another folder, or delete it"
            ) from error
        _restore_random(state["random"])
        return int(state["step"])

    def _all(self) -> list[Path]:
        return [path for path in self._folder.glob("step-*") if path.is_dir()]


def _state_name(place: DistEnv, sharded: bool) -> str:
    return f"state-{place.rank}.pt" if sharded else "state.pt"


def _load_old(path: Path, model: nn.Module, average: nn.Module | None, optimiser: torch.optim.Optimizer) -> int:
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    if average is not None and state["average"] is not None:
        average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise write_error(path, error) from error
    path.chmod(0o644)  # it makes files that only their owner may read
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _save_state(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            raise write_error(path, error) from error
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes renames inside it last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _random_state() -> dict[str, Any]:
    """The process-wide generators. Our own draws are functions of (seed, step); layers such as dropout use these."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - to keep, not to draw
    version, words, gaussian = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(words), gaussian],
    }


def _restore_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, words, gaussian = state["python"]
    random.setstate((version, tuple(words), gaussian))
