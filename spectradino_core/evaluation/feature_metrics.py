"""Metrics of frozen features: retrieval, cosines, k-NN accuracy, and linear probes.

Retrieval, cosines and k-NN depend on the directions of the features only. A probe is a ridge regression with a
closed-form solution, so the result does not depend on a training schedule. Its targets are the mean depth and the
majority class of each patch.

Letters: N items or tokens, D width, C classes, h x w patches, P patch side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FARTHEST = 100.0
"""Maximum depth in metres; the sky and anything as far is unknown."""

_ROWS = 1024
"""Queries compared with the gallery at once; all at once would take 8 N^2 bytes."""
_CELLS = 1 << 24
"""Maximum number of cosines in memory at once for k-NN: ImageNet's gallery has 1.3 million items."""


def retrieval(queries: np.ndarray, gallery: np.ndarray) -> dict[str, float]:
    """Retrieve for each query [N, D] the gallery row [N, D] of the same index by cosine similarity.

    Ties count half each, so that identical features give the result of random retrieval.

    Returns:
        "r1", "r5": fraction of the queries whose match is the nearest, or among the five nearest; "median_rank": median
        rank of the match, 1: nearest; "items": N. At random r1 is 1 / N and the median rank (N + 1) / 2.

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
    # Expected fraction of queries whose match is among the k nearest, with ties in random order.
    r1, r5 = (float(np.clip((k - above) / equal, 0, 1).mean()) for k in (1, 5))
    return {"r1": r1, "r5": r5, "median_rank": float(np.median(1 + above + 0.5 * (equal - 1))), "items": len(a)}


def pair_cosines(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Compute the mean cosine of "true" pairs (row i of both) and of all other, "unrelated" pairs.

    Raises:
        ValueError: different shapes, fewer than two items, or values that are not finite.
    """
    a, b = _unit_pairs(a, b)
    count = len(a)
    if count < 2:
        raise ValueError("unrelated pairs need at least two items")
    matching = float((a * b).sum())
    others = float(a.sum(axis=0) @ b.sum(axis=0)) - matching
    return {"true": matching / count, "unrelated": others / (count * (count - 1))}


def knn_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Compute the accuracy of a k-NN classifier whose votes are weighted by exp(cosine / temperature), as DINO's.

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


@dataclass(frozen=True)
class LinearProbe:
    """Linear map `(x - mean) / scale @ weights + bias`, from [D] to [C], with the training tokens' mean and scale."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Map tokens [N, D] to [N, C]."""
        return (tokens - self.mean) / self.scale @ self.weights + self.bias


def fit_probe(tokens: np.ndarray, targets: np.ndarray, ridge: float = 1e-2) -> LinearProbe:
    """Fit a ridge regression of targets [N, C] on standardised tokens [N, D]; `ridge`: penalty per token.

    Raises:
        ValueError: different numbers of tokens and targets, or none.
    """
    if len(tokens) != len(targets) or not len(tokens):
        raise ValueError(f"{len(tokens)} tokens and {len(targets)} targets: give equally many of both, at least one")
    x = np.asarray(tokens, np.float64)
    y = np.asarray(targets, np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    x = (x - mean) / scale
    bias = y.mean(axis=0)
    gram = x.T @ x + ridge * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (y - bias))
    return LinearProbe(mean, scale, weights, bias)


def depth_scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Compute errors of depths in metres: "depth_rmse" in metres, "depth_delta1" the fraction within a factor of 1.25.

    Raises:
        ValueError: different shapes, no depth, or a depth that is not above 0.
    """
    if predicted.shape != true.shape or not predicted.size:
        raise ValueError(f"depths of shapes {predicted.shape} and {true.shape} can't be compared")
    if (true <= 0).any() or (predicted <= 0).any():
        raise ValueError("depths must be above 0 m")
    ratio = np.maximum(predicted / true, true / predicted)
    rmse = float(np.sqrt(((predicted - true) ** 2).mean()))
    return {"depth_rmse": rmse, "depth_delta1": float((ratio < 1.25).mean())}


def patch_depth(depth: np.ndarray, patch: int) -> np.ndarray:
    """Compute the geometric mean of the known depths of each patch: [h·P, w·P] to [h·w].

    Metres, 0 where unknown; of patches also where no known pixel is nearer than `FARTHEST`.
    """
    pixels = _patches(depth, patch)
    known = (pixels > 0) & (pixels < FARTHEST)
    logs = np.where(known, np.log(np.where(known, pixels, 1.0)), 0.0).sum(axis=1)
    counts = known.sum(axis=1)
    return np.where(counts > 0, np.exp(logs / np.maximum(counts, 1)), 0.0)


def patch_classes(mask: np.ndarray, patch: int, classes: int) -> np.ndarray:
    """Return the most frequent class of each patch, int64 [h·w]; -1 if most of its pixels are unlabelled.

    Args:
        mask: class indices, unlabelled if not below `classes`, [h·P, w·P].
        patch: P.
        classes: C.
    """
    pixels = _patches(mask, patch)
    counts = np.stack([(pixels == label).sum(axis=1) for label in range(classes)], axis=1)
    best = counts.argmax(axis=1)
    return np.where(2 * counts.sum(axis=1) > patch * patch, best, -1).astype(np.int64)


def _patches(image: np.ndarray, patch: int) -> np.ndarray:
    """Split [h·P, w·P] into patches, row by row: [h·w, P·P]."""
    height, width = image.shape
    if height % patch or width % patch:
        raise ValueError(f"an image of {width}x{height} does not divide into patches of {patch}")
    split = image.reshape(height // patch, patch, width // patch, patch).swapaxes(1, 2)
    return split.reshape(-1, patch * patch)
