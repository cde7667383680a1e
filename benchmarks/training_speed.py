"""Speed-up of each measure for fine-tuning on a CPU: one step of `box_real`, without any of them to all of them.

    python -m benchmarks.training_speed --out benchmarks/results/training_speed.csv

Every line adds one measure to those above it. All see the same batches, rendered scenes with as many streams withheld
as the recipe's mix has: a quarter of the samples are thermal only, a quarter RGB only. Seconds are the process's own
CPU time on one thread, so other load hardly matters; the median of the rounds is given.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.experiment import run_main
from spectradino_core.bench.machine import describe
from spectradino_core.bench.tables import write_table
from spectradino_core.data.augment import augment
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scene_sets import scene_sample
from spectradino_core.models import perception
from spectradino_core.models.perception import Perception
from spectradino_core.options import COUNT
from spectradino_core.training.batches import BatchStream, LabelledBatch
from spectradino_core.training.finetune import anchor_points, keep_freed_memory, perception_loss
from spectradino_core.training.modes import freeze_for, parameter_groups
from spectradino_core.training.recipes import FinetuneRecipe, box_real

_PRESENT = ((True, True), (False, True), (True, True), (True, False))


@dataclass(frozen=True)
class Variant:
    """Settings of one row; see the names in `VARIANTS`."""

    bf16: bool = False
    reuse: bool = True
    skip: bool = True
    frozen: tuple[str, ...] = ()
    mask_stride: int = 1
    small: bool = False


_PLAIN = Variant(bf16=True, reuse=False, skip=False)
VARIANTS = {
    "as it was (bf16)": _PLAIN,
    "fp32": replace(_PLAIN, bf16=False),
    "memory kept": Variant(skip=False),
    "withheld streams skipped": Variant(),
    "stems frozen": Variant(frozen=("stems",)),
    "mask thinned by 2": Variant(frozen=("stems",), mask_stride=2),
    "at the early size": Variant(frozen=("stems",), mask_stride=2, small=True),
}
"""In this order: memory that is kept once is kept until the process ends."""


class _Scenes:
    """Synthetic scenes of which some have one stream only."""

    def __init__(self, recipe: FinetuneRecipe) -> None:
        self._recipe = recipe

    def sample(self, index: int) -> tuple[PairedSample, np.ndarray]:
        recipe, present = self._recipe, _PRESENT[index % len(_PRESENT)]
        sample = replace(scene_sample(index, recipe.architecture.bands[1], recipe.scene_size), present=present)
        return augment(sample, recipe.augmentation, np.random.default_rng(index)), np.array(present)


def measure(variant: Variant, recipe: FinetuneRecipe, rounds: int) -> float:
    """Return the median CPU seconds of a training step."""
    if variant.small:
        assert recipe.early_size is not None
        recipe = replace(recipe, input_size=recipe.early_size)
    if variant.reuse:
        keep_freed_memory()
    torch.manual_seed(0)
    model = Perception(recipe.architecture).train()
    freeze_for("full", model, variant.frozen)
    optimiser = torch.optim.AdamW(parameter_groups(model, recipe.lr, recipe.weight_decay), fused=True)
    batches = BatchStream(
        _Scenes(recipe), recipe.batch, recipe.architecture.bands[1], recipe.input_size, recipe.thermal, rounds + 1,
        anchors=anchor_points(recipe), mask_stride=variant.mask_stride,
    )  # fmt: skip
    seconds = []
    with _all_streams(not variant.skip):
        for batch in [batches[step].to("cpu") for step in range(rounds + 1)]:
            started = time.process_time()
            _step(model, optimiser, batch, recipe, variant.bf16)
            seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:])


def _step(
    model: Perception, optimiser: torch.optim.Optimizer, batch: LabelledBatch, recipe: FinetuneRecipe, bf16: bool
) -> None:
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = perception_loss(model(batch.images, batch.present), batch, recipe)
    loss["total"].backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.loop.clip)
    optimiser.step()


@contextmanager
def _all_streams(wanted: bool) -> Iterator[None]:
    """Run the backbone on withheld frames too, as it used to."""
    rows = perception._rows
    if wanted:
        perception._rows = lambda present: None
    try:
        yield
    finally:
        perception._rows = rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_speed", description=__doc__)
    parser.add_argument("--rounds", type=COUNT, default=5, help="steps of each variant (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a CSV file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    recipe, rows = box_real(), []
    for name, variant in VARIANTS.items():
        seconds = measure(variant, recipe, options.rounds)
        first = seconds if not rows else rows[0]["cpu_s_per_step"]
        rows.append(
            {
                "variant": name,
                "cpu_s_per_step": round(seconds, 3),
                "samples_per_cpu_s": round(recipe.batch / seconds, 2),
                "times_faster": round(first / seconds, 2),
            }
        )
        print(rows[-1], flush=True)
    if options.out is not None:
        write_table(options.out, describe() | {"threads": "1", "input": "x".join(map(str, recipe.input_size))}, rows)
    return 0


if __name__ == "__main__":
    run_main(main)
