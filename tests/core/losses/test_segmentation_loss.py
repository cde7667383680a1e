"""Segmentation loss: cross entropy over labelled pixels."""

from __future__ import annotations

import math

import pytest
import torch

from spectradino_core.losses.perception import IGNORE, segmentation_loss


def test_loss_of_uniform_logits_is_log_of_class_count():
    mask = torch.randint(0, 4, (2, 8, 8), dtype=torch.uint8)
    assert segmentation_loss(torch.zeros(2, 4, 2, 2), mask).item() == pytest.approx(math.log(4), rel=1e-5)


def test_unlabelled_pixels_are_ignored():
    logits = torch.tensor([3.0, 0.0])[None, :, None, None].expand(1, 2, 4, 4)
    mask = torch.full((1, 4, 4), IGNORE, dtype=torch.uint8)
    mask[0, 0, 0] = 0
    assert segmentation_loss(logits, mask).item() == pytest.approx(math.log(1 + math.exp(-3)), rel=1e-4)


def test_unlabelled_mask_gives_zero_loss_and_gradient():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 4, 4), IGNORE, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()
