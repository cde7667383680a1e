"""Metrics of cross-modal features: retrieval, cosines of true and unrelated pairs, k-NN accuracy.

All metrics depend on the directions of the features only.

Letters: N items, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Cosines", "Retrieval", "knn_accuracy", "pair_cosines", "retrieval"]

_ROWS = 1024
"""Queries compared with the gallery at once; all at once would take 8 N^2 bytes."""
_CELLS = 1 << 24
"""Maximum number of cosines in memory at once for k-NN: ImageNet's gallery has 1.3 million items."""


@dataclass(frozen=True)
class Retrieval:
    """Retrieval of the matching items of another modality.

    Attributes:
        r1, r5: fraction of the queries whose match is the nearest, or among the five nearest.
        median_rank: median rank of the match; 1: nearest.
        items: N. At random r1 is 1 / N and the median rank (N + 1) / 2.
    """

    r1: float
    r5: float
    median_rank: float
    items: int


@dataclass(frozen=True)
class Cosines:
    """Mean cosine of true pairs and of all pairs of different items."""

    true: float
    unrelated: float


def retrieval(queries: np.ndarray, gallery: np.ndarray) -> Retrieval:
    """Retrieve for each query the gallery row of the same index by cosine similarity.

    Ties count half each, so that identical features give the result of random retrieval.

    Args:
        queries, gallery: [N, D].

    Raises:
        ValueError: different shapes, no items, or values that are not finite.
    """
    a, b = _unit_pairs(queries, gallery)
    above, equal = np.zeros(len(a), np.int64), np.zeros(len(a), np.int64)
    for start in range(0, len(a), _ROWS):
        rows = slice(start, start + _ROWS)
        cosines = a[rows] @ b.T
        match = np.diagonal(cosines, offset=start)[:, None]
        above[rows], equal[rows] = (cosines > match).sum(axis=1), (cosines == match).sum(axis=1)
    return Retrieval(
        r1=_recall_at(1, above, equal),
        r5=_recall_at(5, above, equal),
        median_rank=float(np.median(1 + above + 0.5 * (equal - 1))),
        items=len(a),
    )


def pair_cosines(a: np.ndarray, b: np.ndarray) -> Cosines:
    """Compute the mean cosine of true pairs (row i of both) and of all other pairs.

    Raises:
        ValueError: different shapes, fewer than two items, or values that are not finite.
    """
    a, b = _unit_pairs(a, b)
    count = len(a)
    if count < 2:
        raise ValueError("unrelated pairs need at least two items")
    matching = float((a * b).sum())
    return Cosines(matching / count, (float(a.sum(axis=0) @ b.sum(axis=0)) - matching) / (count * (count - 1)))


def knn_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Compute the accuracy of a k-NN classifier whose votes are weighted by exp(cosine / temperature).

    Rule and default values are DINO's.

    Args:
        train, test: features, [N, D] and [N', D].
        train_labels, test_labels: integers, [N] and [N'].
        k: number of neighbours, at most that of the training items.
        temperature: temperature of the votes.

    Raises:
        ValueError: different lengths, no items, or values that are not finite.
    """
    if len(train) != len(train_labels) or len(test) != len(test_labels) or not len(train) or not len(test):
        raise ValueError(
            f"features and labels differ in number: {len(train)}, {len(train_labels)}; {len(test)}, {len(test_labels)}"
        )
    queries, gallery = _unit_float32(test), _unit_float32(train).T
    classes, numbers = np.unique(train_labels, return_inverse=True)
    k, rows = min(k, len(train)), max(1, min(_ROWS, _CELLS // len(train)))
    found = np.empty(len(test), np.int64)
    for start in range(0, len(test), rows):
        for number, cosines in enumerate(queries[start : start + rows] @ gallery, start):
            near = np.flatnonzero(cosines >= np.partition(cosines, -k)[-k])
            near = near[np.argsort(-cosines[near], kind="stable")[:k]]  # of equally near ones the first
            weights = np.exp(cosines[near].astype(np.float64) / temperature)
            found[number] = np.bincount(numbers[near], weights).argmax()
    return float((classes[found] == np.asarray(test_labels)).mean())


def _recall_at(k: int, above: np.ndarray, equal: np.ndarray) -> float:
    """Return the expected fraction of queries whose match is among the k nearest, with ties in random order.

    Args:
        k: rank.
        above, equal: number of gallery items nearer than the match, and as near (with the match itself), [N].
    """
    return float(np.clip((k - above) / equal, 0, 1).mean())


def _unit_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.ndim != 2 or a.shape != b.shape or not len(a):
        raise ValueError(f"features of pairs must be two arrays [N, D] of one shape, not {a.shape} and {b.shape}")
    return _unit(a), _unit(b)


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all():
        raise ValueError("features hold values that are not finite")
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _unit_float32(x: np.ndarray) -> np.ndarray:
    """Like `_unit` in half of the memory and without copies beside the result."""
    x = np.array(x, np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    if not np.isfinite(lengths).all():
        raise ValueError("features hold values that are not finite")
    x /= np.maximum(lengths, 1e-12)[:, None].astype(np.float32)
    return x
