"""Fine-tuning on labelled pairs: one run from recipe to checkpoint, and its loss.

`<folder>/` receives `model.safetensors`, `recipe.json`, `log.jsonl`, `losses.png` and `checkpoints/`, from which an
interrupted run resumes. Processes started by torchrun divide each batch and give the result of a single process.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import logging
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectradino_core.data.loading import Loader
from spectradino_core.data.mixture import CachedPairs, Epochs, IndexedPairs
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scene_sets import ScenePairs
from spectradino_core.datasets.benchmark import Benchmark
from spectradino_core.datasets.registry import find_benchmark
from spectradino_core.evaluation.scorer import score_samples
from spectradino_core.export.torch_engine import TorchEngine
from spectradino_core.files import file_digest, read_json
from spectradino_core.losses.perception import focal_loss, giou_loss, segmentation_loss
from spectradino_core.models.detection import IGNORE_INDEX, AnchorPoints
from spectradino_core.models.perception import Architecture, Perception, Predictions
from spectradino_core.models.perception_checkpoint import (
    describe_checkpoint,
    load_backbone,
    save_perception,
    warm_start,
)
from spectradino_core.models.pyramid import level_sizes
from spectradino_core.models.weight_files import CheckpointError
from spectradino_core.runtime.bundle import BundleError
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.training.batches import BatchStream, LabelledBatch, Samples
from spectradino_core.training.checkpoints import ResumeError, resume_step
from spectradino_core.training.distributed import DistEnv, parallelise, process_group, sum_over_processes
from spectradino_core.training.loop import LoopOptions, train
from spectradino_core.training.modes import count_trainable, freeze_for, parameter_groups
from spectradino_core.training.recipes import BY_EPOCH, FinetuneRecipe, data_terms
from spectradino_core.training.runs import changed_entries, describe_changes, with_current_names, write_record
from spectradino_core.training.train_logger import RecentMeans, plot_losses, read_log

log = logging.getLogger(__name__)

_HELD_OUT = 60
"""Maximum number of held-out pairs for the scores in the training log."""


@dataclass
class TrainingData:
    """Training samples (an unlimited stream of pairs) and held-out pairs of a run.

    Attributes:
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
        recipe, folder: recipe and folder of the run.
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
        ResumeError: a checkpoint in `folder` is damaged, or the run in it has other settings or more steps.
        NonFiniteLossError: the loss diverged.
        OSError: a file could not be written.
    """
    if start is not None and backbone is not None:
        raise ValueError("a run starts from a model or from a backbone, not from both: give --start or --backbone")
    with process_group(device) as (env, on):
        if on.type == "cpu":
            keep_freed_memory()
        used = training_data if training_data is not None else open_training_data(recipe, data)
        loop = _loop_of(recipe, used)
        recipe = replace(recipe, loop=loop)
        torch.manual_seed(recipe.seed)
        model = Perception(recipe.architecture)
        model.backbone.vit.activation_checkpointing = activation_checkpointing
        origin = _start_from(model, recipe, used, start, backbone)
        info = recipe.info().with_(provenance=_provenance(recipe, used, on) | origin)
        freeze_for(recipe.mode, model, recipe.frozen)
        model.to(on)
        groups = parameter_groups(model, recipe.lr, recipe.weight_decay, recipe.layer_decay)
        optimiser = torch.optim.AdamW(groups, betas=(0.9, recipe.beta2), fused=True)
        first = resume_step(folder)
        trained, total = count_trainable(model)
        path = folder / "model.safetensors"
        record = {
            "recipe": dataclasses.asdict(recipe),
            "processes": env.world,
            "trained": [name for name, p in model.named_parameters() if p.requires_grad],
            "provenance": info.provenance,
            "start_sha256": _digest_of(start or backbone),
            "pairs": used.epoch,
        }
        if first:
            _check_resumed(folder, record)
            if first > loop.steps:
                raise ResumeError(
                    f"the run in {folder} is at step {first}, beyond the {loop.steps} steps of this one: give more "
                    "steps, or a new folder (--out)"
                )
            if first == loop.steps and _is_of_step(path, first):
                log.info("the run in %s has done its %d steps: nothing to do", folder, first)
                return path
            log.info("resuming the run in %s at step %d of %d", folder, first, loop.steps)
        log.info(
            "%s: mode %s trains %.2f of %.2f million parameters, %d steps of %d pairs",
            recipe.name, recipe.mode, trained / 1e6, total / 1e6, loop.steps, recipe.batch,
        )  # fmt: skip
        log.info("%s: %s; results in %s", recipe.name, used.describe(), folder)
        if env.first and not first:
            write_record(folder, record)

        def score(step: int, model: Perception) -> dict[str, float]:
            """Score the held-out pairs with the serving pipeline, in the first process only."""
            if not env.first:
                return {}
            held_out = (_drop_labels(sample, recipe.architecture) for sample in used.held_out)
            scores = score_samples(Pipeline(TorchEngine.of(model, info)), held_out)
            logged = {"val_map50": scores["map50"], "val_miou": scores["miou"]}
            return {name: value for name, value in logged.items() if value == value}  # NaN without labels or head

        batches = BatchStream(
            used.samples, recipe.batch, recipe.architecture.bands[1], recipe.input_size, recipe.thermal, loop.steps,
            first, anchors=anchor_points(recipe), rank=env.rank, world=env.world, early=_early(recipe),
            mask_stride=recipe.mask_stride,
        )  # fmt: skip
        recent = RecentMeans(loop.log_every, loop.steps, only=("clipped",))
        started = time.time()
        kept = train(
            model,
            lambda module, batch: perception_loss(module(batch.images, batch.present), batch, recipe),
            Loader(batches, workers, pin=on.type == "cuda"),
            optimiser,
            loop,
            folder,
            on,
            every=score,
            runner=parallelise(model, [], "ddp", on),
            after_step=lambda step, batch, losses: recent.after_step(step, "", losses),
            score_start=start is not None,
        )
        minutes = round((time.time() - started) / 60, 1)
        info.provenance["minutes_since_resumed" if first else "minutes"] = minutes
        if env.first:
            save_perception(path, kept, info)
            plot_losses({recipe.name: folder / "log.jsonl"}, folder / "losses.png")
            log.info("%s: %s", recipe.name, _progress(folder / "log.jsonl"))
        env.wait()
    return path


def _progress(path: Path) -> str:
    """Return the first and last scores on held-out pairs in a log; those of step 0 are the start model's."""
    rows = [row for row in read_log(path) if any(name.startswith("val_") for name in row)]
    if not rows:
        return "no scores, since no held-out pair has labels"
    first, last = rows[0], rows[-1]
    if first is last:
        scores = [f"{name} {value:.3f}" for name, value in last.items() if name != "step"]
        return f"on held-out pairs at step {last['step']}: {', '.join(scores)}"
    scores = [f"{name} {first[name]:.3f} to {last[name]:.3f}" for name in last if name != "step" and name in first]
    return f"on held-out pairs, from step {first['step']} to {last['step']}: {', '.join(scores)}"


def _is_of_step(path: Path, step: int) -> bool:
    """Return whether a model file holds the weights of a step; a run may have ended before it wrote them."""
    try:
        return describe_checkpoint(path)[0].provenance.get("steps") == step
    except (BundleError, CheckpointError):
        return False


def _digest_of(weights: Path | None) -> str | None:
    """Return the SHA-256 of a file of weights; None without one, or for a folder."""
    return file_digest(weights) if weights is not None and weights.is_file() else None


def _check_resumed(folder: Path, record: dict[str, Any]) -> None:
    """Raise ResumeError if the run in `folder` was started with other data, weights or settings.

    Its length and what does not change the result, such as the interval of checkpoints, may differ.
    """
    path = folder / "recipe.json"
    if not path.is_file():
        return
    stored = read_json(path, "settings file")
    if isinstance(stored, dict):
        stored["recipe"] = with_current_names(stored.get("recipe"))
    parts = [stored.get(name) if isinstance(stored, dict) else None for name in ("recipe", "provenance")]
    if not all(isinstance(part, dict) for part in (*parts, *(part.get("loop") for part in parts[:1] if part))):
        raise ResumeError(f"{path} is not the record of a fine-tuning run: start in a new folder (--out)")
    then, now = (_compared(one) for one in (stored, json.loads(json.dumps(record, default=str))))
    if then.get("start_sha256") and now["start_sha256"]:  # a file may be moved; folders have no digest
        now = {name: value for name, value in now.items() if name not in ("start", "backbone")}
    if changed := changed_entries(then, now):
        raise ResumeError(
            f"{folder} holds a run with other settings: {describe_changes(changed, then, now)}. Use the previous ones "
            "to resume it, or a new folder (--out)"
        )


def _compared(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `recipe.json` that a run must have in common with the one that it resumes."""
    recipe, provenance = record["recipe"], record["provenance"]
    out: dict[str, Any] = {}
    for name, value in recipe.items():
        if name not in ("loop", "epochs"):
            out |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    out |= {f"loop.{name}": recipe["loop"][name] for name in ("final", "clip", "ema") if name in recipe["loop"]}
    # As lists, since a set that one of them lacks is a difference too.
    out |= {name: sorted(provenance[name].items()) for name in ("sources", "data") if provenance.get(name)}
    out |= {name: provenance.get(name) for name in ("start", "backbone")}
    return out | {name: record[name] for name in ("start_sha256", "pairs") if name in record}


def _start_from(
    model: Perception, recipe: FinetuneRecipe, data: TrainingData, start: Path | None, backbone: Path | None
) -> dict[str, Any]:
    """Load the initial weights, and return their origin and the terms of all data for the provenance."""
    origin: dict[str, Any] = {}
    terms = data_terms(data.sources)
    if start is not None:
        started = warm_start(model, start, recipe.box_classes, recipe.mask_classes)
        log.info("start from %s: %s", start, started)
        origin = {"start": started.name, "start_taken": started.taken, "start_fresh": started.fresh}
        # The new model also derives from the data of its start model.
        terms += [one for one in started.terms.split("; ") if one and one not in terms]
    if backbone is not None:
        origin["backbone"] = load_backbone(model, backbone)
    return origin | ({"terms": "; ".join(terms)} if terms else {})


def _provenance(recipe: FinetuneRecipe, data: TrainingData, device: torch.device) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "dataset": recipe.dataset,
        "architecture": recipe.architecture.to_dict(),
        "mode": recipe.mode,
        "seed": recipe.seed,
        "steps": recipe.loop.steps,
        "batch": recipe.batch,
        "sources": data.sources,
        **({"data": data.about} if data.about else {}),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU ({platform.machine()})",
    }


def _early(recipe: FinetuneRecipe) -> tuple[int, tuple[int, int], AnchorPoints | None] | None:
    """Return the `early` of `BatchStream`."""
    size = recipe.early_size
    if size is None:
        return None
    return round(recipe.early * recipe.loop.steps), size, anchor_points(replace(recipe, input_size=size))


def perception_loss(predictions: Predictions, batch: LabelledBatch, weights: FinetuneRecipe) -> dict[str, Tensor]:
    """Compute the fine-tuning loss of a batch.

    Focal and GIoU sums are divided by the number of positive anchor points, cross entropy by the number of labelled
    pixels, both counted over all processes and micro-batches, so that neither changes the result. Excluded are images
    without box labels from the detection loss, unlabelled pixels from the mask loss, and from the focal loss anchor
    points in ignored regions and the logits of classes that an image's data set does not label.

    Returns:
        The weighted sum "total" and, detached, "class" and "box" (with a detection head) and "mask" (with a
        segmentation head).
    """
    world = DistEnv.current().world  # DDP averages gradients, hence counts per process
    positives, pixels = (sum_over_processes(batch.counts) / world).to(torch.float32)
    positives = positives.clamp(min=1 / world)
    losses: dict[str, Tensor] = {}
    total = torch.zeros((), device=batch.present.device)
    if predictions.logits is not None:
        losses["class"], losses["box"] = _detection_loss(predictions, batch, positives)
        total = total + weights.class_weight * losses["class"] + weights.box_weight * losses["box"]
    if predictions.mask_logits is not None:
        losses["mask"] = segmentation_loss(predictions.mask_logits, batch.mask, pixels=pixels)
        total = total + weights.mask_weight * losses["mask"]
    return {"total": total, **{name: value.detach() for name, value in losses.items()}}


def _detection_loss(predictions: Predictions, batch: LabelledBatch, positives: Tensor) -> tuple[Tensor, Tensor]:
    logits, boxes = predictions.logits, predictions.boxes
    assert logits is not None
    assert boxes is not None
    targets = torch.zeros_like(logits, dtype=torch.float32)
    counted = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    predicted, targets_xyxy = [], []
    for image, (truth, labels, owner, classes) in enumerate(
        zip(batch.boxes, batch.labels, batch.owners, batch.classes, strict=True)
    ):
        if truth is None or labels is None:
            continue
        assert owner is not None, "make the batch with the anchor points of the detection head"
        positive = owner >= 0
        counted[image] = (owner != IGNORE_INDEX)[:, None]
        if classes is not None:
            unlabelled = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
            unlabelled[classes] = False
            counted[image, :, unlabelled] = False
        targets[image, positive, labels[owner[positive]]] = 1.0
        predicted.append(boxes[image, positive])
        targets_xyxy.append(truth[owner[positive]])
    zero = boxes.sum() * 0 + logits.float().sum() * 0  # every parameter needs a gradient, even without any label
    if not predicted:
        return zero, zero
    class_loss = focal_loss(logits[counted], targets[counted]) / positives
    box_loss = giou_loss(torch.cat(predicted), torch.cat(targets_xyxy)).sum() / positives
    return class_loss + zero, box_loss + zero


def open_training_data(recipe: FinetuneRecipe, data: Path | None) -> TrainingData:
    """Open the training data of a recipe: its `dataset`, or its scenes and `real` data sets; `data`: see `finetune`."""
    if recipe.dataset is None:
        mixture, sources = recipe.mixture(data)
        scenes = ScenePairs.held_out("curves", 40, recipe.architecture.bands[1], recipe.scene_size)
        return TrainingData(mixture, scenes, sources)
    return labelled_training_data(recipe, find_benchmark(recipe.dataset), data)


def labelled_training_data(recipe: FinetuneRecipe, benchmark: Benchmark, root: Path | None) -> TrainingData:
    """Open the training split of a labelled data set in the folder `root`, and its val split for validation."""
    pairs = benchmark.open(root, benchmark.train_split)
    # The largest zoom never needs more pixels.
    largest = recipe.augmentation.zoom[1]
    sides = (round(recipe.input_size[0] * largest), round(recipe.input_size[1] * largest))
    kept = CachedPairs(pairs, sides, transform=partial(_drop_labels, architecture=recipe.architecture))
    samples = Epochs(kept, recipe.augmentation, recipe.seed)
    held_out = benchmark.open(root, "val" if "val" in benchmark.splits else benchmark.report_split)
    return TrainingData(samples, _HeldOutPairs(held_out, recipe.input_size), {pairs.name: 1.0}, epoch=len(pairs))


def keep_freed_memory() -> bool:
    """Make glibc reuse large blocks; return whether it took effect, which requires glibc.

    A training step allocates hundreds of activations of many megabytes, each of which glibc otherwise maps and
    page-faults anew; `benchmarks/training_speed.py` measures the cost.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1) and mallopt(top_pad, 1 << 28))


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
        self._pairs = CachedPairs(pairs, (2 * size[0], 2 * size[1]), max_bytes=1 << 28)

    def __len__(self) -> int:
        return min(len(self._pairs), _HELD_OUT)

    def __iter__(self) -> Iterator[PairedSample]:
        return (self._pairs[index * len(self._pairs) // len(self)] for index in range(len(self)))
