"""Fine-tuning on labelled pairs: one run from recipe to checkpoint.

`<folder>/` receives `model.safetensors`, `recipe.json`, `log.jsonl`, `losses.png` and `checkpoints/`, from which an
interrupted run resumes. Processes started by torchrun divide each batch and give the result of a single process.
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
from spectradino_core.training.distributed import DistEnv, parallelise, process_group
from spectradino_core.training.loop import LoopOptions, resume_step, train
from spectradino_core.training.means import RecentMeans
from spectradino_core.training.memory import keep_freed_memory
from spectradino_core.training.modes import count_trainable, freeze_for, parameter_groups
from spectradino_core.training.perception_loss import perception_loss
from spectradino_core.training.recipes import BY_EPOCH, DATA_TERMS, FinetuneRecipe
from spectradino_core.training.train_logger import plot_losses

__all__ = [
    "TrainingData",
    "anchor_points",
    "finetune",
    "labelled_training_data",
    "open_training_data",
    "perception_loss",
]

log = logging.getLogger(__name__)

_HELD_OUT = 60
"""Maximum number of held-out pairs for the scores in the training log."""


@dataclass
class TrainingData:
    """Training samples and held-out pairs of a run.

    Attributes:
        samples: unlimited stream of pairs.
        held_out: labelled pairs that are not trained on, scored at each checkpoint; may be empty.
        sources: each source's fraction of the samples, for the model's provenance.
        epoch: pairs per epoch; None: no epochs.
        about: further entries of the model's provenance about the data.
    """

    samples: Samples
    held_out: Iterable[PairedSample]
    sources: dict[str, float]
    epoch: int | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """Return a description for the log."""
        sources = self.sources.items()
        names = ", ".join(name if part == 1 else f"{100 * part:.0f} % {name}" for name, part in sources)
        pairs = "" if self.epoch is None else f"{self.epoch} pairs of "
        held_out = f"{len(self.held_out)} pairs" if isinstance(self.held_out, Sized) else "some"
        return f"training on {pairs}{names}; {held_out} held out for validation"


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
    """Run or resume a recipe and return the path of its model, `<folder>/model.safetensors`.

    Args:
        recipe: recipe of the run.
        folder: receives the log, the checkpoints and the model.
        data: root of the recipe's data set, or the folder of its `real` data sets; None: these are skipped, which is
            recorded in the provenance.
        start: model of the same architecture to start from, possibly of another band; None: random weights.
        device: "auto", "cpu" or "cuda".
        workers: data loading processes per training process.
        backbone: weights of the backbone only, see `load_backbone`; heads start at random.
        training_data: replaces the data that the recipe would open, e.g. to reuse that of an earlier run.
        activation_checkpointing: recompute each block in the backward pass: less memory for one more forward pass.

    Raises:
        ValueError: the recipe's settings conflict, or the data does not match its description (`BenchmarkError`).
        CheckpointError, BundleError: a file to start from does not match.
        ResumeError: a checkpoint in `folder` is damaged or belongs to another run.
        NonFiniteLossError: the loss diverged.
        OSError: a file could not be written.
    """
    with process_group(device) as (env, chosen):
        run = _FinetuneRun(recipe, folder, data, start, backbone, training_data, env, chosen)
        run.model.backbone.vit.activation_checkpointing = activation_checkpointing
        return run.go(workers)


class _FinetuneRun:
    """One run in one process."""

    def __init__(
        self, recipe: FinetuneRecipe, folder: Path, data: Path | None, start: Path | None, backbone: Path | None,
        training_data: TrainingData | None, env: DistEnv, device: torch.device,
    ) -> None:  # fmt: skip
        if start is not None and backbone is not None:
            raise ValueError("a run starts from a model or from a backbone, not from both: give --start or --backbone")
        self.recipe, self.folder, self.env, self.device = recipe, folder, env, device
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
            if self.env.first:
                log.info("start from %s: %s", start, started)
        if backbone is not None:
            origin["backbone"] = load_backbone(self.model, backbone)
        freeze_for(recipe.mode, self.model, recipe.frozen)
        self.model.to(device)
        groups = parameter_groups(self.model, recipe.rates, recipe.weight_decay, recipe.layer_decay)
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, recipe.beta2), fused=True)
        terms = [DATA_TERMS[name] for name in self.data.sources if name in DATA_TERMS]
        if start is not None and started.terms:  # the new model also derives from the data of its start model
            terms += [one for one in started.terms.split("; ") if one not in terms]
        if terms:
            origin["terms"] = "; ".join(terms)
        self.info = recipe.info().with_(provenance=self._provenance() | origin)

    def go(self, workers: int) -> Path:
        recipe, env = self.recipe, self.env
        first = resume_step(self.folder)
        trained, total = count_trainable(self.model)
        if env.first:
            if first:
                log.info("resuming the run in %s at step %d of %d", self.folder, first, self.loop.steps)
            log.info(
                "%s: mode %s trains %.2f of %.2f million parameters, %d steps of %d pairs",
                recipe.name, recipe.mode, trained / 1e6, total / 1e6, self.loop.steps, recipe.batch,
            )  # fmt: skip
            log.info("%s: %s; results in %s", recipe.name, self.data.describe(), self.folder)
            if not first:
                self._write_recipe()
        runner = parallelise(self.model, [], "ddp", self.device)
        batches = BatchStream(
            self.data.samples, recipe.batch, recipe.architecture.bands[1], recipe.input_size, recipe.thermal,
            self.loop.steps, first, anchors=anchor_points(recipe), rank=env.rank, world=env.world, early=self._early(),
            mask_stride=recipe.mask_stride,
        )  # fmt: skip
        recent = RecentMeans(self.loop.log_every, self.loop.steps, only=("clipped",))
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
            after_step=lambda step, batch, losses: recent.after_step(step, "", losses),
        )
        self.info.provenance["minutes" if not first else "minutes_since_resumed"] = round(
            (time.time() - started) / 60, 1
        )
        path = self.folder / "model.safetensors"
        if env.first:
            save_perception(path, kept, self.info)
            plot_losses({recipe.name: self.folder / "log.jsonl"}, self.folder / "losses.png")
        env.wait()
        return path

    def _early(self) -> tuple[int, tuple[int, int], AnchorPoints | None] | None:
        """See `BatchStream`."""
        size = self.recipe.early_size
        if size is None:
            return None
        return round(self.recipe.early * self.loop.steps), size, anchor_points(replace(self.recipe, input_size=size))

    def _check(self, step: int, kept: Perception) -> dict[str, float]:
        """Score the held-out pairs with the serving pipeline, in the first process only."""
        if not self.env.first:
            return {}
        held_out = (_drop_labels(sample, self.recipe.architecture) for sample in self.data.held_out)
        scores = score_samples(Pipeline(TorchEngine.of(kept, self.info)), held_out)
        logged = {"val_map50": scores["map50"], "val_miou": scores["miou"]}
        return {name: value for name, value in logged.items() if value == value}  # NaN without labels or head

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
            "processes": self.env.world,
            "trained": [name for name, p in self.model.named_parameters() if p.requires_grad],
            "provenance": self.info.provenance,
        }
        with written_atomically(self.folder / "recipe.json") as scratch:
            scratch.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def open_training_data(recipe: FinetuneRecipe, data: Path | None) -> TrainingData:
    """Open the training data of a recipe: its `dataset`, or its scenes and `real` data sets.

    Args:
        recipe: recipe of the run.
        data: see `finetune`.

    Raises:
        ValueError: a data set is missing or does not match its description.
    """
    if recipe.dataset is None:
        mixture, sources = recipe.mixture(data)
        scenes = ScenePairs.held_out("curves", 40, recipe.architecture.bands[1], recipe.scene_size)
        return TrainingData(mixture, scenes, sources)
    return labelled_training_data(recipe, find_benchmark(recipe.dataset), data)


def labelled_training_data(recipe: FinetuneRecipe, benchmark: Benchmark, root: Path | None) -> TrainingData:
    """Open the training split of a labelled data set, and its val split for validation.

    Args:
        recipe: recipe of the run.
        benchmark: the data set.
        root: folder of the data set.

    Raises:
        BenchmarkError: the data set is missing or does not match its description.
    """
    pairs = benchmark.open(root, benchmark.train_split)
    # The largest zoom never needs more pixels.
    largest = recipe.augmentation.zoom[1]
    sides = (round(recipe.input_size[0] * largest), round(recipe.input_size[1] * largest))
    kept = KeptPairs(pairs, sides, change=partial(_drop_labels, architecture=recipe.architecture))
    samples = Epochs(kept, recipe.augmentation, recipe.seed)
    held_out = benchmark.open(root, "val" if "val" in benchmark.splits else benchmark.report_split)
    return TrainingData(samples, _HeldOutPairs(held_out, recipe.input_size), {pairs.name: 1.0}, epoch=len(pairs))


def _loop_of(recipe: FinetuneRecipe, data: TrainingData) -> LoopOptions:
    """Return the recipe's loop options with epochs converted to steps."""
    loop = recipe.loop
    if recipe.epochs is not None:
        if data.epoch is None:
            raise ValueError("this recipe counts in epochs, but its data has none: give --steps")
        steps = max(1, -(-recipe.epochs * data.epoch // recipe.batch))
        loop = replace(loop, steps=steps, warmup=min(loop.warmup, steps // 10))
    if loop.checkpoint_every == BY_EPOCH:
        epoch = -(-(data.epoch or 1) // recipe.batch)
        loop = replace(loop, checkpoint_every=min(loop.steps, max(epoch, -(-loop.steps // 10))))
    return loop


def anchor_points(recipe: FinetuneRecipe) -> AnchorPoints | None:
    """Return the detection head's anchor points, to which data loading processes assign objects; None: no head."""
    strides, (width, height) = recipe.architecture.cell_strides, recipe.input_size
    if not recipe.architecture.box_classes:
        return None
    return AnchorPoints.of_sizes(level_sizes((height, width), strides), strides)


def _drop_labels(sample: PairedSample, architecture: Architecture) -> PairedSample:
    """Return the sample without the labels for which the architecture has no head."""
    if not architecture.box_classes:
        sample = replace(sample, boxes=None, labels=None, ignored=None, ignored_labels=None)
    return sample if architecture.mask_classes else replace(sample, mask=None)


class _HeldOutPairs:
    """Up to `_HELD_OUT` pairs, evenly spaced over a data set, scaled down to twice the network's input."""

    def __init__(self, pairs: IndexedPairs, size: tuple[int, int]) -> None:
        self._pairs = KeptPairs(pairs, (2 * size[0], 2 * size[1]), room=1 << 28)

    def __len__(self) -> int:
        return min(len(self._pairs), _HELD_OUT)

    def __iter__(self) -> Iterator[PairedSample]:
        return (self._pairs[index * len(self._pairs) // len(self)] for index in range(len(self)))
