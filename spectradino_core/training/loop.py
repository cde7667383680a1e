"""The one training loop: batches in, a trained module out.

What a step computes is the task's business (`finetune.py`, `pretrain.py`, `omnivorous.py`); this file holds what every
training shares: the schedule, mixed precision, clipping, the moving average of the weights, the log, and checkpoints to
resume from. It runs alike in one process and in many (`distributed.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from spectradino_core.training.checkpoints import Checkpoints, Stateful, resume_step
from spectradino_core.training.distributed import DistEnv, WholeState, is_sharded, mean_over_processes
from spectradino_core.training.train_logger import TrainLogger

__all__ = ["LoopOptions", "LossWatch", "NonFiniteLossError", "learning_rate", "resume_step", "train", "training_step"]

Model = TypeVar("Model", bound=nn.Module)

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16, "auto": None}


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
        amp: "bf16", "fp16" (with a loss scaler), "fp32", or "auto": bf16 where the device computes in it, else fp32.
            A CPU without bf16 instructions emulates them: twice slower than fp32.
        checkpoint_every: steps between checkpoints.
        log_every: steps between log lines.
        keep: checkpoints to keep, the newest.
        tensorboard: log to TensorBoard too.
        parts: gradient accumulation: a batch goes through in so many parts, each backward before the next, and one step
            follows. Batches must then have `split(parts)`, and each part's loss be its share of the batch's.
    """

    steps: int
    warmup: int = 200
    final: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    amp: str = "bf16"
    checkpoint_every: int = 500
    log_every: int = 20
    keep: int = 2
    tensorboard: bool = False
    parts: int = 1

    def __post_init__(self) -> None:
        if self.amp not in _PRECISIONS:
            raise ValueError(f"unknown precision {self.amp!r}: choose one of {', '.join(_PRECISIONS)}")
        if min(self.steps, self.checkpoint_every, self.log_every, self.keep, self.parts) < 1:
            raise ValueError("steps, checkpoint_every, log_every, keep and parts must be at least 1")


def learning_rate(step: int, options: LoopOptions) -> float:
    """The share of the peak learning rate at `step` (0-based): linear warm-up, then cosine."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    progress = (step - options.warmup) / max(1, options.steps - options.warmup)
    return options.final + (1 - options.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(
    model: Model,
    loss_of: Callable[[Any, Any], dict[str, Tensor]],
    batches: Iterable[Any],
    optimiser: torch.optim.Optimizer,
    options: LoopOptions,
    folder: Path,
    device: torch.device,
    every: Callable[[int, Model], dict[str, float]] | None = None,
    *,
    runner: nn.Module | None = None,
    after_step: Callable[[int, Any, dict[str, Tensor]], None] | None = None,
    stateful: Mapping[str, Stateful] | None = None,
    whole: WholeState | None = None,
) -> Model:
    """Trains `model` and returns what is to be kept: its moving average, or itself where there is none.

    Args:
        model: the module, on `device`.
        loss_of: (runner, batch on device) to named scalars, of which "total" is minimised and all are logged.
        batches: those of the steps still to do (`resume_step` tells from where), each with a `.to(device)`.
        optimiser: with each group's peak learning rate in "lr".
        folder: gets `log.jsonl` and `checkpoints/`; the newest checkpoint that is there is taken up.
        every: called before each checkpoint with (step, module to keep); what it returns is logged.
        runner: what `loss_of` is called with: the model as this process runs it (see `distributed.spread`).
        after_step: called after each optimiser step with (its number from 0, batch, losses).
        stateful: what the task keeps between steps, by name; saved and taken up with the model.
        whole: of the model, for callers that write it too: at a step it is gathered once.

    Raises:
        NonFiniteLossError: names the step.
        OSError: a checkpoint could not be written; the one before is still whole.
        ResumeError: the checkpoint in `folder` is damaged or of another run.
    """
    place = DistEnv.current()
    folder.mkdir(parents=True, exist_ok=True)
    if options.ema and is_sharded(model):
        raise ValueError("a moving average needs the whole model on each process: use ema=0 with fsdp")
    runner = model if runner is None else runner
    average = deepcopy(model).requires_grad_(False) if options.ema else None
    peaks = [group["lr"] for group in optimiser.param_groups]
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
    kept_state = {"scaler": scaler, **(stateful or {})}
    checkpoints = Checkpoints(folder, options.keep)
    whole = WholeState(model) if whole is None else whole
    step = checkpoints.load(model, average, optimiser, kept_state)
    logger = TrainLogger(folder, step, options.tensorboard, silent=not place.first)
    started, first = time.monotonic(), step
    watch = LossWatch(device, step, folder / "checkpoints")
    bar = tqdm(
        total=options.steps, initial=step, unit="step", dynamic_ncols=True, mininterval=1.0, disable=not place.first
    )

    model.train()
    for batch in batches:
        share = learning_rate(step, options)
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * share
        batch = batch.to(device)
        losses = training_step(model, runner, loss_of, batch, optimiser, options, device, scaler, watch)
        if after_step is not None:
            after_step(step, batch, losses)
        step += 1
        if average is not None:
            _follow(average, model, min(options.ema, (1 + step) / (10 + step)))
        bar.update()

        last = step == options.steps
        if step % options.log_every == 0 or step % options.checkpoint_every == 0 or last:
            watch.check()
        if step % options.log_every == 0 or last:
            row = {name: float(f"{value:.9g}") for name, value in mean_over_processes(losses).items()}
            bar.set_postfix({"loss": f"{row['total']:.3f}"}, refresh=False)
            rate = (step - first) / (time.monotonic() - started)
            logger.write({"step": step, "lr": peaks[0] * share, "steps_per_s": round(rate, 3)} | row)
        if step % options.checkpoint_every == 0 or last:
            if every is not None:
                kept = model if average is None else average
                kept.eval()
                logger.write({"step": step} | every(step, kept))
                model.train()
            checkpoints.save(step, model, average, optimiser, kept_state, whole.at(step))
            if not last:  # what a run ends with is often written once more
                whole.forget()
    bar.close()
    logger.close()
    return (model if average is None else average).eval()


class LossWatch:
    """Notices the first loss that is not finite.

    On a GPU the loss is read when `check` is called, not at every step: the host would wait for the device each time.
    The steps in between are lost then; a checkpoint is written behind a check only.
    """

    _NEVER = 1 << 62

    def __init__(self, device: torch.device, step: int = 0, checkpoints: Path | None = None) -> None:
        """
        Args:
            device: of the losses.
            step: the first one to come.
            checkpoints: named in the error.
        """
        self._at_once = device.type == "cpu"
        self._step = torch.tensor(step, device=device)
        self._bad = torch.tensor(self._NEVER, device=device)
        self._checkpoints = checkpoints

    def see(self, total: Tensor) -> None:
        """Notes the loss of the present step, or of a part of it.

        Raises:
            NonFiniteLossError: it is not finite; on a CPU only.
        """
        bad = torch.where(torch.isfinite(total.detach()), self._NEVER, self._step)
        self._bad = torch.minimum(self._bad, bad)
        if self._at_once:
            self.check()

    def next(self) -> None:
        """Goes on to the next step."""
        self._step += 1

    def check(self) -> None:
        """
        Raises:
            NonFiniteLossError: names the first step whose loss was not finite.
        """
        step = int(self._bad)
        if step < self._NEVER:
            good = f"; {self._checkpoints} holds the last good state" if self._checkpoints is not None else ""
            raise NonFiniteLossError(f"the loss is not finite at step {step}: lower the learning rate{good}")


def training_step(
    model: nn.Module,
    runner: nn.Module,
    loss_of: Callable[[Any, Any], dict[str, Tensor]],
    batch: Any,
    optimiser: torch.optim.Optimizer,
    options: LoopOptions,
    device: torch.device,
    scaler: torch.amp.GradScaler | None = None,
    watch: LossWatch | None = None,
) -> dict[str, Tensor]:
    """One optimiser step: losses, gradients, clipping. `bench` times this very function.

    Args:
        model, runner, loss_of, optimiser, options, device: as of `train`.
        batch: on the device.
        scaler: of the loss, for fp16; None: none.
        watch: for losses that are not finite; None: they are not looked at.

    Returns:
        The batch's losses by name, detached, and "gradient", the norm before clipping.
    """
    scaler = torch.amp.GradScaler(device.type, enabled=False) if scaler is None else scaler
    precision = torch.bfloat16 if options.amp == "auto" and _has_bf16(device) else _PRECISIONS[options.amp]
    optimiser.zero_grad(set_to_none=True)
    losses: dict[str, Tensor] = {}
    for part, synchronise in _parts(batch, options.parts):
        with nullcontext() if synchronise else _apart(runner):
            with torch.autocast(device.type, precision, enabled=precision is not None):
                part_losses = loss_of(runner, part)
            if watch is not None:
                watch.see(part_losses["total"])
            scaler.scale(part_losses["total"]).backward()
        detached = {name: value.detach() for name, value in part_losses.items()}
        losses = {name: losses[name] + value for name, value in detached.items()} if losses else detached
    if options.clip:
        scaler.unscale_(optimiser)
        norm = nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        losses["gradient"] = norm.full_tensor() if isinstance(norm, DTensor) else norm
    scaler.step(optimiser)
    scaler.update()
    if watch is not None:
        watch.next()
    return losses


def _has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies in bf16 faster than in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _parts(batch: Any, count: int) -> Iterator[tuple[Any, bool]]:
    """A batch's parts, and whether processes exchange gradients after each: after the last one only."""
    parts = [batch] if count == 1 else batch.split(count)
    for index, part in enumerate(parts):
        yield part, index == len(parts) - 1


def _apart(runner: nn.Module) -> AbstractContextManager:
    """Gradients stay on their process."""
    return runner.no_sync() if isinstance(runner, nn.parallel.DistributedDataParallel) else nullcontext()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves the average towards the model; buffers (BatchNorm's statistics) are copied."""
    pairs = list(zip(average.parameters(), model.parameters(), strict=True))
    torch._foreach_lerp_([a for a, _ in pairs], [m.detach() for _, m in pairs], 1 - decay)
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
