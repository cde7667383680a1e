"""The one training loop: batches in, a trained module out.

What a step computes is the task's business (`finetune.py`); this file holds what every training shares: the schedule,
mixed precision, clipping, the moving average of the weights, the log, and a checkpoint to resume from.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from spectradino_core.files import written_atomically

__all__ = ["LoopOptions", "NonFiniteLossError", "learning_rate", "resume_step", "train"]

Model = TypeVar("Model", bound=nn.Module)


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the last checkpoint is still good."""


@dataclass(frozen=True)
class LoopOptions:
    """What every training shares.

    Attributes:
        steps: optimiser steps.
        warmup: steps over which the learning rate rises from 0.
        final: the learning rate at the end, as a share of its peak (cosine decay in between).
        clip: greatest gradient norm; 0: no clipping.
        ema: decay of the moving average of the weights; 0: none.
        amp: "bf16" or "fp32".
        checkpoint_every: steps between checkpoints.
        log_every: steps between log lines.
    """

    steps: int
    warmup: int = 200
    final: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    amp: str = "bf16"
    checkpoint_every: int = 500
    log_every: int = 20


def learning_rate(step: int, options: LoopOptions) -> float:
    """The share of the peak learning rate at `step` (0-based): linear warm-up, then cosine."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    progress = (step - options.warmup) / max(1, options.steps - options.warmup)
    return options.final + (1 - options.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(
    model: Model,
    loss_of: Callable[[Model, Any], dict[str, Tensor]],
    batches: Iterable[Any],
    optimiser: torch.optim.Optimizer,
    options: LoopOptions,
    folder: Path,
    device: torch.device,
    every: Callable[[int, Model], dict[str, float]] | None = None,
) -> Model:
    """Trains `model` and returns what is to be kept: its moving average, or itself where there is none.

    Args:
        model: the module, on `device`.
        loss_of: (model, batch on device) to named scalars, of which "total" is minimised and all are logged.
        batches: those of the steps still to do, each with a `.to(device)`.
        optimiser: with each group's peak learning rate in "lr".
        folder: gets `log.jsonl` and `resume.pt`; a `resume.pt` that is there is taken up.
        every: called at each checkpoint with (step, module to keep); what it returns is logged.

    Raises:
        NonFiniteLossError: names the step.
        OSError: a checkpoint could not be written; the one before is still whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    average = deepcopy(model).requires_grad_(False) if options.ema else None
    peaks = [group["lr"] for group in optimiser.param_groups]
    resume = folder / "resume.pt"
    step = _load(resume, model, average, optimiser) if resume.is_file() else 0
    started, first = time.monotonic(), step
    bar = tqdm(total=options.steps, initial=step, unit="step", dynamic_ncols=True, mininterval=1.0)

    model.train()
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        for batch in batches:
            share = learning_rate(step, options)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * share
            with torch.autocast(device.type, torch.bfloat16, enabled=options.amp == "bf16"):
                losses = loss_of(model, batch.to(device))
            total = losses["total"]
            if not torch.isfinite(total):
                raise NonFiniteLossError(
                    f"the loss is {total.item()} at step {step}: lower the learning rate; {resume} is the last good one"
                )
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            if options.clip:
                nn.utils.clip_grad_norm_(model.parameters(), options.clip)
            optimiser.step()
            step += 1
            if average is not None:
                _follow(average, model, min(options.ema, (1 + step) / (10 + step)))
            bar.update()

            if step % options.log_every == 0 or step == options.steps:
                row = {name: round(value.item(), 5) for name, value in losses.items()}
                bar.set_postfix({"loss": f"{row['total']:.3f}"}, refresh=False)
                rate = (step - first) / (time.monotonic() - started)
                _write(log, {"step": step, "lr": peaks[0] * share, "steps_per_s": round(rate, 3)} | row)
            if step % options.checkpoint_every == 0 or step == options.steps:
                _save(resume, model, average, optimiser, step, peaks)
                if every is not None:
                    kept = model if average is None else average
                    kept.eval()
                    _write(log, {"step": step} | every(step, kept))
                    model.train()
    bar.close()
    return (model if average is None else average).eval()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves the average towards the model; buffers (BatchNorm's statistics) are copied."""
    pairs = list(zip(average.parameters(), model.parameters(), strict=True))
    torch._foreach_lerp_([a for a, _ in pairs], [m.detach() for _, m in pairs], 1 - decay)
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)


def _save(
    path: Path,
    model: nn.Module,
    average: nn.Module | None,
    optimiser: torch.optim.Optimizer,
    step: int,
    peaks: list[float],
) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "average": None if average is None else average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "peaks": peaks,
    }
    with written_atomically(path) as scratch:
        torch.save(state, scratch)


def _load(path: Path, model: nn.Module, average: nn.Module | None, optimiser: torch.optim.Optimizer) -> int:
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    if average is not None and state["average"] is not None:
        average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def resume_step(folder: Path) -> int:
    """The step that a run in `folder` would go on from; 0 for a new one."""
    path = folder / "resume.pt"
    return int(torch.load(path, map_location="cpu", weights_only=True)["step"]) if path.is_file() else 0


def _write(log: TextIO, row: dict[str, Any]) -> None:
    log.write(json.dumps(row) + "\n")
    log.flush()
