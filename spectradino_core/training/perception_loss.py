"""Fine-tuning loss: focal and GIoU loss of the boxes, cross entropy of the mask.

Letters: B batch, A anchor points, C box classes, K positives.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from spectradino_core.losses.detection import focal_loss, giou_loss
from spectradino_core.losses.segmentation import segmentation_loss
from spectradino_core.models.detection import IGNORE_INDEX, assign
from spectradino_core.models.perception import Predictions
from spectradino_core.training.batches import LabelledBatch
from spectradino_core.training.distributed import DistEnv, sum_over_processes

__all__ = ["PerceptionLossWeights", "perception_loss"]


class PerceptionLossWeights(Protocol):
    """Weights of the three losses; every `FinetuneRecipe` has them."""

    @property
    def class_weight(self) -> float: ...

    @property
    def box_weight(self) -> float: ...

    @property
    def mask_weight(self) -> float: ...


def perception_loss(
    predictions: Predictions, batch: LabelledBatch, weights: PerceptionLossWeights
) -> dict[str, Tensor]:
    """Compute the fine-tuning loss of a batch.

    Focal and GIoU sums are divided by the number of positive anchor points, cross entropy by the number of labelled
    pixels, both counted over all processes and micro-batches, so that neither changes the result. Excluded are images
    without box labels from the detection loss, unlabelled pixels from the mask loss, and from the focal loss anchor
    points in ignored regions and the logits of classes that an image's data set does not label.

    Returns:
        The weighted sum "total" and, detached, "class" and "box" (with a detection head) and "mask" (with a
        segmentation head).
    """
    positives, pixels = _counts(predictions, batch)
    losses: dict[str, Tensor] = {}
    total = torch.zeros((), device=batch.present.device)
    if predictions.logits is not None:
        losses["class"], losses["box"] = _detection(predictions, batch, positives)
        total = total + weights.class_weight * losses["class"] + weights.box_weight * losses["box"]
    if predictions.mask_logits is not None:
        losses["mask"] = segmentation_loss(predictions.mask_logits, batch.mask, pixels=pixels)
        total = total + weights.mask_weight * losses["mask"]
    return {"total": total, **{name: value.detach() for name, value in losses.items()}}


def _counts(predictions: Predictions, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
    """Return positive anchor points and labelled pixels of the full batch, per process: DDP averages gradients."""
    counts = batch.counts
    unassigned = any(
        boxes is not None and owner is None for boxes, owner in zip(batch.boxes, batch.owners, strict=True)
    )
    if predictions.anchors is not None and unassigned:
        owners = [assign(boxes, predictions.anchors) for boxes in batch.boxes if boxes is not None]
        counts = torch.stack([counts.new_tensor(sum(int((o >= 0).sum()) for o in owners)), counts[1]])
    positives, pixels = (sum_over_processes(counts) / DistEnv.current().world).to(torch.float32)
    return positives.clamp(min=1 / DistEnv.current().world), pixels


def _detection(predictions: Predictions, batch: LabelledBatch, positives: Tensor) -> tuple[Tensor, Tensor]:
    logits, boxes, anchors = predictions.logits, predictions.boxes, predictions.anchors
    assert logits is not None
    assert boxes is not None
    assert anchors is not None
    targets = torch.zeros_like(logits, dtype=torch.float32)
    counted = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    predicted, targets_xyxy = [], []
    for image, (truth, labels, owner, classes) in enumerate(
        zip(batch.boxes, batch.labels, batch.owners, batch.classes, strict=True)
    ):
        if truth is None or labels is None:
            continue
        owner = assign(truth, anchors) if owner is None else owner
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
