"""The fine-tuning loss compared with sums by hand, by term, and without labels."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spectradino_core.losses.perception import focal_loss, giou_loss
from spectradino_core.modality import Modality
from spectradino_core.models.detection import AnchorPoints
from spectradino_core.models.perception import Architecture, Perception, Predictions
from spectradino_core.models.pyramid import level_sizes
from spectradino_core.thermal import ThermalContract
from spectradino_core.training.batches import LabelledBatch, make_batch
from spectradino_core.training.finetune import perception_loss
from tests.core.training.squares import Squares

SIZE = (98, 84)
WEIGHTS = SimpleNamespace(class_weight=1.0, box_weight=1.5, mask_weight=0.5)
BOTH = np.ones(2, bool)


def cells(strides: tuple[float, ...] = (7.0, 14.0)) -> AnchorPoints:
    return AnchorPoints.of_sizes(level_sizes((SIZE[1], SIZE[0]), strides), strides)


def batch_of(count: int = 5, first: int = 0, strides: tuple[float, ...] = (7.0, 14.0)) -> LabelledBatch:
    pairs = Squares(count, first)
    samples = [(pairs.load(pairs[i]), BOTH) for i in range(count)]
    return make_batch(samples, Modality.LWIR, SIZE, ThermalContract(), cells(strides)).to("cpu")


def predictions_for(batch: LabelledBatch, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    count, at = len(batch.present), cells()
    logits = torch.randn(count, len(at.strides), 2, generator=generator)
    half = torch.rand(count, len(at.strides), 2, generator=generator) * 15 + 2
    boxes = torch.cat((at.centres - half, at.centres + half), dim=-1)
    return Predictions(logits, boxes, torch.randn(count, 3, 12, 14, generator=generator))


def part(predictions: Predictions, start: int, end: int) -> Predictions:
    return Predictions(
        predictions.logits[start:end],
        predictions.boxes[start:end],
        predictions.mask_logits[start:end],
    )


def test_by_hand():
    batch = batch_of()
    out = predictions_for(batch)
    labelled = [i for i, boxes in enumerate(batch.boxes) if boxes is not None]
    assert labelled == [0, 1, 2, 4]
    positives = sum(int((batch.owners[i] >= 0).sum()) for i in labelled)
    assert positives == batch.counts[0] > 5
    focal, giou = 0.0, 0.0
    for i in labelled:
        targets = torch.zeros_like(out.logits[i])
        for cell in torch.nonzero(batch.owners[i] >= 0)[:, 0].tolist():
            owner = int(batch.owners[i][cell])
            targets[cell, batch.labels[i][owner]] = 1
            giou += float(giou_loss(out.boxes[i, cell][None], batch.boxes[i][owner][None]))
        focal += float(focal_loss(out.logits[i], targets))
    full = F.interpolate(out.mask_logits, size=SIZE[::-1], mode="bilinear", align_corners=False)
    mask = float(F.cross_entropy(full, batch.mask.long(), ignore_index=255))
    terms = perception_loss(out, batch, WEIGHTS)
    assert float(terms["class"]) == pytest.approx(focal / positives, rel=1e-5)
    assert float(terms["box"]) == pytest.approx(giou / positives, rel=1e-5)
    assert float(terms["mask"]) == pytest.approx(mask, rel=1e-5)
    assert float(terms["total"]) == pytest.approx(focal / positives + 1.5 * giou / positives + 0.5 * mask, rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_parts_add_up_to_the_whole_even_one_without_any_label(count):
    batch = batch_of()
    out = predictions_for(batch)
    whole = perception_loss(out, batch, WEIGHTS)
    sums = dict.fromkeys(whole, 0.0)
    start = 0
    parts = batch.split(count)
    assert len(parts) == min(count, 5)
    for piece in parts:
        end = start + len(piece.present)
        for name, value in perception_loss(part(out, start, end), piece, WEIGHTS).items():
            sums[name] += float(value)
        start = end
    assert start == 5
    assert sums == pytest.approx({name: float(value) for name, value in whole.items()}, rel=1e-5)


def test_anchor_points_in_a_crowd_are_ignored():
    batch = batch_of(1)
    out = predictions_for(batch)
    sample = Squares(1).load(0)
    sample.ignored, sample.ignored_labels = np.array([[0, 0, 98, 84]], np.float32), np.array([0])
    crowded = make_batch([(sample, BOTH)], Modality.LWIR, SIZE, ThermalContract(), cells()).to("cpu")
    everywhere, nowhere = perception_loss(out, batch, WEIGHTS), perception_loss(out, crowded, WEIGHTS)
    positive = batch.owners[0] >= 0
    targets = torch.zeros_like(out.logits[0])
    targets[positive, batch.labels[0][batch.owners[0][positive]]] = 1
    by_hand = focal_loss(out.logits[0][positive], targets[positive]) / positive.sum()
    torch.testing.assert_close(nowhere["class"], by_hand)
    assert nowhere["class"] < everywhere["class"]
    torch.testing.assert_close(nowhere["box"], everywhere["box"])


@pytest.mark.parametrize(("boxes", "masks"), [(2, 0), (0, 3), (2, 3)])
def test_only_heads_that_are_there_have_a_loss(boxes, masks):
    model = Perception(Architecture("test", "lwir", boxes, masks, pyramid_width=16, tower_depth=1))
    batch = batch_of(2, strides=model.architecture.cell_strides)
    terms = perception_loss(model(batch.images, batch.present), batch, WEIGHTS)
    assert set(terms) == {"total"} | ({"class", "box"} if boxes else set()) | ({"mask"} if masks else set())
    terms["total"].backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith(("detect", "segment")))


def test_without_labels_nothing_is_learnt_and_nothing_is_nan():
    model = Perception(Architecture("test", "lwir", 2, 3, pyramid_width=16, tower_depth=1)).eval()
    batch = batch_of(1, first=19)  # item 19 has neither boxes nor mask
    assert batch.boxes == [None]
    assert batch.counts.tolist() == [0, 0]
    terms = perception_loss(model(batch.images, batch.present), batch, WEIGHTS)
    terms["total"].backward()
    assert terms["total"] == 0
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)
    background = torch.full((len(cells(model.architecture.cell_strides).strides),), -1)
    empty = replace(batch, boxes=[torch.zeros(0, 4)], labels=[torch.zeros(0, dtype=torch.int64)], owners=[background])
    assert perception_loss(model(empty.images, empty.present), empty, WEIGHTS)["class"] > 0  # all of it is background


def test_classes_that_a_set_does_not_label_take_no_part():
    batch, sample = batch_of(1), Squares(1).load(0)
    sample.labelled_classes = (0,)
    partly = make_batch([(sample, BOTH)], Modality.LWIR, SIZE, ThermalContract(), cells()).to("cpu")
    out = predictions_for(batch)
    out.logits.requires_grad_()
    loss = perception_loss(out, partly, WEIGHTS)
    loss["total"].backward()
    assert (out.logits.grad[..., 1] == 0).all()
    assert (out.logits.grad[..., 0] != 0).any()
    positive = batch.owners[0] >= 0
    targets = torch.zeros_like(out.logits[0])
    targets[positive, batch.labels[0][batch.owners[0][positive]]] = 1
    by_hand = focal_loss(out.logits[0][:, 0], targets[:, 0]) / positive.sum()
    torch.testing.assert_close(loss["class"], by_hand.detach())
    halves = Squares(2)
    samples = [(sample, BOTH), (halves.load(1), BOTH)]
    two = make_batch(samples, Modality.LWIR, SIZE, ThermalContract(), cells()).to("cpu")
    assert [piece.classes[0] is None for piece in two.split(2)] == [False, True]
