"""Retrieval, cosines and neighbours against cases computed by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from spectradino_core.evaluation import feature_metrics as metrics
from spectradino_core.evaluation.feature_metrics import knn_accuracy, pair_cosines, retrieval


def test_partners_in_the_same_direction_are_found():
    a = np.random.default_rng(0).normal(size=(20, 8))
    found = retrieval(a, 3.0 * a)
    assert found == {"r1": 1.0, "r5": 1.0, "median_rank": 1.0, "items": 20}


def test_ranks_by_hand():
    # On a circle: queries at 0, 90 and 180 degrees; partners at 60, 80 and 10.
    def at(*degrees):
        radians = np.radians(degrees)
        return np.stack([np.cos(radians), np.sin(radians)], axis=1)

    # Query 0 meets 10 first, then 60: rank 2. Query 90 meets 80: rank 1. Query 180 meets 80, 60, then 10: rank 3.
    found = retrieval(at(0, 90, 180), at(60, 80, 10))
    assert found["r1"] == pytest.approx(1 / 3)
    assert found["r5"] == 1.0
    assert found["median_rank"] == 2.0
    # Back: 60 meets 90 first, then 0: 2. 80 meets 90: 1. 10 meets 0, 90, then 180: 3.
    assert retrieval(at(60, 80, 10), at(0, 90, 180))["median_rank"] == 2.0


def test_equal_features_retrieve_at_chance_level():
    found = retrieval(np.ones((10, 4)), np.ones((10, 4)))
    assert found["r1"] == pytest.approx(0.1)
    assert found["r5"] == pytest.approx(0.5)
    assert found["median_rank"] == pytest.approx(5.5)


def test_noise_finds_by_chance():
    rng = np.random.default_rng(0)
    found = retrieval(rng.normal(size=(400, 16)), rng.normal(size=(400, 16)))
    assert found["r1"] < 0.02
    assert found["median_rank"] == pytest.approx(200, abs=40)


def test_cosines_by_hand():
    a = np.eye(3)
    b = np.array([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])  # the third looks like the first
    found = pair_cosines(a, b)
    assert found["true"] == pytest.approx(2 / 3)
    assert found["unrelated"] == pytest.approx(1 / 6)  # one 1 among six
    with pytest.raises(ValueError, match="at least two"):
        pair_cosines(a[:1], b[:1])


def test_neighbours_vote_by_weight():
    train = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    labels = np.array([7, 3, 3])
    query = np.array([[1.0, 0.01]])
    # The nearest alone says 7. Of all three, 7 weighs exp(1 / t), 3 weighs 2 exp(0.6 / t).
    assert knn_accuracy(train, labels, query, np.array([7]), k=1) == 1.0
    assert knn_accuracy(train, labels, query, np.array([7]), k=20, temperature=0.07) == 1.0
    assert knn_accuracy(train, labels, query, np.array([3]), k=20, temperature=10.0) == 1.0
    with pytest.raises(ValueError, match="differ in number"):
        knn_accuracy(train, labels[:2], query, np.array([7]))


def test_many_queries_are_compared_in_parts_with_equal_results(monkeypatch):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50, 8))
    b = a + rng.normal(size=(50, 8))
    b[7], a[7] = b[8], a[8]  # ties
    labels = np.arange(50) % 5
    whole = retrieval(a, b), knn_accuracy(a, labels, b, labels)
    monkeypatch.setattr(metrics, "_ROWS", 7)
    assert retrieval(a, b) == pytest.approx(whole[0])
    assert knn_accuracy(a, labels, b, labels) == whole[1]
    unit_a, unit_b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    every = unit_a @ unit_b.T
    found = pair_cosines(a, b)
    assert found["true"] == pytest.approx(np.trace(every) / 50)
    assert found["unrelated"] == pytest.approx((every.sum() - np.trace(every)) / (50 * 49))


def test_of_equally_near_neighbours_the_first_count():
    rng = np.random.default_rng(3)
    train, test = (np.eye(4)[rng.integers(0, 4, n)] for n in (200, 60))  # each query has about 50 at cosine 1
    labels, true = rng.integers(0, 3, 200), rng.integers(0, 3, 60)
    found = []
    for query in test:
        first = np.flatnonzero((train == query).all(axis=1))[:5]
        found.append(np.bincount(labels[first]).argmax())
    assert knn_accuracy(train, labels, test, true, k=5) == np.mean(found == true)


def test_neighbours_in_a_large_gallery_take_little_memory():
    """All cosines of 1,024 queries at once, and their order, took 650 MB."""
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(20_000, 4)).astype(np.float32), rng.normal(size=(1024, 4)).astype(np.float32)
    tracemalloc.start()
    try:
        found = knn_accuracy(train, train[:, 0] > 0, test, test[:, 0] > 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found > 0.95
    assert peak < 100_000_000


def test_what_is_no_feature_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        retrieval(np.full((2, 2), np.nan), np.ones((2, 2)))
    with pytest.raises(ValueError, match="one shape"):
        retrieval(np.ones((2, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="not finite"):
        knn_accuracy(np.full((2, 2), np.inf), np.arange(2), np.ones((2, 2)), np.arange(2))
