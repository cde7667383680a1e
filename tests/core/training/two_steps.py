"""Steps of Stage III in double precision on this process's part of a batch, run under torchrun by test_distributed.

`python -m tests.core.training.two_steps OUT ddp|fsdp` writes losses, gradients and weights, gathered, to OUT.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from spectradino_core.data.pretraining import PretrainBatch
from spectradino_core.losses.neighbourhood import TeacherQueue
from spectradino_core.modality import INFRARED
from spectradino_core.models.vit import ViT
from spectradino_core.training.distributed import (
    DistEnv,
    fsdp_units,
    full_state,
    mean_over_processes,
    parallelise,
    process_group,
)
from spectradino_core.training.optimiser import adamw_for
from spectradino_core.training.stages import freeze, stage_recipe
from spectradino_core.training.student import PretrainTask, Student
from spectradino_core.training.teacher import Teacher
from tests.core.training.patterns import smooth_batches

STEPS, BATCH = 4, 6


def share(batch: PretrainBatch, place: DistEnv) -> PretrainBatch:
    """Return this process's rows, and another band that only the first process's items have."""
    count = BATCH // place.world
    rows = slice(place.rank * count, (place.rank + 1) * count)
    mine = replace(batch, rgb=batch.rgb[rows].double(), infrared=batch.infrared[rows].double(), keys=batch.keys[rows])
    held = torch.tensor([row - rows.start for row in (0, 2) if rows.start <= row < rows.stop])
    if len(held):
        other = INFRARED[(INFRARED.index(batch.band) + 1) % 3]
        mine.extra, mine.extra_rows = {other: 1 - mine.infrared[held]}, {other: held}
    return mine


def main(out: str, strategy: str) -> None:
    torch.set_num_threads(1)
    with process_group("cpu") as (place, device):
        torch.manual_seed(3)
        teacher = Teacher(ViT("test"), "")
        recipe = stage_recipe("test", 3)
        recipe = replace(recipe, weights=replace(recipe.weights, infrared=0.5))
        backbone = teacher.student()
        freeze(recipe, backbone)
        learned = 0.1 if strategy == "fsdp" else None
        teacher, student, queue = (
            teacher.double(),
            Student(backbone, 1, learned).double(),
            TeacherQueue(16, 48).double(),
        )
        runner = parallelise(student, fsdp_units(backbone), strategy, device) if place.world > 1 else student
        optimiser = adamw_for(student, backbone, 1e-3, 0.05)
        parts = 1 if strategy == "fsdp" and place.world > 1 else None
        task = PretrainTask(recipe, lambda batch: teacher(batch.rgb), queue, 0, 0, 1, parts)
        history = []
        for step, whole in enumerate(smooth_batches(STEPS, BATCH)):
            batch = share(whole, place)
            losses = task.losses(runner, batch)
            optimiser.zero_grad()
            losses["total"].backward()
            norm = torch.nn.utils.clip_grad_norm_(student.parameters(), 3.0)
            losses["gradient"] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            optimiser.step()
            task.after_step(step, batch, losses)
            history.append({name: value.double() for name, value in losses.items()})
        rows = [torch.tensor(list(mean(row).values()), dtype=torch.float64) for row in history]
        weights = full_state(student)
        if place.first:
            torch.save({"losses": rows, "weights": weights, "queue": queue.entries}, out)


def mean(row: dict[str, torch.Tensor]) -> dict[str, float]:
    return mean_over_processes(row)


if __name__ == "__main__":
    main(*sys.argv[1:])
