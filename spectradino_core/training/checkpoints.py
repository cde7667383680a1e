"""Atomic checkpoints for resuming a run.

`<run>/checkpoints/step-00000500/` holds `weights.safetensors`, `average.safetensors` (if a moving average is kept) and
`state.pt`: the step, the optimiser, the loss scaler, the random generators and the task's own state (teacher queue,
band sampling). A folder is written under a temporary name and renamed. With sharded parameters every process writes its
own `state-<rank>.pt`. Runs of earlier versions have one file, `<run>/resume.pt`.
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

from spectradino_core.files import is_disk_full, new_file_mode, write_error
from spectradino_core.training.distributed import DistEnv, full_state, is_sharded, load_full_state

_FORMAT = "spectradino-run/2"


class ResumeError(ValueError):
    """A run can't resume from a checkpoint; the message names it and the remedy."""


class Stateful(Protocol):
    """Object whose state is part of a checkpoint, such as a module or a sampling."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


def resume_step(folder: Path) -> int:
    """Return the step from which a run in `folder` resumes; 0 for a new run."""
    newest = Checkpoints(folder).newest()
    if newest is not None:
        return int(newest.name.removeprefix("step-"))
    old = folder / "resume.pt"
    return int(torch.load(old, map_location="cpu", weights_only=True)["step"]) if old.is_file() else 0


class Checkpoints:
    """Checkpoints of the run in `folder`, of which the newest `keep` are kept."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._run, self._folder, self._keep = folder, folder / "checkpoints", max(1, keep)

    def newest(self) -> Path | None:
        return max(self._all(), default=None)

    def save(
        self,
        step: int,
        model: nn.Module,
        average: nn.Module | None,
        optimiser: torch.optim.Optimizer,
        stateful: Mapping[str, Stateful],
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Write a checkpoint after `step` steps and remove old ones; all processes of a run must call it.

        Args:
            average: moving average of the model's weights, if any.
            stateful: further objects with a state, by name.
            weights: `full_state` of the model, if the caller has it; None: it is gathered here.

        Raises:
            OSError: the checkpoint could not be written, e.g. on a full disk; the previous one is intact.
        """
        env, sharded = DistEnv.current(), is_sharded(model)
        path = self._folder / f"step-{step:08d}"
        scratch = self._folder / f".{path.name}.part"
        if weights is None:
            weights = full_state(model)  # collective with sharded parameters, hence called by all processes
        try:
            if env.first:
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir(parents=True)
                _save_tensors(scratch / "weights.safetensors", weights)
                if average is not None:
                    _save_tensors(scratch / "average.safetensors", full_state(average))
            env.wait()
            if env.first or sharded:
                state = {
                    "format": _FORMAT,
                    "step": step,
                    "world": env.world if sharded else None,
                    "optimiser": optimiser.state_dict(),
                    "others": {name: other.state_dict() for name, other in stateful.items()},
                    "random": _random_state(),
                }
                _save_state(scratch / _state_name(env, sharded), state)
            env.wait()
            if env.first:
                if path.exists():  # e.g. a finished run that is repeated with the same number of steps
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
            if env.first:
                shutil.rmtree(scratch, ignore_errors=True)
        env.wait()

    def load(
        self,
        model: nn.Module,
        average: nn.Module | None,
        optimiser: torch.optim.Optimizer,
        stateful: Mapping[str, Stateful],
    ) -> int:
        """Load the newest checkpoint and return its step, 0 if there is none; ResumeError: damaged, of another run."""
        path = self.newest()
        if path is None:
            old = self._run / "resume.pt"
            return _load_old(old, model, average, optimiser) if old.is_file() else 0
        env, sharded = DistEnv.current(), is_sharded(model)
        try:
            state = torch.load(path / _state_name(env, sharded), map_location="cpu", weights_only=True)
            weights = load_file(path / "weights.safetensors")
            averaged = load_file(path / "average.safetensors") if average is not None else None
        except FileNotFoundError as error:
            raise ResumeError(
                f"{path} lacks {Path(error.filename or str(error)).name}: the run had other options, or another number "
                "of processes with sharded parameters. Run as before, or start in a new folder"
            ) from None
        except (OSError, RuntimeError, SafetensorError, EOFError, ValueError, UnpicklingError) as error:
            raise ResumeError(
                f"{path} is damaged ({error}): delete that folder, and the run resumes from the previous checkpoint"
            ) from error
        if sharded and state["world"] != env.world:
            raise ResumeError(
                f"{path} is of {state['world']} processes, this run has {env.world}: start {state['world']}"
            )
        try:
            load_full_state(model, weights)
            if average is not None and averaged is not None:
                load_full_state(average, averaged)
            optimiser.load_state_dict(state["optimiser"])
            for name, other in stateful.items():
                other.load_state_dict(state["others"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ResumeError(
                f"{path} belongs to another run than this one ({error}): give another folder, or delete this one"
            ) from error
        _restore_random(state["random"])
        return int(state["step"])

    def _all(self) -> list[Path]:
        return [path for path in self._folder.glob("step-*") if path.is_dir()]


def _state_name(env: DistEnv, sharded: bool) -> str:
    return f"state-{env.rank}.pt" if sharded else "state.pt"


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
    path.chmod(new_file_mode())  # safetensors makes files that only their owner may read
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
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _random_state() -> dict[str, Any]:
    """Return the state of the global generators, which layers such as dropout use; our draws use (seed, step)."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - saved, not drawn from
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
