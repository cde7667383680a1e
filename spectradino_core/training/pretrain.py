"""SpectraDINO's pretraining: the three stages in sequence, each resumed where it stopped.

`<folder>/stage1/` ... `stage3/` each hold `best.safetensors` and `last.safetensors` (backbones), `queue.safetensors`
(the teacher queue, if any), `recipe.json`, `log.jsonl` and `checkpoints/`; `<folder>/losses.png` plots the losses.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectradino_core.data.pretraining import (
    PretrainBatch,
    available_bands,
    items_by_band,
    pretraining_batches,
    steps_per_epoch,
)
from spectradino_core.data.sources import ImageSource, fingerprint, refuse_overlap
from spectradino_core.data.transfer import OnHost
from spectradino_core.data.views import PLAIN
from spectradino_core.files import make_folder
from spectradino_core.losses.neighbourhood import TeacherQueue, queue_capacity
from spectradino_core.modality import INFRARED
from spectradino_core.models.checkpoints import load_spectradino, read_metadata, save_spectradino, save_state
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import Features
from spectradino_core.models.weight_files import read_tensors
from spectradino_core.training.checkpoints import resume_step
from spectradino_core.training.distributed import (
    DistEnv,
    FullState,
    fsdp_units,
    is_sharded,
    mean_over_processes,
    parallelise,
    process_group,
)
from spectradino_core.training.loop import train
from spectradino_core.training.optimiser import adamw_for
from spectradino_core.training.runs import RunOptions, StepRecorder, record_run
from spectradino_core.training.stages import StageRecipe, freeze
from spectradino_core.training.student import PretrainTask, Student, temperature_of
from spectradino_core.training.teacher import Teacher, TeacherCache, load_teacher, random_teacher
from spectradino_core.training.train_logger import plot_losses

log = logging.getLogger(__name__)

_VALIDATION_BATCHES = 12


@dataclass(frozen=True)
class PretrainOptions(RunOptions):
    """Options of a run of the stages that are not part of the recipe.

    Attributes:
        start: backbone that the first stage of this run starts from; None: the teacher's weights in Stage I, otherwise
            the result of the previous stage in `folder`.
        teacher: file of the teacher's weights; None: random weights.
        strategy: "ddp" or "fsdp".
        grad_accum: micro-batches that a process's batch is split into (see `Student`).
        activation_checkpointing: recompute each block in the backward pass.
        cache_teacher: cache the teacher's embeddings (needs a fixed number of views).
    """

    teacher: Path | None = None
    strategy: str = "ddp"
    grad_accum: int = 1
    activation_checkpointing: bool = False
    cache_teacher: bool = False


def pretrain(
    recipes: Sequence[StageRecipe],
    sources: Sequence[ImageSource],
    validation: Sequence[ImageSource],
    options: PretrainOptions,
) -> Path:
    """Run stages of one variant in order and return the path of the final `last.safetensors`.

    Stage II starts from Stage I's best backbone by validation loss (the last one without validation data), Stage III
    from Stage II's last backbone and teacher queue.

    Raises:
        CheckpointError: a file to start from is missing or of another kind.
        ResumeError: a stage was started with other options, and `options.override` does not name them.
        ValueError: too little data for the batch size, options that conflict, or validation pairs that are trained on.
    """
    variant = recipes[0].variant
    refuse_overlap(sources, validation)
    if not validation:
        log.warning(
            "no validation pairs: each stage's best.safetensors is its last, also the one Stage II starts from; give "
            "held-out pairs (--val-manifest FILE)"
        )
    with process_group(options.device) as (env, device):
        if env.first:
            make_folder(options.folder)
        if options.teacher is not None:
            teacher = load_teacher(options.teacher, variant)
        else:
            teacher = random_teacher(variant, options.seed, options.folder / "teacher.safetensors")
        teacher.to(device)
        for recipe in recipes:
            start = options.start if recipe is recipes[0] else None
            _Stage(recipe, sources, validation, options, teacher, device, start).run()
        if env.first:
            logs = {f"stage {n}": _folder(options, n) / "log.jsonl" for n in (1, 2, 3)}
            plot_losses({n: path for n, path in logs.items() if path.is_file()}, options.folder / "losses.png")
    return _folder(options, recipes[-1].stage) / "last.safetensors"


def _folder(options: PretrainOptions, stage: int) -> Path:
    return options.folder / f"stage{stage}"


class _Stage:
    """One stage in one process."""

    def __init__(
        self, recipe: StageRecipe, sources: Sequence[ImageSource], validation: Sequence[ImageSource],
        options: PretrainOptions, teacher: Teacher, device: torch.device, start: Path | None,
    ) -> None:  # fmt: skip
        self.recipe, self.options, self.teacher, self.device = recipe, options, teacher, device
        self.sources, self.validation, self.env = sources, validation, DistEnv.current()
        self.folder = _folder(options, recipe.stage)
        if recipe.batch % self.env.world:
            raise ValueError(
                f"a batch of {recipe.batch} can't be shared by {self.env.world} processes: choose a multiple (--batch)"
            )
        self.bands = available_bands(sources)
        untrained = [band.key for band in INFRARED if band not in self.bands]
        if untrained:
            log.warning("no pairs of %s: its stem and adapters stay untrained", " and ".join(untrained))
        full_epoch = max(1, steps_per_epoch(sources, recipe.batch, self.bands))
        self.steps = options.steps or recipe.epochs * full_epoch
        self.epoch = max(1, self.steps // recipe.epochs)
        self.first = resume_step(self.folder)
        torch.manual_seed(options.seed + recipe.stage)
        self.temperature = recipe.temperature if recipe.learn_temperature else None
        self.backbone, self.start = self._start(start)
        freeze(recipe, self.backbone)
        self.queue = self._queue()

    def run(self) -> None:
        recipe, options = self.recipe, self.options
        if self.first:
            log.info("stage %d: resuming %s at step %d of %d", recipe.stage, self.folder, self.first, self.steps)
        record_run(self.folder, self._record(), self.first, options.override)
        student = Student(self.backbone, options.grad_accum, self.temperature).to(self.device)
        runner = parallelise(student, fsdp_units(self.backbone), options.strategy, self.device, options.amp)
        gathered = FullState(student)
        optimiser = adamw_for(student, self.backbone, recipe.lr, recipe.weight_decay)
        recorder = StepRecorder([band.key for band in self.bands], self.steps, options)
        task = PretrainTask(
            recipe, self._teacher_embedder(), self.queue, options.seed, self.first, self.epoch,
            options.grad_accum if options.strategy == "fsdp" else None, options.views.count,
        )  # fmt: skip
        held_out = self._held_out()
        best = _Best()

        def after_step(step: int, batch: PretrainBatch, losses: dict[str, Tensor]) -> None:
            task.after_step(step, batch, losses)
            recorder.after_step(step, losses)

        def every(step: int, averaged: Student) -> dict[str, float]:
            scores = self._validate(task, averaged, held_out)
            if scores and best.improves(step, scores["val_total"]):
                self._save(averaged, gathered, "best.safetensors", step, scores)
            return scores

        stateful = recorder.stateful | {"best": best} | ({} if self.queue is None else {"queue": self.queue})
        kept = train(
            student,
            task.losses,
            pretraining_batches(
                self.sources, recipe.batch, recipe.crop, options.seed + recipe.stage, self.steps, self.first,
                self.env.rank, self.env.world, recorder.sampling, options.workers, self.bands, options.views,
                extra=recipe.weights.infrared > 0, max_damaged=options.max_damaged,
                pin=self.device.type == "cuda",
            ),
            optimiser,
            options.loop(
                self.steps, options.checkpoint_every or self.epoch, recipe.warmup, recipe.clip, recipe.ema
            ),
            self.folder,
            self.device,
            every,
            runner=runner,
            after_step=after_step,
            stateful=stateful,
            gathered=gathered,
        )  # fmt: skip
        self._save(kept, gathered, "last.safetensors", self.steps, {})
        if not held_out:
            self._save(kept, gathered, "best.safetensors", self.steps, {})
        if self.queue is not None and self.env.first:
            save_state(self.queue, self.folder / "queue.safetensors")
        self.env.wait()

    def _start(self, given: Path | None) -> tuple[SpectraDINO, str]:
        """Return the initial backbone and a description of its origin."""
        previous = {2: "stage1/best.safetensors", 3: "stage2/last.safetensors"}.get(self.recipe.stage)
        path = given
        if path is None and previous is not None:
            path = self.options.folder / previous
            if not path.is_file():
                raise ValueError(
                    f"stage {self.recipe.stage} starts from {path}, which does not exist: run the previous stage "
                    "(--stages 1,2,3), or give a backbone (--start FILE)"
                )
        if path is None:
            backbone, origin = self.teacher.student(), f"the teacher ({self.teacher.origin})"
        else:
            backbone, origin = load_spectradino(path), f"{path.parent.name}/{path.name}"
            learned = read_metadata(path).get("temperature")
            if self.temperature is not None and learned is not None:
                self.temperature = float(learned)
                log.info("stage %d: the temperature continues at %.4g", self.recipe.stage, self.temperature)
            if backbone.config != self.teacher.config:
                raise ValueError(
                    f"{path} is a {backbone.config.title}, the teacher a {self.teacher.config.title}: both must be of "
                    "one variant"
                )
        backbone.vit.activation_checkpointing = self.options.activation_checkpointing
        return backbone, origin

    def _queue(self) -> TeacherQueue | None:
        if not self.recipe.weights.neighbourhood:
            return None
        capacity = queue_capacity(self.recipe.queue, items_by_band(self.sources, self.bands))
        queue = TeacherQueue(capacity, self.teacher.config.width)
        earlier = self.options.folder / "stage2" / "queue.safetensors"
        if self.recipe.stage == 3:
            if earlier.is_file():
                queue.take_over(read_tensors(earlier))
            else:
                log.warning("stage 3 starts with an empty teacher queue: %s does not exist", earlier)
        return queue.to(self.device)

    def _teacher_embedder(self) -> Callable[[PretrainBatch], Features | Tensor]:
        """Return a function from a batch to the teacher's CLS, cached if asked for, or to all that a loss needs."""
        if self.recipe.weights.rgb:
            return lambda batch: self.teacher.features(batch.rgb)
        if not self.options.cache_teacher:
            return lambda batch: self.teacher(batch.rgb)
        items, views, options = sum(len(s) for s in self.sources), self.options.views, self.options
        about = {
            "crop": self.recipe.crop, "seed": options.seed + self.recipe.stage, "amp": options.amp, "view": repr(views),
            "sources": [[source.name, len(source)] for source in self.sources],
        }  # fmt: skip
        name = f"teacher_cache_{self.env.rank}.f32"
        return TeacherCache(self.teacher, self.folder / name, items * max(1, views.count), views.count, about)

    def _held_out(self) -> list[OnHost[PretrainBatch]]:
        """Return this process's part of the validation batches of all bands, in plain views."""
        world = self.env.world
        bands = available_bands(self.validation) if self.validation else ()
        found: list[OnHost[PretrainBatch]] = []
        for band in bands:
            items = sum(band.key in s.modalities(item) for s in self.validation for item in range(len(s)))
            batch = min(items, self.recipe.batch) // world * world
            if batch < 2:
                log.warning("no validation on %s: %d pairs are too few", band.key, items)
                continue
            steps = min(items // batch, max(1, _VALIDATION_BATCHES // len(bands)))
            found += pretraining_batches(
                self.validation, batch, self.recipe.crop, 0, steps, 0, self.env.rank, world, bands=[band], views=PLAIN
            )
        return found

    def _validate(
        self, task: PretrainTask, student: Student, held_out: Sequence[OnHost[PretrainBatch]]
    ) -> dict[str, float]:
        sums: dict[str, float] = {}
        # In fp32, unless FSDP gathers the weights in bf16 (see `parallelise`).
        bf16_weights = self.options.strategy == "fsdp" and self.options.amp == "bf16"
        for batch in held_out:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16_weights):
                losses = mean_over_processes(task.validation_losses(student, batch.to(self.device)))
            for name, value in losses.items():
                sums[f"val_{name}"] = sums.get(f"val_{name}", 0.0) + value / len(held_out)
        return {name: float(f"{value:.9g}") for name, value in sums.items()}

    def _save(self, student: Student, gathered: FullState, name: str, step: int, scores: dict[str, float]) -> None:
        backbone = student.backbone
        state = gathered.at(step) if is_sharded(student) else {}  # collective, hence before the early return
        if not self.env.first:
            return
        if state:
            backbone = SpectraDINO(backbone.config, backbone.bands)
            prefix = "backbone."
            backbone.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        metadata = {
            "stage": str(self.recipe.stage),
            "step": str(step),
            "trained_bands": ",".join(band.key for band in self.bands),
            "teacher": self.teacher.origin,
            "start": self.start,
            "recipe": json.dumps(dataclasses.asdict(self.recipe)),
            "validation": json.dumps(scores),
        }
        if student.log_scale is not None:
            metadata["temperature"] = repr(temperature_of(state["log_scale"] if state else student.log_scale))
        save_spectradino(backbone, self.folder / name, metadata)

    def _record(self) -> dict[str, Any]:
        options, recipe = self.options, self.recipe
        return {
            "recipe": dataclasses.asdict(recipe),
            "steps": self.steps,
            "queue": None if self.queue is None else self.queue.capacity,
            "sources": {source.name: len(source) for source in self.sources},
            "data": [fingerprint(source) for source in self.sources],
            "validation": {source.name: len(source) for source in self.validation},
            "validation_data": [fingerprint(source) for source in self.validation],
            "views": dataclasses.asdict(options.views),
            "teacher": self.teacher.origin,
            "teacher_hash": self.teacher.fingerprint(),
            "start": self.start,
            "seed": options.seed,
            "amp": options.amp,
            "strategy": options.strategy,
            "grad_accum": options.grad_accum,
            "adaptive": options.adaptive,
            "cache_teacher": options.cache_teacher,
            "checkpoint_every": options.checkpoint_every or self.epoch,
        }


class _Best:
    """Best validation loss so far; part of the checkpoint."""

    def __init__(self) -> None:
        self.value, self.step = float("inf"), 0

    def improves(self, step: int, value: float) -> bool:
        better = value < self.value
        if better:
            self.value, self.step = value, step
        return better

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value, "step": self.step}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value, self.step = float(state["value"]), int(state["step"])
