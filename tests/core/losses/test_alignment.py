"""Distillation, contrastive and patch loss: hand-computed cases, gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from spectradino_core.losses.alignment import contrastive_loss, distillation_loss, patch_loss, sample_positions

E = torch.eye(3)


def double(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)


@pytest.mark.parametrize(
    ("student", "expected"), [(E[:1], 0.0), (-E[:1], 2.0), (E[1:2], 1.0), (E[:1] + E[1:2], 0.2929)]
)
def test_distillation_by_hand(student, expected):
    assert distillation_loss(5 * student, 0.1 * E[:1]).item() == pytest.approx(expected, abs=1e-4)  # norm ignored


def test_distillation_is_a_mean_over_the_batch():
    student, teacher = torch.stack([E[0], E[1]]), torch.stack([E[0], -E[1]])
    assert distillation_loss(student, teacher).item() == pytest.approx(1.0)


def test_contrast_by_hand():
    # Two pairs, cosines: right 1, wrong 0; at temperature 0.5 the logits are 2 and 0.
    expected = -math.log(math.exp(2) / (math.exp(2) + 1))
    assert contrastive_loss(E[:2], E[:2], 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_contrast_averages_both_directions():
    # cosines a_i·b_j: [[1, 1], [0, 0]]; forth: rows, back: columns
    a, b = torch.stack([E[0], E[1]]), torch.stack([E[0], E[0]])
    forth = math.log(2)
    back = 0.5 * (-math.log(math.e / (math.e + 1)) - math.log(1 / (math.e + 1)))
    assert contrastive_loss(a, b, 1.0).item() == pytest.approx(0.5 * (forth + back), rel=1e-6)
    assert contrastive_loss(b, a, 1.0).item() == pytest.approx(0.5 * (forth + back), rel=1e-6)


def test_contrast_of_uniform_similarities_is_log_of_batch_size():
    x = torch.zeros(4, 3) + E[0]
    assert contrastive_loss(x, x, 0.07).item() == pytest.approx(math.log(4), rel=1e-6)


def test_patches_by_hand():
    rgb = torch.stack([torch.stack([E[0], E[1]]), torch.stack([E[2], E[0]])])
    infrared = torch.stack([torch.stack([E[0], E[0]]), torch.stack([-E[2], E[0]])])
    assert patch_loss(rgb, infrared).item() == pytest.approx((0 + 1 + 2 + 0) / 4)


def test_gradients_equal_finite_differences():
    assert gradcheck(distillation_loss, (double(3, 5), double(3, 5)))
    assert gradcheck(
        contrastive_loss, (double(4, 5), double(4, 5), torch.tensor(0.3, dtype=torch.float64).requires_grad_())
    )
    assert gradcheck(patch_loss, (double(2, 3, 4), double(2, 3, 4)))


@pytest.mark.parametrize(
    ("patches", "ratio", "count"), [(256, 0.25, 64), (256, 0.5, 128), (9, 0.25, 2), (3, 0.1, 1), (7, 1.0, 7)]
)
def test_positions_are_distinct_and_count_is_rounded_down(patches, ratio, count):
    positions = sample_positions(patches, ratio, torch.Generator().manual_seed(0))
    assert len(positions) == len(set(positions.tolist())) == count
    assert 0 <= positions.min() <= positions.max() < patches


def test_positions_depend_only_on_seed():
    first, again, other = (sample_positions(256, 0.25, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_positions_are_uniformly_distributed():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(16)
    for _ in range(400):
        counts[sample_positions(16, 0.25, generator)] += 1
    assert counts.min() > 60  # expected 100
    assert counts.max() < 140


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.1])
def test_ratio_outside_0_to_1_is_rejected(ratio):
    with pytest.raises(ValueError, match="fraction of sampled patches"):
        sample_positions(16, ratio, torch.Generator())


def test_half_precision_inputs_are_compared_in_fp32():
    x, y = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).bfloat16(), torch.ones(4, 64).bfloat16()
    assert distillation_loss(x, y).dtype == torch.float32
    assert distillation_loss(x, y).item() == pytest.approx(distillation_loss(x.double(), y.double()).item(), rel=1e-5)


def test_contrast_is_exact_under_autocast():
    x, y = (torch.randn(8, 64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact = contrastive_loss(x, y, 0.07).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive_loss(x, y, 0.07).item() == exact


def test_invalid_pairs_are_excluded():
    x, y = (torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    held = torch.tensor([True, False, True, True, False, False])
    y[~held] = 0
    assert contrastive_loss(x, y, 0.2, held).item() == pytest.approx(contrastive_loss(x[held], y[held], 0.2).item())
    x.requires_grad_()
    contrastive_loss(x, y, 0.2, held).backward()
    assert (x.grad[~held] == 0).all()
    assert contrastive_loss(x, y, 0.2, torch.zeros(6, dtype=torch.bool)).item() == 0
