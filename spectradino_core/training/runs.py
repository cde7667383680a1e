"""What training runs share: options of pretraining, `recipe.json` and its check, and the record of every step."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectradino_core import __version__
from spectradino_core.data.sampling import AdaptiveBands, BandSampling, RoundRobin
from spectradino_core.data.views import ViewOptions
from spectradino_core.files import make_folder, parse_json, write_file
from spectradino_core.training.checkpoints import ResumeError, Stateful
from spectradino_core.training.distributed import DistEnv, mean_over_processes
from spectradino_core.training.loop import LoopOptions
from spectradino_core.training.train_logger import RecentMeans

log = logging.getLogger(__name__)

_DATA = ("manifest", "scenes", "bands", "maps")
_LENGTH = ("steps", "epochs", "batch", *_DATA)
_OPTIONS = {
    "base": ("base",),
    "checkpoint_every": ("checkpoint-every", *_LENGTH),
    "data": _DATA,
    "queue": _DATA,
    "recipe.colourise": ("no-palette",),
    "recipe.dense": ("no-dense",),
    "recipe.depth_range_m": ("depth-range",),
    "recipe.alpha_max": ("alpha-max",),
    "recipe.lr": ("lr",),
    "recipe.weights.infrared": ("infrared-alignment",),
    "recipe.weights.rgb": ("rgb-distillation",),
    "steps": _LENGTH,
    "teacher_hash": ("teacher",),
    "validation_data": ("val-manifest", "val-scenes", "bands"),
}
"""Options that change an entry, first the one to name; an entry not listed here has its option's name."""

_FORMER = {
    "kept_scale": "cached_scale",
    "largest_alpha": "alpha_max",
    "least_visible": "min_visible",
    "parts": "grad_accum",
    "rate": "lr",
    "rates": "lr",
    "scene_share": "scene_fraction",
    "taps": "out_indices",
}
"""Current names of a recipe's settings by those in `recipe.json` of earlier versions."""

_NOT_COMPARED = ("changes", "groups", "sources", "system", "teacher", "validation")
_FREE = ("processes", "spectradino", "torch")
"""Recorded if they change, but not refused."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a pretraining run that are not part of its recipe; none is from the paper.

    Attributes:
        folder: folder of the run.
        start: weights to start from, see the run.
        steps: optimiser steps, of each stage; None: the recipe's.
        device: "auto", "cpu" or "cuda".
        amp: "bf16", "fp16" or "fp32".
        workers: data loading processes per training process.
        views: how views are drawn.
        adaptive: choose bands or groups by their loss instead of round robin. Ours.
        max_damaged: maximum fraction of items that may be unreadable.
        seed: seed of weights, views, blending and sampled positions.
        checkpoint_every: steps between checkpoints; None: one epoch.
        log_every: steps between log rows, which hold the mean losses since the previous row.
        keep: number of checkpoints to keep.
        tensorboard: also log to TensorBoard.
        override: names of options that may differ from those with which a run that resumes was started.
    """

    folder: Path
    start: Path | None = None
    steps: int | None = None
    device: str = "auto"
    amp: str = "bf16"
    workers: int = 2
    views: ViewOptions = field(default_factory=ViewOptions)
    adaptive: bool = False
    max_damaged: float = 0.01
    seed: int = 0
    checkpoint_every: int | None = None
    log_every: int = 20
    keep: int = 2
    tensorboard: bool = False
    override: tuple[str, ...] = ()

    def loop(self, steps: int, checkpoint_every: int, warmup: float, clip: float, ema: float = 0.0) -> LoopOptions:
        """Return the options of the loop; `warmup` is a fraction of the steps."""
        return LoopOptions(
            steps, round(warmup * steps), clip=clip, ema=ema, amp=self.amp, checkpoint_every=checkpoint_every,
            log_every=self.log_every, keep=self.keep, tensorboard=self.tensorboard,
        )  # fmt: skip


class StepRecorder:
    """Choose the band or group of each step, and pass its losses to that choice and to the means of the log."""

    def __init__(self, groups: Sequence[str], steps: int, options: RunOptions) -> None:
        self._adaptive = options.adaptive
        self.sampling: BandSampling = AdaptiveBands(groups, options.seed) if options.adaptive else RoundRobin(groups)
        self._recent = RecentMeans(options.log_every, steps)
        self.stateful: dict[str, Stateful] = {"sampling": self.sampling, "recent": self._recent}

    def after_step(self, step: int, losses: dict[str, Tensor]) -> None:
        group = self.sampling.select(step)[0]
        if self._adaptive:
            self.sampling.record(step, group, mean_over_processes({"total": losses["total"]})["total"])
        self._recent.after_step(step, group, losses)


def record_run(folder: Path, content: Mapping[str, Any], step: int, override: Sequence[str]) -> None:
    """Write `recipe.json` of a run that starts, or check and update that of one that resumes; see `resumed_record`.

    Args:
        content: everything that decides the result of the run.
    """
    env = DistEnv.current()
    versions = {"processes": env.world, "spectradino": __version__, "torch": torch.__version__}
    record = resumed_record(folder, {**content, **versions}, step, override)
    env.wait()  # all have read it
    if env.first:
        write_record(folder, record)


def resumed_record(folder: Path, content: Mapping[str, Any], step: int, override: Sequence[str]) -> dict[str, Any]:
    """Return the content of `recipe.json`; of a run that resumes with the changes that `override` allows.

    Args:
        folder: folder of the run.
        content: the record of the run as it would start now.
        step: step from which the run resumes; 0: a new run.
        override: names of options, without dashes, that may differ from the run's.

    Raises:
        ResumeError: options differ that are not in `override`.
        ValueError: `override` names no option.
    """
    record: dict[str, Any] = json.loads(json.dumps(content))  # as it is read again: tuples are lists
    now = _entries(record)
    unknown = sorted(set(override) - {name for entry in now for name in _names(entry)})
    if unknown:
        known = sorted({name for entry in now for name in _names(entry) if entry not in _FREE})
        raise ValueError(f"--override {unknown[0]}: no such option of a run; choose from {', '.join(known)}")
    path = folder / "recipe.json"
    if not step or not path.is_file():
        return record
    stored = parse_json(path.read_text(encoding="utf-8"), str(path))
    if "recipe" in stored:
        stored["recipe"] = with_current_names(stored["recipe"])
    # A loss that an earlier version did not know had no weight.
    then = {entry: 0.0 for entry in now if entry.startswith("recipe.weights.")} | _entries(stored)
    changed = changed_entries(then, now)
    refused = [entry for entry in changed if entry not in _FREE and not set(_names(entry)) & set(override)]
    if refused:
        names = dict.fromkeys(_names(entry)[0] for entry in refused)
        raise ResumeError(
            f"{folder} was started with other options: {describe_changes(refused, then, now)}. Give the former ones, "
            f"start in a new folder (--out), or accept the change: --override {' '.join(names)}"
        )
    changes = list(stored.get("changes", []))
    for entry in changed:
        changes.append({"step": step, "name": entry, "from": then[entry], "to": now[entry]})
        texts = _short(then[entry]), _short(now[entry])
        log.warning("%s: %s changes at step %d from %s to %s", folder, entry, step, *texts)
    return {**stored, **record, **({"changes": changes} if changes else {})}


def changed_entries(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of the entries that both records have and whose values differ."""
    return [entry for entry in now if entry in then and _differs(then[entry], now[entry])]


def describe_changes(entries: Sequence[str], then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return e.g. 'lr 0.001 (now 0.01); seed 0 (now 1)'."""
    return "; ".join(
        f"{entry.removeprefix('recipe.')} {_short(then[entry])} (now {_short(now[entry])})" for entry in entries
    )


def with_current_names(recipe: Any) -> Any:
    """Return a stored recipe with the current names of its settings."""
    if not isinstance(recipe, dict):
        return recipe
    return {_FORMER.get(name, name): with_current_names(value) for name, value in recipe.items()}


def write_record(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `recipe.json`."""
    make_folder(folder)
    write_file(folder / "recipe.json", json.dumps(content, indent=2, default=str) + "\n")


def _entries(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the compared entries by name; those of the recipe each for itself."""
    out: dict[str, Any] = {}
    for name, value in content.items():
        if name == "recipe":
            weights = value.get("weights", {})
            out |= {f"recipe.{key}": one for key, one in value.items() if key != "weights"}
            out |= {f"recipe.weights.{key}": one for key, one in weights.items()}
        elif name not in _NOT_COMPARED:
            out[name] = value
    return out


def _names(entry: str) -> tuple[str, ...]:
    return _OPTIONS.get(entry, (entry.rsplit(".", 1)[-1].replace("_", "-"),))


def _differs(a: Any, b: Any) -> bool:
    """Compare values; of settings with several fields, those that both versions of the package have."""
    if isinstance(a, dict) and isinstance(b, dict):
        return any(_differs(a[key], b[key]) for key in a.keys() & b.keys())
    return bool(a != b)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
