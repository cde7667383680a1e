"""The one training loop: batches in, a trained module out.

The task defines the loss (`finetune.py`, `pretrain.py`, `omnivorous.py`). This file holds what every training run uses:
learning rate schedule, mixed precision, gradient clipping, moving average of the weights (EMA), log, and checkpoints.
One process and several run the same code (`distributed.py`).
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

from spectradino_core.files import make_folder
from spectradino_core.training.checkpoints import Checkpoints, Stateful
from spectradino_core.training.distributed import DistEnv, FullState, is_sharded, mean_over_processes
from spectradino_core.training.train_logger import TrainLogger

Model = TypeVar("Model", bound=nn.Module)

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16, "auto": None}


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the last checkpoint is still valid."""


@dataclass(frozen=True)
class LoopOptions:
    """Options of the training loop.

    Attributes:
        steps: optimiser steps.
        warmup: steps of linear learning rate warm-up.
        final: learning rate at the end as a fraction of its peak, reached by cosine decay.
        clip: maximum gradient norm; 0: no clipping.
        ema: decay of the moving average of the weights; 0: none.
        amp: "bf16", "fp16" (with a loss scaler), "fp32", or "auto": bf16 where the device computes in it, else fp32.
            A CPU without bf16 instructions emulates them at half the speed of fp32.
        checkpoint_every: steps between checkpoints.
        log_every: steps between log rows.
        keep: number of checkpoints to keep, the newest.
        tensorboard: also log to TensorBoard.
        grad_accum: gradient accumulation steps: each batch is split into this many micro-batches. Batches must then
            have `split(count)`, and the losses of the micro-batches must add up to the batch's.
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
    grad_accum: int = 1

    def __post_init__(self) -> None:
        if self.amp not in _PRECISIONS:
            raise ValueError(f"unknown precision {self.amp!r}: choose one of {', '.join(_PRECISIONS)}")
        if min(self.steps, self.checkpoint_every, self.log_every, self.keep, self.grad_accum) < 1:
            raise ValueError("steps, checkpoint_every, log_every, keep and grad_accum must be 1 or more")


def learning_rate(step: int, options: LoopOptions) -> float:
    """Return the learning rate at `step` (0-based) as a fraction of its peak: linear warm-up, then cosine decay."""
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
    gathered: FullState | None = None,
    score_start: bool = False,
) -> Model:
    """Train `model` and return its moving average, or the model itself if there is none.

    Args:
        model: the module, on `device`.
        loss_of: maps (runner, batch on device) to named scalars; "total" is minimised, all are logged.
        batches: batches of the remaining steps (`resume_step` gives the first), each with a `.to(device)`.
        optimiser: holds each group's peak learning rate in "lr".
        folder: receives `log.jsonl` and `checkpoints/`; training resumes from its newest checkpoint, if any.
        device: device of the model.
        every: called before each checkpoint with (step, module to keep); the values it returns are logged.
        runner: the model as this process runs it, passed to `loss_of` (see `distributed.parallelise`); None: `model`.
        after_step: called after each optimiser step with (0-based step, batch, losses).
        stateful: state that the task keeps between steps, by name; saved and restored with the model.
        gathered: full state of the model, for callers that write it too, so that it is gathered once per step.
        score_start: also call `every` before the first step of a new run, as step 0.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
        OSError: a checkpoint could not be written; the previous one is intact.
        ResumeError: the checkpoint in `folder` is damaged or belongs to another run.
    """
    env = DistEnv.current()
    make_folder(folder)
    if options.ema and is_sharded(model):
        raise ValueError("a moving average needs the full model in each process: use ema=0 with fsdp")
    runner = model if runner is None else runner
    average = deepcopy(model).requires_grad_(False) if options.ema else None
    peaks = [group["lr"] for group in optimiser.param_groups]
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
    stateful_with_scaler = {"scaler": scaler, **(stateful or {})}
    checkpoints = Checkpoints(folder, options.keep)
    gathered = FullState(model) if gathered is None else gathered
    step = checkpoints.load(model, average, optimiser, stateful_with_scaler)
    logger = TrainLogger(folder, step, options.tensorboard, silent=not env.first)
    if score_start and every is not None and step == 0:
        logger.write({"step": 0} | every(0, model.eval()))
    started, first = time.monotonic(), step
    watch = LossWatch(device, step, folder / "checkpoints")
    bar = tqdm(
        total=options.steps, initial=step, unit="step", dynamic_ncols=True, mininterval=1.0, disable=not env.first
    )

    model.train()
    for batch in batches:
        factor = learning_rate(step, options)
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        batch = batch.to(device)
        losses = training_step(model, runner, loss_of, batch, optimiser, options, device, scaler, watch)
        if after_step is not None:
            after_step(step, batch, losses)
        step += 1
        if average is not None:
            _update_average(average, model, min(options.ema, (1 + step) / (10 + step)))
        bar.update()

        last = step == options.steps
        if step % options.log_every == 0 or step % options.checkpoint_every == 0 or last:
            watch.check()
        if step % options.log_every == 0 or last:
            row = {name: float(f"{value:.9g}") for name, value in mean_over_processes(losses).items()}
            bar.set_postfix({"loss": f"{row['total']:.3f}"}, refresh=False)
            steps_per_s = (step - first) / (time.monotonic() - started)
            logger.write({"step": step, "lr": peaks[0] * factor, "steps_per_s": round(steps_per_s, 3)} | row)
        if step % options.checkpoint_every == 0 or last:
            if every is not None:
                kept = model if average is None else average
                kept.eval()
                logger.write({"step": step} | every(step, kept))
                model.train()
            checkpoints.save(step, model, average, optimiser, stateful_with_scaler, gathered.at(step))
            if not last:  # callers often write the final weights once more
                gathered.forget()
    bar.close()
    logger.close()
    return (model if average is None else average).eval()


class LossWatch:
    """Detect the first loss that is not finite.

    On a GPU the loss is read only when `check` is called, because reading it at every step would make the host wait for
    the device. Steps since the last check are then lost; checkpoints are written only after a check. The error names
    the folder `checkpoints` as the last valid state.
    """

    _NEVER = 1 << 62

    def __init__(self, device: torch.device, step: int = 0, checkpoints: Path | None = None) -> None:
        self._at_once = device.type == "cpu"
        self._step = torch.tensor(step, device=device)
        self._first_bad_step = torch.tensor(self._NEVER, device=device)
        self._checkpoints = checkpoints

    def record(self, total: Tensor) -> None:
        """Record the loss of the current step or of one of its micro-batches; on a CPU also check it."""
        bad = torch.where(torch.isfinite(total.detach()), self._NEVER, self._step)
        self._first_bad_step = torch.minimum(self._first_bad_step, bad)
        if self._at_once:
            self.check()

    def next(self) -> None:
        self._step += 1

    def check(self) -> None:
        """Raise NonFiniteLossError for the first step whose loss was not finite."""
        step = int(self._first_bad_step)
        if step < self._NEVER:
            good = f"; {self._checkpoints} holds the last valid state" if self._checkpoints is not None else ""
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
    """Run one optimiser step: losses, gradients, clipping. `spectradino bench` times this function.

    Args:
        model, runner, loss_of, optimiser, options, device: see `train`.
        batch: on the device.
        scaler: loss scaler for fp16; None: no scaling.
        watch: detects losses that are not finite; None: no check.

    Returns:
        The batch's losses by name, detached; "gradient", the gradient norm before clipping, and "clipped", whether it
        was clipped.
    """
    scaler = torch.amp.GradScaler(device.type, enabled=False) if scaler is None else scaler
    precision = torch.bfloat16 if options.amp == "auto" and has_bf16(device) else _PRECISIONS[options.amp]
    optimiser.zero_grad(set_to_none=True)
    losses: dict[str, Tensor] = {}
    for micro_batch, synchronise in _micro_batches(batch, options.grad_accum):
        with nullcontext() if synchronise else _no_sync(runner):
            with torch.autocast(device.type, precision, enabled=precision is not None):
                part_losses = loss_of(runner, micro_batch)
            if watch is not None:
                watch.record(part_losses["total"])
            scaler.scale(part_losses["total"]).backward()
        detached = {name: value.detach() for name, value in part_losses.items()}
        losses = {name: losses[name] + value for name, value in detached.items()} if losses else detached
    if options.clip:
        scaler.unscale_(optimiser)
        norm = nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        losses["gradient"] = norm
        losses["clipped"] = (norm > options.clip) & norm.isfinite()  # the scaler of fp16 skips steps that overflow
    scaler.step(optimiser)
    scaler.update()
    if watch is not None:
        watch.next()
    return losses


def has_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies in bf16 natively, hence faster than in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _micro_batches(batch: Any, count: int) -> Iterator[tuple[Any, bool]]:
    """Yield micro-batches and whether processes synchronise gradients after each: only after the last one."""
    parts = [batch] if count == 1 else batch.split(count)
    for index, part in enumerate(parts):
        yield part, index == len(parts) - 1


def _no_sync(runner: nn.Module) -> AbstractContextManager:
    return runner.no_sync() if isinstance(runner, nn.parallel.DistributedDataParallel) else nullcontext()


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Update the moving average of the weights; buffers (BatchNorm statistics) are copied."""
    pairs = list(zip(average.parameters(), model.parameters(), strict=True))
    torch._foreach_lerp_([a for a, _ in pairs], [m.detach() for _, m in pairs], 1 - decay)
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
