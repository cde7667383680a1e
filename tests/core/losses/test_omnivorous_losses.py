"""Omnivorous losses: hand-computed cases, plain loops, gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spectradino_core.data.views import depth_values, segmentation_values
from spectradino_core.losses import omnivorous
from spectradino_core.losses.omnivorous import (
    LogitScale,
    alignment_loss,
    anchoring_loss,
    colourise,
    dense_alignment_loss,
    luminance,
    mixup,
)
from spectradino_core.modality import Modality
from spectradino_core.scenes import SceneOptions, render_scene


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


def test_each_value_of_a_class_map_gets_the_mean_colour_of_its_pixels():
    rgb = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    values = torch.tensor([0.1, 0.101, 0.9])[torch.arange(96) % 3].reshape(2, 1, 6, 8)
    out = colourise(values, rgb, classes=True)
    for item in range(2):
        for value in values.unique():
            pixels = values[item, 0] == value
            mean = rgb[item][:, pixels].mean(dim=1, keepdim=True)
            torch.testing.assert_close(out[item][:, pixels], mean.expand(-1, int(pixels.sum())), atol=1e-5, rtol=0)


def test_continuous_maps_are_smoothed_over_five_bins_that_have_pixels():
    values = torch.tensor([0.0, 1, 2, 30, 63])[None, None, None] / 63  # bins 0, 1, 2, 30 and 63 of 64
    rgb = torch.tensor([0.1, 0.2, 0.6, 0.8, 0.4]).expand(1, 3, 1, 5)
    smooth = colourise(values, rgb)[0, 0, 0]
    torch.testing.assert_close(smooth, torch.tensor([0.3, 0.3, 0.3, 0.8, 0.4]), atol=1e-5, rtol=0)
    torch.testing.assert_close(colourise(values, rgb, classes=True), rgb, atol=1e-5, rtol=0)


def test_class_ids_share_no_bin():
    values = torch.from_numpy(segmentation_values(np.arange(256, dtype=np.uint8)[None]))[None, None]
    rgb = torch.rand(1, 3, 1, 256, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(colourise(values[0], rgb, classes=True), rgb, atol=1e-5, rtol=0)


def test_a_constant_map_gets_the_mean_of_its_image():
    rgb = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    out = colourise(torch.full((1, 1, 5, 5), 0.3), rgb)
    torch.testing.assert_close(out, rgb.mean(dim=(2, 3), keepdim=True).expand_as(rgb), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", [1, 5])
def test_painted_maps_correlate_with_their_image(seed):
    """As in the paper's official figure, where a palette of the image's luminance bins gives about -0.2."""
    scene = render_scene(seed, SceneOptions(320, 256, bands=(Modality.RGB,), time_of_day="day"))
    rgb = torch.from_numpy(scene.images[Modality.RGB]).permute(2, 0, 1)[None].float() / 255
    depth = torch.from_numpy(depth_values(scene.depth))[None, None]
    mask = torch.from_numpy(segmentation_values(scene.mask))[None, None]
    for values, classes in ((depth, False), (mask, True)):
        assert correlation(colourise(values, rgb, classes), rgb).min() > 0.9
        assert correlation(coloured_by_luminance(values, rgb), rgb).max() < 0


def correlation(a, b):
    """Correlation per channel."""
    return torch.stack([torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1] for x, y in zip(a[0], b[0])])


def coloured_by_luminance(values, rgb):
    """Look up a map's values in the mean colours of the image's luminance bins, which are unrelated to them."""
    bins = (luminance(rgb)[0] * 64).long().clamp(max=63).flatten()
    sums = torch.zeros(3, 64).index_add_(1, bins, rgb[0].flatten(1))
    colours = sums / (torch.bincount(bins, minlength=64) + 1e-6)
    return colours[:, (values[0, 0] * 64).long().clamp(max=63).flatten()].reshape(rgb.shape)


def test_luminance_and_mixup_by_hand():
    rgb = torch.tensor([1.0, 0.5, 0.0])[None, :, None, None]
    assert luminance(rgb).item() == pytest.approx(0.299 + 0.5 * 0.587)
    a, b = torch.zeros(2, 3, 1, 1), torch.ones(2, 3, 1, 1)
    out = mixup(a, b, torch.tensor([0.0, 0.25]))
    assert out[:, 0, 0, 0].tolist() == [0.0, 0.25]
