"""Runs Omnivorous pretraining: from weights and sources of images to a backbone file.

`<folder>/` gets `last.safetensors` (a plain DINOv2 in the official layout, or a SpectraDINO), `start.safetensors` (what
it started from, which anchors it; a resumed run needs it), `recipe.json`, `log.jsonl`, `losses.png` and `checkpoints/`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from spectradino_core.data.omnivorous import OmnivorousBatch, available_groups, omnivorous_batches
from spectradino_core.data.sampling import AdaptiveBands, BandSampling, RoundRobin
from spectradino_core.data.sources import ImageSource
from spectradino_core.data.views import ViewOptions
from spectradino_core.files import written_atomically
from spectradino_core.models.checkpoints import read_header, save_dinov2, save_spectradino
from spectradino_core.models.perception_checkpoint import load_network
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import ViT
from spectradino_core.training.distributed import DistEnv, mean_over_processes, process_group, spread
from spectradino_core.training.loop import LoopOptions, resume_step, train
from spectradino_core.training.means import RecentMeans
from spectradino_core.training.omnivorous import OmnivorousRecipe, OmnivorousStudent, OmnivorousTask
from spectradino_core.training.optimiser import adamw_for
from spectradino_core.training.teacher import load_teacher
from spectradino_core.training.train_logger import plot_losses

__all__ = ["OmnivorousOptions", "pretrain_omnivorous"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OmnivorousOptions:
    """How a recipe is run; nothing here is the paper's.

    Attributes:
        folder: of the run.
        start: DINOv2 weights in any layout, or one of our backbones or fine-tuned models; None: random weights.
        base: "plain": everything is a colour picture (of a model of ours the RGB path is taken); "both": infrared goes
            through the stems and adapters of a model of ours.
        steps: in place of the recipe's.
        device: "auto", "cpu" or "cuda".
        amp: "bf16", "fp16" or "fp32".
        workers: processes that make batches, per training process.
        views: how views are drawn.
        adaptive: groups by their loss in place of round robin.
        max_damaged: share of the items that may be unreadable.
        seed: of views, blending and sampled positions, and of random weights.
        checkpoint_every, log_every: steps.
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


def pretrain_omnivorous(recipe: OmnivorousRecipe, sources: Sequence[ImageSource], options: OmnivorousOptions) -> Path:
    """Trains, or goes on where the run in `options.folder` stopped; returns its `last.safetensors`.

    Args:
        recipe: what to compute.
        sources: images; what they hold is aligned: the two maps with RGB, and each infrared band with RGB.
        options: how.

    Raises:
        CheckpointError: the file to start from is missing or of another kind.
        ValueError: no data for the batch asked for.
    """
    folder = options.folder
    steps = options.steps or recipe.steps
    groups = available_groups(sources)
    with process_group(options.device) as (place, device):
        torch.manual_seed(options.seed)
        first = resume_step(folder)
        backbone, origin = _start(recipe.variant, options, first, place)
        student = OmnivorousStudent(backbone).to(device)
        task = OmnivorousTask(student, recipe, options.seed, first)
        runner = spread(student, [], "ddp", device)
        optimiser = _optimiser(student, recipe)
        sampling = _sampling(list(groups), options)
        shown = _Shown(sampling, options.adaptive, RecentMeans(options.log_every, steps))
        if place.first and not first:
            _write_recipe(folder, recipe, options, steps, groups, sources, origin)
        train(
            student,
            task,
            omnivorous_batches(
                sources, groups, recipe.batch, recipe.crop, options.seed, steps, first, place.rank, place.world,
                recipe.largest_alpha, sampling, options.workers, options.views, max_damaged=options.max_damaged,
                pin=device.type == "cuda",
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
            runner=runner,
            after_step=shown.after_step,
            stateful={"sampling": sampling, "recent": shown.recent},
        )  # fmt: skip
        path = folder / "last.safetensors"
        if place.first:
            told = {"system": "omnivorous", "start": origin, "recipe": json.dumps(dataclasses.asdict(recipe))}
            _save(student.backbone, path, told)
            plot_losses({"omnivorous": folder / "log.jsonl"}, folder / "losses.png")
        place.wait()
    return path


class _Shown:
    """Tells an adaptive sampling and the log's means what came of each step."""

    def __init__(self, sampling: BandSampling, adaptive: bool, recent: RecentMeans) -> None:
        self._sampling, self._adaptive, self.recent = sampling, adaptive, recent

    def after_step(self, step: int, batch: OmnivorousBatch, losses: dict[str, Tensor]) -> None:
        group = self._sampling.place(step)[0]
        if self._adaptive:
            self._sampling.record(step, group, mean_over_processes({"total": losses["total"]})["total"])
        self.recent.after_step(step, group, losses)


def _sampling(groups: Sequence[str], options: OmnivorousOptions) -> BandSampling:
    return AdaptiveBands(groups, options.seed) if options.adaptive else RoundRobin(groups)


def _start(variant: str, options: OmnivorousOptions, first: int, place: DistEnv) -> tuple[ViT | SpectraDINO, str]:
    """The backbone that the student and its teacher begin as. A run keeps a copy, since a resumed one needs it."""
    kept = options.folder / "start.safetensors"
    if first:
        return _open(kept, variant, options.base), str(read_header(kept).get("origin", kept.name))
    if options.start is not None:
        model, origin = _open(options.start, variant, options.base), options.start.name
    elif options.base == "plain":
        model, origin = ViT(variant), f"random weights, seed {options.seed}"
        log.warning("no weights to start from: the student learns to align random features")
    else:
        raise ValueError('base "both" starts from a SpectraDINO backbone: give one')
    if place.first:
        options.folder.mkdir(parents=True, exist_ok=True)
        _save(model, kept, {"origin": origin})
    place.wait()
    return model, origin


def _open(path: Path, variant: str, base: str) -> ViT | SpectraDINO:
    """
    Raises:
        CheckpointError: no such file, another kind, or another variant.
        ValueError: an unknown base, or one that the file is not.
    """
    if base not in ("plain", "both"):
        raise ValueError(f"unknown base {base!r}: choose plain or both")
    if base == "plain":
        return load_teacher(path, variant).network.requires_grad_(True)
    model = load_network(path)
    if model.config.name != variant:
        raise ValueError(f"{path} is a {model.config.title}; the recipe is of variant {variant!r}")
    if isinstance(model, ViT) or len(model.bands) < 2:
        raise ValueError(f'{path} holds no infrared band; use base "plain"')
    return model


def _save(model: ViT | SpectraDINO, path: Path, told: dict[str, str]) -> None:
    if isinstance(model, SpectraDINO):
        save_spectradino(model, path, told)
    else:
        save_dinov2(model, path, told)


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


def _write_recipe(
    folder: Path, recipe: OmnivorousRecipe, options: OmnivorousOptions, steps: int,
    groups: dict[str, tuple[str, ...]], sources: Sequence[ImageSource], origin: str,
) -> None:  # fmt: skip
    content = {
        "system": "omnivorous",
        "recipe": dataclasses.asdict(recipe),
        "steps": steps,
        "groups": groups,
        "sources": {source.name: len(source) for source in sources},
        "start": origin,
        "seed": options.seed,
        "amp": options.amp,
        "torch": torch.__version__,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with written_atomically(folder / "recipe.json") as scratch:
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
