"""A small pretraining run in its own process: `python -m tests.core.training.run_patterns FOLDER [options]`.

Tests kill it, fill its disk, and start it several times in parallel under torchrun.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from spectradino_core.training.pretrain import PretrainOptions, pretrain
from spectradino_core.training.stages import stage_recipe
from tests.core.training.patterns import CALM, Patterns


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stages", default="1,2,3")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--adaptive", action="store_true")
    parser.add_argument("--ema", type=float, default=0.0)
    parser.add_argument("--grad-accum", type=int, default=1)
    parser.add_argument("--alignment", type=float, default=0.0, help="weight of the loss between infrared bands")
    parser.add_argument("--learn-temperature", action="store_true")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--die-at", type=int, help="kill this process without warning before this step's log line")
    parser.add_argument("--die-in", type=int, default=1, help="the stage in which to die")
    parser.add_argument("--disk-full-at", type=int, help="from this step no file can grow beyond 64 KiB")
    parser.add_argument("--override", nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    recipes = [
        replace(
            stage_recipe("test", int(stage)),
            batch=options.batch,
            ema=options.ema,
            learn_temperature=options.learn_temperature,
        )
        for stage in options.stages.split(",")
    ]
    if options.alignment:
        recipes = [replace(r, weights=replace(r.weights, infrared=options.alignment)) for r in recipes]
    stop_at(options)
    try:
        pretrain(
            recipes,
            [Patterns(16, ("nir", "lwir")), Patterns(12, ("swir", "lwir"), first=100)],
            [Patterns(8, first=1000)],
            PretrainOptions(
                folder=options.folder,
                steps=options.steps,
                device="cpu",
                strategy=options.strategy,
                grad_accum=options.grad_accum,
                amp="fp32",
                workers=0,
                views=CALM,
                adaptive=options.adaptive,
                checkpoint_every=options.every,
                log_every=1,
                override=tuple(options.override),
            ),
        )
    except OSError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


def stop_at(options: argparse.Namespace) -> None:
    """Cause the requested failure at a step of the real loop."""
    from spectradino_core.training import student

    after = student.PretrainTask.after_step

    def accident(self, step, batch, losses) -> None:
        after(self, step, batch, losses)
        if self.recipe.stage == options.die_in and step + 1 == options.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step + 1 == options.disk_full_at:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails as it does on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    student.PretrainTask.after_step = accident


if __name__ == "__main__":
    sys.exit(main())
