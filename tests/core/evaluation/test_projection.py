"""Principal components against their definition, and the plots."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spectradino_core.evaluation.retrieval_report import MAX_ITEMS, _chosen, plot_pairs, principal_components


def test_components_are_the_directions_of_maximum_variance():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(100, 2)) * [5.0, 2.0]
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    points = principal_components(plane @ rotation[:2] + 7)
    np.testing.assert_allclose(points.T @ points / 100, np.cov(points.T, bias=True), atol=1e-9)
    assert abs(np.corrcoef(points[:, 0], points[:, 1])[0, 1]) < 1e-9
    centred = plane - plane.mean(0)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), np.linalg.norm(centred, axis=1), atol=1e-9)
    assert points[:, 0].var() > points[:, 1].var()


def test_signs_are_fixed_and_missing_directions_are_zero():
    x = np.outer([1.0, -3.0, 2.0], np.ones(4))
    points = principal_components(x)
    np.testing.assert_allclose(points, principal_components(-x))
    assert points[np.abs(points[:, 0]).argmax(), 0] > 0
    assert np.abs(points[:, 1]).max() < 1e-9


def test_plot_shows_every_stage(tmp_path):
    rng = np.random.default_rng(0)
    stages = {f"stage {k}": {"nir": (rng.normal(size=(9, 5)), rng.normal(size=(9, 5)))} for k in (1, 2)}
    plot_pairs(stages, tmp_path / "two.png")
    plot_pairs({"stage 1": stages["stage 1"]}, tmp_path / "one.png")
    two, one = (cv2.imread(str(tmp_path / name)) for name in ("two.png", "one.png"))
    assert two.shape[1] > 1.8 * one.shape[1]
    assert (two.reshape(-1, 3) != 255).any(axis=1).mean() > 0.005
    with pytest.raises(ValueError, match="no features"):
        plot_pairs({"stage 1": {}}, tmp_path / "none.png")


def test_drawn_items_are_random_and_seeded():
    a, b = np.arange(500)[:, None], np.arange(500)[:, None] + 1000
    drawn, partners = _chosen(a, b)
    assert len(drawn) == len(set(drawn.ravel())) == MAX_ITEMS
    assert drawn.max() > 400
    np.testing.assert_array_equal(partners, drawn + 1000)
    np.testing.assert_array_equal(_chosen(a, b)[0], drawn)
    np.testing.assert_array_equal(_chosen(a[:9], b[:9])[0], a[:9])


@pytest.mark.slow  # the plot of components is tested above
def test_tsne_is_drawn_in_three_dimensions(tmp_path):
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    far = rng.normal(size=(6, 5)) + 20
    plot_pairs({"s": {"nir": (rng.normal(size=(6, 5)), far), "lwir": (far, far)}}, tmp_path / "a.png", tsne=True)
    plot_pairs({"s": {"nir": (rng.normal(size=(2, 5)), far[:2])}}, tmp_path / "few.png", tsne=True)
    for name in ("a.png", "few.png"):
        assert (cv2.imread(str(tmp_path / name)).reshape(-1, 3) != 255).any(axis=1).mean() > 0.005
