"""How well features of two modalities belong together: retrieval, true against unrelated pairs, neighbours, retention.

All are functions of arrays; only directions count.

Letters: N items, D width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Cosines", "Retrieval", "knn_accuracy", "pair_cosines", "retention", "retrieval"]


@dataclass(frozen=True)
class Retrieval:
    """How the items of one modality find their partners in the other.

    Attributes:
        r1, r5: share of the queries whose partner is the nearest, or among the five nearest.
        median_rank: of the partner, 1 is the nearest.
        items: N. By chance r1 is 1 / N and the median rank (N + 1) / 2.
    """

    r1: float
    r5: float
    median_rank: float
    items: int


@dataclass(frozen=True)
class Cosines:
    """Mean cosine of true pairs, and of all pairs of different items."""

    true: float
    unrelated: float


def retrieval(queries: np.ndarray, gallery: np.ndarray) -> Retrieval:
    """Each query looks for the gallery's row of the same number, by cosine.

    Equal similarities count half each, so that features which are all alike find theirs by chance only.

    Args:
        queries, gallery: [N, D].

    Raises:
        ValueError: shapes that differ, no items, or values that are not finite.
    """
    similar = _similar(queries, gallery)
    own = np.diagonal(similar)[:, None]
    ranks = 1 + (similar > own).sum(axis=1) + 0.5 * ((similar == own).sum(axis=1) - 1)
    return Retrieval(
        r1=_share_within(similar, own, 1),
        r5=_share_within(similar, own, 5),
        median_rank=float(np.median(ranks)),
        items=len(similar),
    )


def pair_cosines(a: np.ndarray, b: np.ndarray) -> Cosines:
    """Cosine of the pairs (row i of both) against that of rows that don't belong together.

    Raises:
        ValueError: shapes that differ, fewer than two items, or values that are not finite.
    """
    similar = _similar(a, b)
    count = len(similar)
    if count < 2:
        raise ValueError("unrelated pairs need at least two items")
    true = float(np.trace(similar)) / count
    return Cosines(true, float(similar.sum() - np.trace(similar)) / (count * (count - 1)))


def knn_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of the test items whose class the k nearest training items vote for, weighted by exp(cosine / temperature).

    The rule and its two numbers are DINO's; k is lowered to the number of training items.

    Args:
        train, test: features, [N, D] and [N', D].
        train_labels, test_labels: integers, [N] and [N'].

    Raises:
        ValueError: lengths that don't fit, no items, or values that are not finite.
    """
    if len(train) != len(train_labels) or len(test) != len(test_labels) or not len(train) or not len(test):
        raise ValueError(
            f"features and labels differ in number: {len(train)}, {len(train_labels)}; {len(test)}, {len(test_labels)}"
        )
    similar = _unit(test) @ _unit(train).T
    classes, numbers = np.unique(train_labels, return_inverse=True)
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, : min(k, len(train))]
    weights = np.exp(np.take_along_axis(similar, nearest, axis=1) / temperature)
    votes = np.zeros((len(test), len(classes)))
    for column in range(nearest.shape[1]):
        votes[np.arange(len(test)), numbers[nearest[:, column]]] += weights[:, column]
    return float((classes[votes.argmax(axis=1)] == np.asarray(test_labels)).mean())


def retention(student: np.ndarray, teacher: np.ndarray) -> float:
    """How much of the teacher's RGB features is left in the student's: mean cosine, 1 is all.

    Raises:
        ValueError: shapes that differ, no items, or values that are not finite.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"the student's features are {student.shape}, the teacher's {teacher.shape}")
    return float((_unit(student) * _unit(teacher)).sum(axis=-1).mean())


def _share_within(similar: np.ndarray, own: np.ndarray, k: int) -> float:
    """Expected share of queries whose partner is among the k nearest, ties in random order."""
    above = (similar > own).sum(axis=1)
    equal = (similar == own).sum(axis=1)
    return float(np.clip((k - above) / equal, 0, 1).mean())


def _similar(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.ndim != 2 or a.shape != b.shape or not len(a):
        raise ValueError(f"features of pairs are two arrays [N, D] of one shape, got {a.shape} and {b.shape}")
    return _unit(a) @ _unit(b).T


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all():
        raise ValueError("features hold values that are not finite")
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
