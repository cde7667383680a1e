"""Options of how a training runs, shared by `pretrain` and `finetune`; none changes what is trained."""

from __future__ import annotations

from typing import Any

from spectradino_core.options import TRAINING_DEVICES, add_former, add_option

__all__ = ["add_run_options"]


def add_run_options(group: Any, amp: str | None, checkpoint_every: str) -> None:
    """Add the options; `amp` is the default of --amp, None that of the recipe; `checkpoint_every` describes another."""
    add_option(group, "--device", " (default: %(default)s)", default="auto", choices=TRAINING_DEVICES)
    own = (
        ": auto, bf16, fp16 or fp32 (default: bf16; own data: auto; of --recipe: its own)"
        if amp is None
        else " (default: %(default)s)"
    )
    add_option(group, "--amp", own, default=amp, choices=(*(("auto",) if amp is None else ()), "bf16", "fp16", "fp32"))
    steps = add_option(group, "--grad-accum", " (default: 1)")
    add_former(group, steps, "--parts")
    add_option(group, "--activation-checkpointing")
    add_option(group, "--checkpoint-every", f" (default: {checkpoint_every})")
    add_option(group, "--log-every", " (default: 20)")
    add_option(group, "--tensorboard")
