"""Focal and GIoU losses: hand-computed cases, gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from spectradino_core.losses.perception import focal_loss, giou_loss


def test_focal_loss_by_hand():
    # p = 0.5 on a one: 0.25 * 0.5^2 * ln 2; p = 0.5 on a zero: 0.75 * 0.5^2 * ln 2
    loss = focal_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(0.25 * math.log(2), rel=1e-6)


def test_focal_loss_with_gamma_0_is_weighted_cross_entropy():
    torch.manual_seed(0)
    logits, targets = torch.randn(7, 3), (torch.rand(7, 3) > 0.5).float()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    assert focal_loss(logits, targets, alpha=0.5, gamma=0.0).item() == pytest.approx(plain.item() / 2, rel=1e-5)


def test_focal_loss_discounts_easy_entries():
    easy, hard = torch.tensor([[4.0]]), torch.tensor([[-4.0]])
    ratio = focal_loss(hard, torch.ones(1, 1)) / focal_loss(easy, torch.ones(1, 1))
    assert ratio > 1e4


@pytest.mark.parametrize(
    ("a", "b", "loss"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 0.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 - 50 / 150),  # the hull is the union
        ((0, 0, 10, 10), (20, 0, 30, 10), 1 + 100 / 300),  # apart: hull 300, union 200
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 - 1 / 7 + 2 / 9),
    ],
)
def test_giou_by_hand(a, b, loss):
    got = giou_loss(torch.tensor([a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32))
    assert got.item() == pytest.approx(loss, abs=1e-5)


def test_gradients_equal_finite_differences():
    torch.manual_seed(0)
    base = torch.tensor([[2.0, 3.0, 9.0, 11.0], [0.0, 0.0, 4.0, 2.0]])
    target = torch.tensor([[1.0, 4.0, 8.0, 12.0], [5.0, 5.0, 7.0, 9.0]])
    check_gradient(lambda x: giou_loss(x, target).sum(), base)
    check_gradient(lambda x: focal_loss(x, (target > 4).float()), torch.randn(2, 4))


def check_gradient(function, x: torch.Tensor, step: float = 1e-2) -> None:
    """Compare with central differences in float32, hence the large step and tolerance."""
    x = x.clone().requires_grad_(True)
    function(x).backward()
    for index in range(x.numel()):
        delta = torch.zeros_like(x).view(-1)
        delta[index] = step
        delta = delta.view_as(x)
        with torch.no_grad():
            numeric = (function(x + delta) - function(x - delta)) / (2 * step)
        assert x.grad.view(-1)[index].item() == pytest.approx(numeric.item(), abs=2e-3)
