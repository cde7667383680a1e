"""Fine-tuning on labelled pairs: what a step computes, and one run from recipe to checkpoint.

Letters: B batch, A cells, C box classes, K positives.
"""

from __future__ import annotations

import logging
import platform
import time
from pathlib import Path

import torch
from torch import Tensor

from spectradino_core.evaluation.perception import score_samples, validation_scenes
from spectradino_core.heads.detection import assign
from spectradino_core.losses.detection import focal_loss, giou_loss
from spectradino_core.losses.segmentation import segmentation_loss
from spectradino_core.perception import Perception, Predictions, perception_roles
from spectradino_core.perception_checkpoint import save_perception, warm_start
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.torch_engine import TorchEngine
from spectradino_core.training.batches import BatchStream, LabelledBatch, stream
from spectradino_core.training.loop import resume_step, train
from spectradino_core.training.recipes import FinetuneRecipe

__all__ = ["finetune", "perception_loss"]

log = logging.getLogger(__name__)


def perception_loss(predictions: Predictions, batch: LabelledBatch, recipe: FinetuneRecipe) -> dict[str, Tensor]:
    """Focal loss, GIoU loss and cross entropy, weighted: {"total", "class", "box", "mask"}, scalars.

    Focal and GIoU sums are divided by the number of positive cells of the batch. Images without box labels take no part
    in the detection loss, pixels without a label none in the mask's.
    """
    targets = torch.zeros_like(predictions.logits, dtype=torch.float32)
    labelled, predicted, wanted = [], [], []
    for image, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
        if boxes is None or labels is None:
            continue
        labelled.append(image)
        owner = assign(boxes, predictions.cells)
        positive = owner >= 0
        targets[image, positive, labels[owner[positive]]] = 1.0
        predicted.append(predictions.boxes[image, positive])
        wanted.append(boxes[owner[positive]])
    zero = predictions.boxes.sum() * 0  # keeps every parameter in the graph when there is nothing to learn from
    class_loss, box_loss = zero, zero
    if labelled:
        positives = max(1, sum(len(p) for p in predicted))
        class_loss = focal_loss(predictions.logits[labelled], targets[labelled]) / positives
        box_loss = giou_loss(torch.cat(predicted), torch.cat(wanted)).sum() / positives
    mask_loss = zero
    if predictions.mask_logits is not None:
        mask_loss = segmentation_loss(predictions.mask_logits, batch.mask)
    total = recipe.class_weight * class_loss + recipe.box_weight * box_loss + recipe.mask_weight * mask_loss
    return {"total": total, "class": class_loss.detach(), "box": box_loss.detach(), "mask": mask_loss.detach()}


def finetune(
    recipe: FinetuneRecipe,
    folder: Path,
    data: Path | None,
    start: Path | None = None,
    device: str = "auto",
    workers: int = 1,
) -> Path:
    """Runs a recipe, or takes it up where it stopped, and returns the checkpoint's path, `<folder>/model.safetensors`.

    Args:
        recipe: what to do.
        folder: gets the log, the state to resume from and the checkpoint.
        data: the folder that holds the recipe's real data sets; None: those sets are left out, and that is recorded.
        start: a checkpoint of the same architecture to start from, also one for another band; None: random weights.
        device: "auto", "cpu" or "cuda".
        workers: processes that make batches ahead.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    mixture, sources = recipe.mixture(data)
    info = recipe.info().with_(
        provenance={
            "recipe": recipe.name,
            "seed": recipe.seed,
            "steps": recipe.loop.steps,
            "batch": recipe.batch,
            "sources": sources,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU ({platform.machine()})",
        }
    )
    model = Perception(recipe.architecture)
    if start is not None:
        info.provenance["start"] = warm_start(model, start)
    model = model.to(device)
    optimiser = torch.optim.AdamW(_groups(model, recipe), betas=(0.9, recipe.beta2), fused=True)
    first = resume_step(folder)
    if first:
        log.info("taking up the run in %s at step %d", folder, first)
    batches = BatchStream(
        mixture, recipe.batch, recipe.architecture.bands[1], recipe.input_size, recipe.thermal, recipe.loop.steps, first
    )
    held_out = validation_scenes(recipe.architecture.bands[1], recipe.scene_size, 40)

    def check(step: int, kept: Perception) -> dict[str, float]:
        scores = score_samples(Pipeline(TorchEngine.of(kept, info)), held_out)
        return {"val_map50": scores["map50"], "val_miou": scores["miou"]}

    started = time.time()
    kept = train(
        model,
        lambda module, batch: perception_loss(module(batch.images, batch.present), batch, recipe),
        stream(batches, workers),
        optimiser,
        recipe.loop,
        folder,
        torch.device(device),
        every=check,
    )
    info.provenance["minutes"] = round((time.time() - started) / 60, 1)
    path = folder / "model.safetensors"
    save_perception(path, kept, info)
    return path


def _groups(model: Perception, recipe: FinetuneRecipe) -> list[dict]:
    """Parameter groups: a learning rate by role, and no weight decay on norms, biases, gains and embeddings."""
    roles = perception_roles(model)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        rate = recipe.rate_of(roles[name])
        if rate == 0:
            parameter.requires_grad_(False)
            continue
        plain = parameter.ndim < 2 or name.endswith(("_bias", "_embedding", "_embed", "_token", "_tokens", "absent"))
        groups.setdefault((rate, 0.0 if plain else recipe.weight_decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
