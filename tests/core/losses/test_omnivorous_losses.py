"""Omnivorous losses: hand-computed cases, plain loops, gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from spectradino_core.losses import omnivorous
from spectradino_core.losses.omnivorous import (
    LogitScale,
    alignment_loss,
    anchoring_loss,
    colourise,
    dense_alignment_loss,
    luminance,
    mixup,
    palette,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_alignment_by_hand():
    # Two orthogonal items, equal in both modalities: similarity rows are (1, 0) and (0, 1), each term is ln(1 + e^-s).
    x = torch.eye(2)
    expected = math.log(1 + math.exp(-3))
    assert alignment_loss({"rgb": x, "nir": 5 * x}, 3.0).item() == pytest.approx(expected, rel=1e-6)
    # Swapped: each is closest to the other item, ln(1 + e^s).
    assert alignment_loss({"rgb": x, "nir": x.flip(0)}, 3.0).item() == pytest.approx(3 + expected, rel=1e-6)


def test_alignment_averages_over_all_pairs():
    x = {key: random(5, 7, seed=seed) for seed, key in enumerate(("rgb", "depth", "lwir"))}
    pairs = [("rgb", "depth"), ("rgb", "lwir"), ("depth", "lwir")]
    expected = sum(alignment_loss({a: x[a], b: x[b]}, 4.0) for a, b in pairs) / 3
    torch.testing.assert_close(alignment_loss(x, 4.0), expected)
    with pytest.raises(ValueError, match="at least two modalities"):
        alignment_loss({"rgb": x["rgb"]}, 1.0)


def dense_by_loops(a: torch.Tensor, b: torch.Tensor, scale: float) -> float:
    """Reference implementation, token by token."""
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    total = 0.0
    for one, two in ((a, b), (b, a)):
        for i in range(a.shape[0]):
            for s in range(a.shape[1]):
                positive = math.exp(scale * float(one[i, s] @ two[i, s]))
                negative = sum(
                    math.exp(scale * float(one[i, s] @ two[j, t]))
                    for j in range(a.shape[0])
                    for t in range(a.shape[1])
                    if j != i
                )
                total -= math.log(positive / (positive + negative)) / (2 * a.shape[0] * a.shape[1])
    return total


@pytest.mark.parametrize("rows", [4096, 3, 1])
def test_dense_alignment_equals_plain_loops(monkeypatch, rows):
    monkeypatch.setattr(omnivorous, "_ROWS", rows)  # the chunk size has no influence
    a, b = random(4, 3, 6, seed=1).requires_grad_(), random(4, 3, 6, seed=2).requires_grad_()
    loss = dense_alignment_loss({"rgb": a, "nir": b}, 5.0)
    assert loss.item() == pytest.approx(dense_by_loops(a.detach(), b.detach(), 5.0), rel=1e-9)
    loss.backward()
    assert torch.isfinite(a.grad).all()
    assert a.grad.abs().max() > 0


def test_tokens_of_same_item_are_not_negatives():
    # Two items with two equal tokens each: with those as negatives the loss could not fall below ln 2.
    x = torch.eye(2, dtype=torch.float64)[:, None].expand(2, 2, 2)
    assert dense_alignment_loss({"rgb": x, "nir": x}, 100.0).item() < 1e-6


def test_anchoring_by_hand():
    student = {"rgb": torch.tensor([[1.0, 0.0]]), "nir": torch.tensor([[1.0, 0.0]])}
    teacher = {"rgb": torch.tensor([[2.0, 0.0]]), "nir": torch.tensor([[0.0, 1.0]])}
    assert anchoring_loss(student, teacher).item() == pytest.approx(0.5)  # (0 + 1) / 2
    assert anchoring_loss(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match=r"the student has rgb, nir, the teacher rgb"):
        anchoring_loss(student, {"rgb": teacher["rgb"]})


def test_gradients_equal_finite_differences():
    a, b, c = (random(3, 4, seed=s).requires_grad_() for s in range(3))
    scale = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y, z, s: alignment_loss({"a": x, "b": y, "c": z}, s), (a, b, c, scale))
    p, q = (random(3, 2, 4, seed=s).requires_grad_() for s in (3, 4))
    assert torch.autograd.gradcheck(lambda x, y, s: dense_alignment_loss({"a": x, "b": y}, s), (p, q, scale))
    assert torch.autograd.gradcheck(lambda x: anchoring_loss({"a": x, "b": x**2}, {"a": q, "b": q}), (p,))


def test_scale_is_trainable_within_limits():
    scale = LogitScale()
    assert scale().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        scale.log_scale.fill_(9.0)
    assert scale().item() == pytest.approx(100.0)
    optimiser = torch.optim.SGD(scale.parameters(), lr=0.1)
    scale().backward()  # gradient descent must be able to move it away from the limit
    optimiser.step()
    assert scale().item() < 99


def test_losses_are_exact_under_autocast():
    x = {key: random(6, 8, seed=seed).float() for seed, key in enumerate(("rgb", "nir"))}
    with torch.autocast("cpu", torch.bfloat16):
        half = alignment_loss(x, 50.0)
    torch.testing.assert_close(half, alignment_loss(x, 50.0))


# -------------------------------------------------------------------------------------------------------------- images


def test_palette_by_hand():
    # Half the pixels dark red, half bright green; 4 bins, no smoothing: two colours, others take the nearest.
    rgb = torch.zeros(1, 3, 2, 2)
    rgb[0, 0, 0] = 0.5  # luminance 0.15: bin 0
    rgb[0, 1, 1] = 1.0  # luminance 0.587: bin 2
    colours = palette(rgb, bins=4, width=1)
    torch.testing.assert_close(
        colours[0].T, torch.tensor([[0.5, 0, 0], [0.5, 0, 0], [0, 1, 0], [0, 1, 0]]), atol=1e-5, rtol=0
    )


def test_palette_is_smoothed_over_neighbouring_bins():
    rgb = torch.zeros(1, 3, 1, 4)
    rgb[0, :, 0] = torch.tensor([0.1, 0.1, 0.1, 0.4])  # grey: bins 0, 0, 0, 1 of four
    colours = palette(rgb, bins=4, width=3)
    mean = (3 * 0.1 + 0.4) / 4
    torch.testing.assert_close(colours[0, 0], torch.tensor([mean, mean, 0.4, 0.4]), atol=1e-5, rtol=0)


def test_grey_image_colourises_to_itself():
    ramp = torch.linspace(0, 1, 64 * 64)[torch.randperm(64 * 64)].reshape(1, 1, 64, 64)
    out = colourise(ramp, palette(ramp.expand(-1, 3, -1, -1)))
    assert out.shape == (1, 3, 64, 64)
    torch.testing.assert_close(out, ramp.expand(-1, 3, -1, -1), atol=0.03, rtol=0)


def test_each_map_takes_colours_of_its_own_image():
    rgb = torch.rand(3, 3, 20, 20) * torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1.0]])[:, :, None, None]
    out = colourise(torch.rand(3, 1, 10, 10), palette(rgb))
    for item in range(3):
        others = [channel for channel in range(3) if channel != item]
        assert out[item, others].abs().max() == 0
        assert out[item, item].max() > 0


def test_luminance_and_mixup_by_hand():
    rgb = torch.tensor([1.0, 0.5, 0.0])[None, :, None, None]
    assert luminance(rgb).item() == pytest.approx(0.299 + 0.5 * 0.587)
    a, b = torch.zeros(2, 3, 1, 1), torch.ones(2, 3, 1, 1)
    out = mixup(a, b, torch.tensor([0.0, 0.25]))
    assert out[:, 0, 0, 0].tolist() == [0.0, 0.25]
