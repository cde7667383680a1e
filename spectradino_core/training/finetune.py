"""Fine-tuning on labelled pairs: one run from recipe to checkpoint.

`<folder>/` gets `model.safetensors`, `recipe.json`, `log.jsonl`, `losses.png` and `checkpoints/`, from which a run that
stopped is taken up. Several processes started by torchrun share each batch and compute what one would.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from spectradino_core.data.mixture import Epochs, IndexedPairs, KeptPairs
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scene_sets import ScenePairs
from spectradino_core.datasets.benchmark import Benchmark
from spectradino_core.datasets.registry import find_benchmark
from spectradino_core.evaluation.perception import score_samples
from spectradino_core.export.torch_engine import TorchEngine
from spectradino_core.files import written_atomically
from spectradino_core.models.detection import AnchorPoints
from spectradino_core.models.perception import Architecture, Perception
from spectradino_core.models.perception_checkpoint import load_backbone, save_perception, warm_start
from spectradino_core.models.pyramid import level_sizes
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.training.batches import BatchStream, Samples, stream
from spectradino_core.training.distributed import DistEnv, process_group, spread
from spectradino_core.training.loop import LoopOptions, resume_step, train
from spectradino_core.training.memory import keep_freed_memory
from spectradino_core.training.modes import count_trainable, freeze_for, parameter_groups
from spectradino_core.training.perception_loss import perception_loss
from spectradino_core.training.recipes import BY_EPOCH, DATA_TERMS, FinetuneRecipe
from spectradino_core.training.train_logger import plot_losses

__all__ = ["TrainingData", "cells_of", "finetune", "labelled_training_data", "open_training_data", "perception_loss"]

log = logging.getLogger(__name__)

_HELD_OUT = 60
"""Most pairs that a training curve's scores are made of."""


@dataclass
class TrainingData:
    """What a run learns from, and what its curves are drawn on.

    Attributes:
        samples: an endless stream of pairs.
        held_out: labelled pairs that are not trained on, iterated at each checkpoint; may be empty.
        sources: each source's share of the samples, for the model's provenance.
        epoch: pairs of one epoch; None: there are no epochs.
        about: what else the model's provenance records about the data.
    """

    samples: Samples
    held_out: Iterable[PairedSample]
    sources: dict[str, float]
    epoch: int | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def told(self) -> str:
        """For a person."""
        shares = self.sources.items()
        names = ", ".join(name if share == 1 else f"{100 * share:.0f} % {name}" for name, share in shares)
        pairs = "" if self.epoch is None else f"{self.epoch} pairs of "
        held_out = f"{len(self.held_out)} pairs" if isinstance(self.held_out, Sized) else "some"
        return f"{pairs}{names} to train on, {held_out} held out for its curves"


def finetune(
    recipe: FinetuneRecipe,
    folder: Path,
    data: Path | None,
    start: Path | None = None,
    device: str = "auto",
    workers: int = 1,
    *,
    backbone: Path | None = None,
    training_data: TrainingData | None = None,
    activation_checkpointing: bool = False,
) -> Path:
    """Runs a recipe, or takes it up where it stopped, and returns the checkpoint's path, `<folder>/model.safetensors`.

    Args:
        recipe: what to do.
        folder: gets the log, the state to resume from and the checkpoint.
        data: the root of the recipe's data set; for recipes of scenes and `real` sets the folder that holds the latter,
            None: those sets are left out, and that is recorded.
        start: a checkpoint of the same architecture to start from, also one for another band; None: random weights.
        device: "auto", "cpu" or "cuda".
        workers: processes that make batches ahead, for each training process.
        backbone: weights of the backbone alone, see `load_backbone`; heads start at random.
        training_data: in place of what the recipe would open, e.g. kept from an earlier run.
        activation_checkpointing: recompute each block in the backward pass: less memory for one more forward pass.

    Raises:
        ValueError: the recipe's parts don't go together, or the data is not what was said (`BenchmarkError`).
        CheckpointError, BundleError: a file to start from does not fit.
        ResumeError: what is in `folder` is damaged or of another run.
        NonFiniteLossError: the loss diverged.
        OSError: a file could not be written.
    """
    with process_group(device) as (place, chosen):
        run = _Run(recipe, folder, data, start, backbone, training_data, place, chosen)
        run.model.backbone.vit.activation_checkpointing = activation_checkpointing
        return run.go(workers)


class _Run:
    """One run on one process."""

    def __init__(
        self, recipe: FinetuneRecipe, folder: Path, data: Path | None, start: Path | None, backbone: Path | None,
        training_data: TrainingData | None, place: DistEnv, device: torch.device,
    ) -> None:  # fmt: skip
        if start is not None and backbone is not None:
            raise ValueError("a run starts from a whole model (start) or from a backbone, not from both")
        self.recipe, self.folder, self.place, self.device = recipe, folder, place, device
        if device.type == "cpu":
            keep_freed_memory()
        self.data = training_data if training_data is not None else open_training_data(recipe, data)
        self.loop = _loop_of(recipe, self.data)
        torch.manual_seed(recipe.seed)
        self.model = Perception(recipe.architecture)
        origin: dict[str, Any] = {}
        if start is not None:
            started = warm_start(self.model, start, recipe.box_classes, recipe.mask_classes)
            origin |= {"start": started.name, "start_taken": started.taken, "start_fresh": started.fresh}
            if self.place.first:
                log.info("start from %s: %s", start, started)
        if backbone is not None:
            origin["backbone"] = load_backbone(self.model, backbone)
        freeze_for(recipe.mode, self.model, recipe.frozen)
        self.model.to(device)
        groups = parameter_groups(self.model, recipe.rates, recipe.weight_decay, recipe.layer_decay)
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, recipe.beta2), fused=True)
        terms = [DATA_TERMS[name] for name in self.data.sources if name in DATA_TERMS]
        if start is not None and started.terms:  # what starts from a model is derived from its data too
            terms += [one for one in started.terms.split("; ") if one not in terms]
        if terms:
            origin["terms"] = "; ".join(terms)
        self.info = recipe.info().with_(provenance=self._provenance() | origin)

    def go(self, workers: int) -> Path:
        recipe, place = self.recipe, self.place
        first = resume_step(self.folder)
        trained, whole = count_trainable(self.model)
        if place.first:
            if first:
                log.info("taking up the run in %s at step %d of %d", self.folder, first, self.loop.steps)
            log.info(
                "%s: mode %s trains %.2f of %.2f million parameters, %d steps of %d pairs",
                recipe.name, recipe.mode, trained / 1e6, whole / 1e6, self.loop.steps, recipe.batch,
            )  # fmt: skip
            log.info("%s: %s; results go to %s", recipe.name, self.data.told(), self.folder)
            if not first:
                self._write_recipe()
        runner = spread(self.model, [], "ddp", self.device)
        batches = BatchStream(
            self.data.samples, recipe.batch, recipe.architecture.bands[1], recipe.input_size, recipe.thermal,
            self.loop.steps, first, cells=cells_of(recipe), rank=place.rank, world=place.world, early=self._early(),
            mask_stride=recipe.mask_stride,
        )  # fmt: skip
        started = time.time()
        kept = train(
            self.model,
            lambda module, batch: perception_loss(module(batch.images, batch.present), batch, recipe),
            stream(batches, workers, pin=self.device.type == "cuda"),
            self.optimiser,
            self.loop,
            self.folder,
            self.device,
            every=self._check,
            runner=runner,
        )
        self.info.provenance["minutes" if not first else "minutes_since_resumed"] = round(
            (time.time() - started) / 60, 1
        )
        path = self.folder / "model.safetensors"
        if place.first:
            save_perception(path, kept, self.info)
            plot_losses({recipe.name: self.folder / "log.jsonl"}, self.folder / "losses.png")
        place.wait()
        return path

    def _early(self) -> tuple[int, tuple[int, int], AnchorPoints | None] | None:
        """See `BatchStream`."""
        size = self.recipe.early_size
        if size is None:
            return None
        return round(self.recipe.early * self.loop.steps), size, cells_of(replace(self.recipe, input_size=size))

    def _check(self, step: int, kept: Perception) -> dict[str, float]:
        """Scores on what is held out, by the pipeline that serves; one process makes them."""
        if not self.place.first:
            return {}
        held_out = _with_labels_of(self.recipe.architecture, self.data.held_out)
        scores = score_samples(Pipeline(TorchEngine.of(kept, self.info)), held_out)
        told = {"val_map50": scores["map50"], "val_miou": scores["miou"]}
        return {name: value for name, value in told.items() if value == value}  # not of what there is no label or head

    def _provenance(self) -> dict[str, Any]:
        recipe, device = self.recipe, self.device
        return {
            "recipe": recipe.name,
            "dataset": recipe.dataset,
            "architecture": recipe.architecture.to_dict(),
            "mode": recipe.mode,
            "seed": recipe.seed,
            "steps": self.loop.steps,
            "batch": recipe.batch,
            "sources": self.data.sources,
            **({"data": self.data.about} if self.data.about else {}),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU ({platform.machine()})",
        }

    def _write_recipe(self) -> None:
        content = {
            "recipe": dataclasses.asdict(replace(self.recipe, loop=self.loop)),
            "processes": self.place.world,
            "trained": [name for name, p in self.model.named_parameters() if p.requires_grad],
            "provenance": self.info.provenance,
        }
        with written_atomically(self.folder / "recipe.json") as scratch:
            scratch.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def open_training_data(recipe: FinetuneRecipe, data: Path | None) -> TrainingData:
    """What a recipe learns from.

    Args:
        recipe: its `dataset`, or its scenes and `real` sets.
        data: see `finetune`.

    Raises:
        ValueError: a set is missing or not what it was said to be.
    """
    if recipe.dataset is None:
        mixture, sources = recipe.mixture(data)
        scenes = ScenePairs.held_out("curves", 40, recipe.architecture.bands[1], recipe.scene_size)
        return TrainingData(mixture, scenes, sources)
    return labelled_training_data(recipe, find_benchmark(recipe.dataset), data)


def labelled_training_data(recipe: FinetuneRecipe, benchmark: Benchmark, root: Path | None) -> TrainingData:
    """The training split of a labelled data set, and its val split for the curves.

    Args:
        recipe: how it is learnt.
        benchmark: the data set.
        root: its folder.

    Raises:
        BenchmarkError: it is missing or not what it was said to be.
    """
    pairs = benchmark.open(root, benchmark.train_split)
    # More pixels than the largest zoom shows are of no use.
    largest = recipe.augmentation.zoom[1]
    sides = (round(recipe.input_size[0] * largest), round(recipe.input_size[1] * largest))
    kept = KeptPairs(pairs, sides, change=partial(_stripped, architecture=recipe.architecture))
    samples = Epochs(kept, recipe.augmentation, recipe.seed)
    held_out = benchmark.open(root, "val" if "val" in benchmark.splits else benchmark.report_split)
    return TrainingData(samples, _Few(held_out, recipe.input_size), {pairs.name: 1.0}, epoch=len(pairs))


def _loop_of(recipe: FinetuneRecipe, data: TrainingData) -> LoopOptions:
    """The recipe's loop with its epochs as steps."""
    loop = recipe.loop
    if recipe.epochs is not None:
        if data.epoch is None:
            raise ValueError("this recipe counts in epochs, and its data has none: give steps")
        steps = max(1, -(-recipe.epochs * data.epoch // recipe.batch))
        loop = replace(loop, steps=steps, warmup=min(loop.warmup, steps // 10))
    if loop.checkpoint_every == BY_EPOCH:
        epoch = -(-(data.epoch or 1) // recipe.batch)
        loop = replace(loop, checkpoint_every=min(loop.steps, max(epoch, -(-loop.steps // 10))))
    return loop


def cells_of(recipe: FinetuneRecipe) -> AnchorPoints | None:
    """Those of the detection head, on which the processes that make batches assign objects."""
    strides, (width, height) = recipe.architecture.cell_strides, recipe.input_size
    if not recipe.architecture.box_classes:
        return None
    return AnchorPoints.of_sizes(level_sizes((height, width), strides), strides)


def _with_labels_of(architecture: Architecture, samples: Iterable[PairedSample]) -> Iterator[PairedSample]:
    """Samples without the labels that no head learns."""
    for sample in samples:
        yield _stripped(sample, architecture)


def _stripped(sample: PairedSample, architecture: Architecture) -> PairedSample:
    if not architecture.box_classes:
        sample = replace(sample, boxes=None, labels=None, ignored=None, ignored_labels=None)
    return sample if architecture.mask_classes else replace(sample, mask=None)


class _Few:
    """A few pairs of a set, spread over it, as large as the network needs them."""

    def __init__(self, pairs: IndexedPairs, size: tuple[int, int]) -> None:
        self._pairs = KeptPairs(pairs, (2 * size[0], 2 * size[1]), room=1 << 28)

    def __len__(self) -> int:
        return min(len(self._pairs), _HELD_OUT)

    def __iter__(self) -> Iterator[PairedSample]:
        return (self._pairs[place * len(self._pairs) // len(self)] for place in range(len(self)))
