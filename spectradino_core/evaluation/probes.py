"""Linear probes: what a straight line reads from frozen patch tokens, and whether it reads another modality too.

A probe is a ridge regression, solved exactly: no schedule decides the outcome. Targets are averaged (depth) or counted
(classes) over each patch.

Letters: N tokens, D width, C classes, h x w patches, P patch side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "DepthScores",
    "LinearProbe",
    "depth_scores",
    "fit_probe",
    "patch_classes",
    "patch_depth",
]


@dataclass(frozen=True)
class LinearProbe:
    """`normalise(x) @ weights + bias`.

    Attributes:
        mean, scale: [D], of the tokens it was fitted on.
        weights: [D, C].
        bias: [C].
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """[N, D] to [N, C]."""
        return (tokens - self.mean) / self.scale @ self.weights + self.bias


@dataclass(frozen=True)
class DepthScores:
    """Of predicted depths against true ones.

    Attributes:
        rmse: in metres.
        absolute_relative: mean of |error| / depth.
        delta1: share within a factor of 1.25.
    """

    rmse: float
    absolute_relative: float
    delta1: float


def fit_probe(tokens: np.ndarray, targets: np.ndarray, ridge: float = 1e-2) -> LinearProbe:
    """The ridge regression of targets on standardised tokens.

    Args:
        tokens: [N, D].
        targets: [N, C].
        ridge: penalty on the weights, per token.

    Raises:
        ValueError: numbers that differ, or none.
    """
    if len(tokens) != len(targets) or not len(tokens):
        raise ValueError(f"{len(tokens)} tokens and {len(targets)} targets: a probe needs as many of both, and some")
    x = np.asarray(tokens, np.float64)
    y = np.asarray(targets, np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    x = (x - mean) / scale
    bias = y.mean(axis=0)
    gram = x.T @ x + ridge * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (y - bias))
    return LinearProbe(mean, scale, weights, bias)


def depth_scores(predicted: np.ndarray, true: np.ndarray) -> DepthScores:
    """
    Args:
        predicted, true: metres, above 0, of one shape.

    Raises:
        ValueError: shapes that differ, none, or a depth that is not above 0.
    """
    if predicted.shape != true.shape or not predicted.size:
        raise ValueError(f"depths of shapes {predicted.shape} and {true.shape} can't be compared")
    if (true <= 0).any() or (predicted <= 0).any():
        raise ValueError("depths are above 0 m")
    error = predicted - true
    ratio = np.maximum(predicted / true, true / predicted)
    return DepthScores(
        float(np.sqrt((error**2).mean())), float((np.abs(error) / true).mean()), float((ratio < 1.25).mean())
    )


FARTHEST = 100.0
"""Metres; the sky and whatever is as far have no depth worth learning."""


def patch_depth(depth: np.ndarray, patch: int) -> np.ndarray:
    """Depth of each patch, the geometric mean of its known pixels, metres; 0 where none is known or all are beyond.

    Args:
        depth: metres, 0 where unknown, [h·P, w·P].
        patch: P.

    Returns:
        [h·w].
    """
    cells = _cells(depth, patch)
    known = (cells > 0) & (cells < FARTHEST)
    logs = np.where(known, np.log(np.where(known, cells, 1.0)), 0.0).sum(axis=1)
    counts = known.sum(axis=1)
    return np.where(counts > 0, np.exp(logs / np.maximum(counts, 1)), 0.0)


def patch_classes(mask: np.ndarray, patch: int, classes: int) -> np.ndarray:
    """The class that most pixels of each patch have, -1 where most have none.

    Args:
        mask: class numbers, whatever is not below `classes` is unlabelled, [h·P, w·P].
        patch: P.
        classes: C.

    Returns:
        int64 [h·w].
    """
    cells = _cells(mask, patch)
    counts = np.stack([(cells == label).sum(axis=1) for label in range(classes)], axis=1)
    best = counts.argmax(axis=1)
    return np.where(2 * counts.sum(axis=1) > patch * patch, best, -1).astype(np.int64)


def _cells(image: np.ndarray, patch: int) -> np.ndarray:
    """[h·P, w·P] to [h·w, P·P], patches row by row."""
    height, width = image.shape
    if height % patch or width % patch:
        raise ValueError(f"an image of {width}x{height} does not divide into patches of {patch}")
    split = image.reshape(height // patch, patch, width // patch, patch).swapaxes(1, 2)
    return split.reshape(-1, patch * patch)
