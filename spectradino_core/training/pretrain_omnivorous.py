"""Omnivorous pretraining run: from initial weights and image sources to a backbone file.

`<folder>/` receives `last.safetensors` (a plain DINOv2 in the official layout, or a SpectraDINO), `start.safetensors`
(the initial weights, which the anchoring loss and a resumed run need), `recipe.json`, `log.jsonl`, `losses.png` and
`checkpoints/`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from spectradino_core.data.pretraining import OmnivorousBatch, available_groups, omnivorous_batches
from spectradino_core.data.sampling import AdaptiveBands, BandSampling, RoundRobin
from spectradino_core.data.sources import ImageSource, fingerprint, refuse_overlap
from spectradino_core.data.views import ViewOptions
from spectradino_core.evaluation.representations import evaluate_pairs, extract_features
from spectradino_core.models.checkpoints import read_header, save_dinov2, save_spectradino
from spectradino_core.models.perception_checkpoint import load_network
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import ViT
from spectradino_core.training.checkpoints import ResumeError
from spectradino_core.training.distributed import DistEnv, mean_over_processes, parallelise, process_group
from spectradino_core.training.loop import LoopOptions, resume_step, train
from spectradino_core.training.means import RecentMeans
from spectradino_core.training.omnivorous import OmnivorousRecipe, OmnivorousStudent, OmnivorousTask
from spectradino_core.training.optimiser import adamw_for
from spectradino_core.training.run_record import resumed_record, versions, write_record
from spectradino_core.training.teacher import load_teacher, weights_hash
from spectradino_core.training.train_logger import plot_losses

__all__ = ["OmnivorousOptions", "pretrain_omnivorous"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OmnivorousOptions:
    """Options of an Omnivorous run that are not part of the recipe; none is from the paper.

    Attributes:
        folder: folder of the run.
        start: DINOv2 weights in any layout, or a SpectraDINO backbone or fine-tuned model; None: random weights.
        base: "plain": all inputs are three-channel images (of a SpectraDINO the RGB path is used); "both": infrared
            passes through the stems and adapters of a SpectraDINO.
        steps: optimiser steps; None: the recipe's.
        device: "auto", "cpu" or "cuda".
        amp: "bf16", "fp16" or "fp32".
        workers: data loading processes per training process.
        views: how views are drawn.
        adaptive: choose groups by their loss instead of round robin.
        max_damaged: maximum fraction of items that may be unreadable.
        seed: seed of views, blending, sampled positions and random weights.
        checkpoint_every, log_every: steps between checkpoints and between log rows.
        override: see `PretrainOptions`.
    """

    folder: Path
    start: Path | None = None
    base: str = "plain"
    steps: int | None = None
    device: str = "auto"
    amp: str = "bf16"
    workers: int = 2
    views: ViewOptions = field(default_factory=ViewOptions)
    adaptive: bool = False
    max_damaged: float = 0.01
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 20
    override: tuple[str, ...] = ()


def pretrain_omnivorous(
    recipe: OmnivorousRecipe,
    sources: Sequence[ImageSource],
    options: OmnivorousOptions,
    validation: Sequence[ImageSource] = (),
) -> Path:
    """Train, or resume the run in `options.folder`, and return the path of its `last.safetensors`.

    Args:
        recipe: recipe of the run.
        sources: image sources, in which the two maps and each infrared band are registered to RGB.
        options: options of the run.
        validation: held-out items; at each checkpoint retrieval from RGB by the mean patch token is logged as
            "val_r1_<modality>", and how well RGB is retained as "val_retention".

    Raises:
        CheckpointError: the file to start from is missing or of another kind.
        ResumeError: the run was started from other weights, or with other options that `options.override` does not
            name.
        ValueError: too little data for the batch size, or none to align with RGB.
    """
    folder = options.folder
    refuse_overlap(sources, validation)
    steps = options.steps or recipe.steps
    groups = available_groups(sources)
    with process_group(options.device) as (env, device):
        torch.manual_seed(options.seed)
        first = resume_step(folder)
        backbone, origin = _start(recipe.variant, options, first, env)
        student = OmnivorousStudent(backbone).to(device)
        task = OmnivorousTask(student, recipe, options.seed, first)
        runner = parallelise(student, [], "ddp", device)
        optimiser = _optimiser(student, recipe)
        sampling = _sampling(list(groups), options)
        recorder = _StepRecorder(sampling, options.adaptive, RecentMeans(options.log_every, steps))
        content = {
            "system": "omnivorous",
            "recipe": {name: value for name, value in dataclasses.asdict(recipe).items() if name != "steps"},
            "steps": steps,
            "groups": groups,
            "sources": {source.name: len(source) for source in sources},
            "data": [fingerprint(source) for source in sources],
            "views": dataclasses.asdict(options.views),
            "base": options.base,
            "start": origin,
            "teacher_hash": weights_hash(backbone),
            "seed": options.seed,
            "amp": options.amp,
            "adaptive": options.adaptive,
            "processes": env.world,
            **versions(),
        }
        record = resumed_record(folder, content, first, options.override)
        env.wait()  # all have read it
        if env.first:
            write_record(folder, record)
        train(
            student,
            task,
            omnivorous_batches(
                sources, groups, recipe.batch, recipe.crop, options.seed, steps, first, env.rank, env.world,
                recipe.largest_alpha, sampling, options.workers, options.views, max_damaged=options.max_damaged,
                pin=device.type == "cuda", depth_range_m=recipe.depth_range_m,
            ),
            optimiser,
            LoopOptions(
                steps=steps,
                warmup=round(recipe.warmup * steps),
                clip=recipe.clip,
                ema=0.0,
                amp=options.amp,
                checkpoint_every=options.checkpoint_every,
                log_every=options.log_every,
            ),
            folder,
            device,
            every=partial(_validate, validation, task, recipe, device, env) if validation else None,
            runner=runner,
            after_step=recorder.after_step,
            stateful={"sampling": sampling, "recent": recorder.recent},
        )  # fmt: skip
        path = folder / "last.safetensors"
        if env.first:
            metadata = {"system": "omnivorous", "start": origin, "recipe": json.dumps(dataclasses.asdict(recipe))}
            _save(student.backbone, path, metadata)
            plot_losses({"omnivorous": folder / "log.jsonl"}, folder / "losses.png")
        env.wait()
    return path


def _validate(
    validation: Sequence[ImageSource], task: OmnivorousTask, recipe: OmnivorousRecipe, device: torch.device,
    env: DistEnv, step: int, student: OmnivorousStudent,
) -> dict[str, float]:  # fmt: skip
    """Return retrieval and retention on held-out items, in the first process only."""
    rows: dict[str, list[float]] = {}
    for source in validation if env.first else ():
        for key in sorted({key for item in range(len(source)) for key in source.modalities(item)}):
            found = extract_features(
                student.encoder, source, (key,), recipe.crop, device=device, teacher=task.teacher,
                depth_range_m=recipe.depth_range_m,
            )  # fmt: skip
            rows.setdefault(f"val_r1_{key}", []).append(evaluate_pairs(found)[key]["gap"]["from_rgb"]["r1"])
            rows.setdefault("val_retention", []).append(found.retained["retention_patches"])
    return {name: round(sum(values) / len(values), 6) for name, values in rows.items()}


class _StepRecorder:
    """Pass the losses of each step to adaptive sampling and to the means of the log."""

    def __init__(self, sampling: BandSampling, adaptive: bool, recent: RecentMeans) -> None:
        self._sampling, self._adaptive, self.recent = sampling, adaptive, recent

    def after_step(self, step: int, batch: OmnivorousBatch, losses: dict[str, Tensor]) -> None:
        group = self._sampling.select(step)[0]
        if self._adaptive:
            self._sampling.record(step, group, mean_over_processes({"total": losses["total"]})["total"])
        self.recent.after_step(step, group, losses)


def _sampling(groups: Sequence[str], options: OmnivorousOptions) -> BandSampling:
    return AdaptiveBands(groups, options.seed) if options.adaptive else RoundRobin(groups)


def _start(variant: str, options: OmnivorousOptions, first: int, env: DistEnv) -> tuple[ViT | SpectraDINO, str]:
    """Return the initial backbone of student and teacher and its origin; a copy is saved for resuming.

    Raises:
        ResumeError: the run that resumes was started from other weights than those of `options.start`.
    """
    kept = options.folder / "start.safetensors"
    if first:
        model, origin = _open(kept, variant, options.base), str(read_header(kept).get("origin", kept.name))
        given = options.start
        if given is not None and weights_hash(_open(given, variant, options.base)) != weights_hash(model):
            raise ResumeError(
                f"{options.folder} was started from {origin}, whose weights differ from those of {given}: give the "
                "former file or none, or start in a new folder (--out)"
            )
        return model, origin
    if options.start is not None:
        model, origin = _open(options.start, variant, options.base), options.start.name
    elif options.base == "plain":
        model, origin = ViT(variant), f"random weights, seed {options.seed}"
        log.warning("no weights to start from: the student learns to align random features; give --start FILE")
    else:
        raise ValueError('base "both" starts from a SpectraDINO backbone: give one (--start FILE)')
    if env.first:
        options.folder.mkdir(parents=True, exist_ok=True)
        _save(model, kept, {"origin": origin})
    env.wait()
    return model, origin


def _open(path: Path, variant: str, base: str) -> ViT | SpectraDINO:
    """Load the initial backbone.

    Raises:
        CheckpointError: no such file, or another kind or variant.
        ValueError: an unknown base, or one that the file does not support.
    """
    if base not in ("plain", "both"):
        raise ValueError(f"unknown base {base!r}: choose plain or both")
    if base == "plain":
        return load_teacher(path, variant).network.requires_grad_(True)
    model = load_network(path)
    if model.config.name != variant:
        raise ValueError(f"{path} is a {model.config.title}; the recipe is for variant {variant!r}")
    if isinstance(model, ViT) or len(model.bands) < 2:
        raise ValueError(f'{path} holds no infrared band; use base "plain"')
    return model


def _save(model: ViT | SpectraDINO, path: Path, metadata: dict[str, str]) -> None:
    if isinstance(model, SpectraDINO):
        save_spectradino(model, path, metadata)
    else:
        save_dinov2(model, path, metadata)


def _optimiser(student: OmnivorousStudent, recipe: OmnivorousRecipe) -> torch.optim.Optimizer:
    backbone = student.backbone
    if isinstance(backbone, SpectraDINO):
        return adamw_for(student, backbone, recipe.rate, recipe.weight_decay)
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for parameter in student.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([{**group, "lr": recipe.rate} for group in groups])
