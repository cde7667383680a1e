"""Linear probes on frozen patch tokens, for evaluation within and across modalities.

A probe is a ridge regression with a closed-form solution, so the result does not depend on a training schedule. Targets
are the mean depth and the majority class of each patch.

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
    """Linear map `(x - mean) / scale @ weights + bias`.

    Attributes:
        mean, scale: mean and standard deviation of the training tokens, [D].
        weights: [D, C].
        bias: [C].
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Map tokens [N, D] to [N, C]."""
        return (tokens - self.mean) / self.scale @ self.weights + self.bias


@dataclass(frozen=True)
class DepthScores:
    """Errors of predicted depths.

    Attributes:
        rmse: root mean square error in metres.
        absolute_relative: mean of |error| / depth.
        delta1: fraction within a factor of 1.25.
    """

    rmse: float
    absolute_relative: float
    delta1: float


def fit_probe(tokens: np.ndarray, targets: np.ndarray, ridge: float = 1e-2) -> LinearProbe:
    """Fit a ridge regression of targets on standardised tokens.

    Args:
        tokens: [N, D].
        targets: [N, C].
        ridge: penalty on the weights, per token.

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


def depth_scores(predicted: np.ndarray, true: np.ndarray) -> DepthScores:
    """Compute depth errors.

    Args:
        predicted, true: depths in metres, above 0, of one shape.

    Raises:
        ValueError: different shapes, no depth, or a depth that is not above 0.
    """
    if predicted.shape != true.shape or not predicted.size:
        raise ValueError(f"depths of shapes {predicted.shape} and {true.shape} can't be compared")
    if (true <= 0).any() or (predicted <= 0).any():
        raise ValueError("depths must be above 0 m")
    error = predicted - true
    ratio = np.maximum(predicted / true, true / predicted)
    return DepthScores(
        float(np.sqrt((error**2).mean())), float((np.abs(error) / true).mean()), float((ratio < 1.25).mean())
    )


FARTHEST = 100.0
"""Maximum depth in metres; the sky and anything as far is unknown."""


def patch_depth(depth: np.ndarray, patch: int) -> np.ndarray:
    """Compute the geometric mean depth of the known pixels of each patch.

    Args:
        depth: metres, 0 where unknown, [h·P, w·P].
        patch: P.

    Returns:
        Metres, 0 where no pixel is known or nearer than `FARTHEST`, [h·w].
    """
    pixels = _patches(depth, patch)
    known = (pixels > 0) & (pixels < FARTHEST)
    logs = np.where(known, np.log(np.where(known, pixels, 1.0)), 0.0).sum(axis=1)
    counts = known.sum(axis=1)
    return np.where(counts > 0, np.exp(logs / np.maximum(counts, 1)), 0.0)


def patch_classes(mask: np.ndarray, patch: int, classes: int) -> np.ndarray:
    """Return the most frequent class of each patch, -1 if most of its pixels are unlabelled.

    Args:
        mask: class indices, unlabelled if not below `classes`, [h·P, w·P].
        patch: P.
        classes: C.

    Returns:
        int64 [h·w].
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
