"""A small fine-tuning run in its own process: `python -m tests.core.training.run_finetune FOLDER [options]`.

Tests kill it and start it several times in parallel under torchrun.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

import torch

from spectradino_core.data.augment import Augmentation
from spectradino_core.data.mixture import CachedPairs, Epochs
from spectradino_core.models.perception import Architecture
from spectradino_core.training import loop
from spectradino_core.training.finetune import TrainingData, finetune
from spectradino_core.training.loop import LoopOptions
from spectradino_core.training.recipes import FinetuneRecipe
from tests.core.training.squares import Squares

CALM = Augmentation(
    blur=0, local_contrast=0, noise=0, eight_bit=0, brightness=0, contrast=0, gamma=0, infrared_gain=0, saturation=0
)
"""Geometry and hidden bands only: what photometry draws depends on OpenCV's version."""


def recipe_of(options: argparse.Namespace) -> FinetuneRecipe:
    return FinetuneRecipe(
        name="squares",
        architecture=Architecture(
            "test", "lwir", 2, 3, pyramid_width=16, tower_depth=1, strides=(7.0, 14.0), detection=options.detection,
            segmentation=options.segmentation, fusion=options.fusion, fuse_at=options.fuse_at, upernet_width=16,
        ),
        input_size=(98, 84),
        loop=LoopOptions(
            options.steps, warmup=2, ema=options.ema, amp=options.amp, checkpoint_every=options.every, log_every=1,
            grad_accum=options.grad_accum,
        ),
        batch=4,
        lr={"head": 1e-3, "adapters": 1e-3, "blocks": 1e-3},
        mode=options.mode,
        layer_decay=0.8,
        box_classes=("red", "hot"),
        mask_classes=("nothing", "red", "hot"),
        palette=((0, 0, 0), (255, 0, 0), (255, 255, 0)),
        augmentation=CALM,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--grad-accum", type=int, default=1)
    parser.add_argument("--ema", type=float, default=0.9)
    parser.add_argument("--amp", default="fp32")
    parser.add_argument("--mode", default="half")
    parser.add_argument("--detection", default="linear")
    parser.add_argument("--segmentation", default="linear")
    parser.add_argument("--fusion", default="cross_attention")
    parser.add_argument("--fuse-at", default="last")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--die-at", type=int, help="kill this process without warning after this step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    if options.die_at is not None:
        die_at(options.die_at)
    recipe = recipe_of(options)
    data = TrainingData(
        Epochs(CachedPairs(Squares(10)), recipe.augmentation, 0),
        [Squares(4, first=1000).load(1000 + i) for i in range(4)],
        {"squares": 1.0},
        epoch=10,
    )
    finetune(recipe, options.folder, None, device="cpu", workers=options.workers, training_data=data)
    return 0


def die_at(step: int) -> None:
    """Kill the process at the real loop's first log line after that step: before its checkpoint."""
    write = loop.TrainLogger.write

    def accident(self, row) -> None:
        if row["step"] > step:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, row)

    loop.TrainLogger.write = accident


if __name__ == "__main__":
    sys.exit(main())
