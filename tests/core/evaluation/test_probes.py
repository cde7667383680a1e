"""Linear probes: they learn linear relations, and their targets and scores are correct."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.evaluation.feature_metrics import depth_scores, fit_probe, patch_classes, patch_depth


def test_a_probe_reads_what_is_linear():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 5, size=(500, 6))
    y = x @ rng.normal(size=(6, 2)) + [4.0, -1.0]
    probe = fit_probe(x[:400], y[:400], ridge=1e-8)
    np.testing.assert_allclose(probe(x[400:]), y[400:], atol=1e-4)


def test_a_probe_equals_ridge_regression_by_its_definition():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 1))
    probe = fit_probe(x, y, ridge=0.3)
    standard = (x - x.mean(0)) / (x.std(0) + 1e-6)

    def cost(weights):
        return ((standard @ weights + y.mean() - y) ** 2).sum() + 0.3 * 50 * (weights**2).sum()

    best = cost(probe.weights)
    for _ in range(20):
        assert cost(probe.weights + rng.normal(scale=0.01, size=probe.weights.shape)) > best


def test_a_constant_feature_does_no_harm():
    x = np.ones((10, 3))
    np.testing.assert_allclose(fit_probe(x, np.full((10, 1), 2.0))(x), 2.0)
    with pytest.raises(ValueError, match="10 tokens and 9 targets"):
        fit_probe(x, np.ones((9, 1)))


def test_depth_scores_by_hand():
    scores = depth_scores(np.array([2.0, 10.0, 4.0]), np.array([2.0, 8.0, 6.0]))
    assert scores["depth_rmse"] == pytest.approx(np.sqrt(8 / 3))
    assert scores["depth_delta1"] == pytest.approx(1 / 3)  # 10 / 8 is 1.25, not below it
    with pytest.raises(ValueError, match="above 0"):
        depth_scores(np.array([1.0]), np.array([0.0]))


def test_patches_are_row_by_row():
    depth = np.zeros((4, 6), np.float32)
    depth[:2, :2] = [[2, 8], [0, 0]]  # geometric mean of what is known: 4
    depth[:2, 2:4] = 500  # sky
    depth[2:, 4:] = 3
    assert patch_depth(depth, 2).tolist() == pytest.approx([4, 0, 0, 0, 0, 3])
    mask = np.full((4, 6), 255, np.uint8)
    mask[:2, :2] = [[1, 1], [1, 0]]
    mask[:2, 2:4] = [[0, 255], [255, 255]]  # most of it has no class
    assert patch_classes(mask, 2, 2).tolist() == [1, -1, -1, -1, -1, -1]
    with pytest.raises(ValueError, match="does not divide"):
        patch_depth(np.zeros((5, 6)), 2)
