"""Pretraining benchmark: step compared with a plain loop, teacher cache, and loader waits.

Sizes, losses, precision and the frozen teacher are the same in all cases, which are interleaved step by step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor, nn

from spectradino_core.bench.plain import HookedDinov2, plain_dinov2
from spectradino_core.bench.tables import Row
from spectradino_core.bench.timing import Timing, take_turns
from spectradino_core.data.make_manifest import write_scenes
from spectradino_core.data.manifest import ManifestSource
from spectradino_core.data.pretraining import PretrainBatch, pretraining_batches
from spectradino_core.losses.alignment import contrastive_loss, distillation_loss, patch_loss, sample_positions
from spectradino_core.losses.neighbourhood import TeacherQueue, neighbourhood_loss
from spectradino_core.modality import INFRARED, Modality
from spectradino_core.models.vit import ViT, vit_config
from spectradino_core.training.loop import LoopOptions, LossWatch, training_step
from spectradino_core.training.optimiser import adamw_for
from spectradino_core.training.stages import StageRecipe, freeze, stage_recipe
from spectradino_core.training.student import PretrainTask, Student
from spectradino_core.training.teacher import Teacher

QUEUE = 4096
PLAIN = "plain loop over transformers"

Step = Callable[[PretrainBatch], None]


def train_rows(
    variant: str, pairs: int, rounds: int, crop: int | None = None, loaded: str = "tiny", steps: int = 12
) -> list[Row]:
    """Measure steps of stages I and III compared with the plain loop, then the loader.

    `crop` None: the recipe's. The loader is measured in stage I of the variant `loaded` with its batch; `steps` 0: not.
    """
    amp, workers = torch.bfloat16, 1
    rows: list[Row] = []

    for stage in (1, 3):
        recipe = stage_recipe(variant, stage)
        recipe = replace(recipe, crop=crop or recipe.crop)
        known = torch.randn(pairs, vit_config(variant).width)
        runs = {
            PLAIN: plain_step(recipe, amp),
            "ours": our_step(recipe, amp),
            "ours, teacher cached": our_step(recipe, amp, known),
        }
        timings = steps_in_turn(runs, recipe, pairs, rounds)
        for name, timing in timings.items():
            row: Row = {"case": f"{variant} at {recipe.crop}, stage {stage}", "what": name} | timing.columns()
            row["pairs_per_s"] = 1e3 * pairs / timing.median_ms
            rows.append(row | {"ratio": timing.median_ms / timings[PLAIN].median_ms, "against": PLAIN})
        del runs
    if steps:
        recipe = stage_recipe(loaded, 1)
        seconds = loading(recipe, amp, steps, 2 * recipe.batch, workers)
        for name, value in seconds.items():
            row = {"case": f"loading, {loaded}, stage 1", "what": name, "ms": 1e3 * value}
            row |= {"quartiles": "-", "rounds": 3 if name == "making a batch" else steps}
            row["pairs_per_s"] = "-" if "waiting" in name else recipe.batch / value
            rows.append(row | {"ratio": value / seconds["in memory"], "against": "in memory"})
    return rows


def plain_step(recipe: StageRecipe, amp: torch.dtype | None) -> Step:
    """Build a step of the plain loop."""
    student, teacher = HookedDinov2(recipe.variant), plain_dinov2(recipe.variant).eval().requires_grad_(False)
    student.freeze(recipe)
    trained = [p for p in student.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, recipe.lr, weight_decay=recipe.weight_decay)
    queue = filled_queue(recipe)
    weights = recipe.weights
    generator = torch.Generator().manual_seed(0)
    patches = (recipe.crop // vit_config(recipe.variant).patch) ** 2

    def step(batch: PretrainBatch) -> None:
        positions = sample_positions(patches, weights.patch_ratio, generator) + 1
        with torch.autocast("cpu", amp, enabled=amp is not None):
            with torch.no_grad():
                wanted = teacher(batch.rgb).last_hidden_state[:, 0]
            rgb, infrared = student(Modality.RGB, batch.rgb), student(batch.band, batch.infrared)
            loss = (
                weights.distillation * distillation_loss(infrared[:, 0], wanted)
                + weights.contrastive * contrastive_loss(rgb[:, 0], infrared[:, 0], recipe.temperature)
                + weights.patch * patch_loss(rgb[:, positions], infrared[:, positions])
            )
            if queue is not None:
                kl = neighbourhood_loss(infrared[:, 0], wanted, queue.entries, recipe.top_k, recipe.queue_temperature)
                loss = loss + weights.neighbourhood * kl
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, recipe.clip)
        optimiser.step()
        if queue is not None:
            queue.put(wanted)

    return step


def our_step(
    recipe: StageRecipe,
    amp: torch.dtype | None,
    known: Tensor | None = None,
    device: str = "cpu",
    compiled: bool = False,
) -> Step:
    """Build a step with `training/loop.py`; `known` is the teacher's CLS, None: a ViT of the variant's size is run."""
    teacher = Teacher(ViT(recipe.variant), "").to(device)
    backbone = teacher.student().to(device)
    freeze(recipe, backbone)
    student = Student(backbone)
    if compiled:
        student.compile()
        teacher.compile()
    optimiser = adamw_for(student, backbone, recipe.lr, recipe.weight_decay)

    def ask(batch: PretrainBatch) -> Tensor:
        return teacher(batch.rgb) if known is None else known

    task = PretrainTask(recipe, ask, filled_queue(recipe, device), 0, 0, 1)
    names = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    options = LoopOptions(steps=1, clip=recipe.clip, amp=names[amp])
    on, count = torch.device(device), 0
    watch = LossWatch(on)

    def step(batch: PretrainBatch) -> None:
        nonlocal count
        losses = training_step(student, student, task.losses, batch, optimiser, options, on, watch=watch)
        task.after_step(count, batch, losses)
        count += 1

    return step


def filled_queue(recipe: StageRecipe, device: str = "cpu") -> TeacherQueue | None:
    """Create a full teacher queue if the stage uses one."""
    if not recipe.weights.neighbourhood:
        return None
    queue = TeacherQueue(QUEUE, vit_config(recipe.variant).width).to(device)
    queue.put(torch.randn(QUEUE, vit_config(recipe.variant).width, device=device))
    return queue


def random_batch(recipe: StageRecipe, pairs: int, step: int, device: str = "cpu") -> PretrainBatch:
    """Create random pairs with the step's infrared band."""
    side = recipe.crop
    generator = torch.Generator().manual_seed(step)
    return PretrainBatch(
        INFRARED[step % len(INFRARED)],
        torch.randn(pairs, 3, side, side, generator=generator).to(device),
        torch.rand(pairs, 1, side, side, generator=generator).to(device),
        [""] * pairs,
        torch.arange(pairs),
    )


def steps_in_turn(steps: dict[str, Step], recipe: StageRecipe, pairs: int, rounds: int) -> dict[str, Timing]:
    """Time the steps interleaved on the same batches, after one warm-up."""
    batches = [random_batch(recipe, pairs, number) for number in range(rounds + 1)]
    cases = {name: partial(lambda step, given: step(next(given)), step, iter(batches)) for name, step in steps.items()}
    return take_turns(cases, rounds)


def loading(recipe: StageRecipe, amp: torch.dtype | None, count: int, scenes: int, workers: int) -> dict[str, float]:
    """Measure seconds per step with batches from files and from memory, loader waits, and seconds per batch made."""
    with tempfile.TemporaryDirectory() as folder:
        source = ManifestSource(write_scenes(Path(folder), scenes, maps=()))

        def batches(count: int, workers: int) -> Iterator[PretrainBatch]:
            made = pretraining_batches([source], recipe.batch, recipe.crop, 0, count, workers=workers)
            return (batch.to("cpu") for batch in made)

        step = our_step(recipe, amp)
        start = time.perf_counter()
        kept = list(batches(3, 0))
        making = (time.perf_counter() - start) / 3
        step(kept[0])
        seconds = {}
        for name, source_of in (("from files", batches(count + 1, workers)), ("in memory", cycle(kept))):
            step(next(source_of))
            start, waited = time.perf_counter(), 0.0
            for _ in range(count):
                asked = time.perf_counter()
                batch = next(source_of)
                waited += time.perf_counter() - asked
                step(batch)
            seconds[name] = (time.perf_counter() - start) / count
            if name == "from files":
                seconds["from files: of it waiting"] = waited / count
    return seconds | {"making a batch": making}
