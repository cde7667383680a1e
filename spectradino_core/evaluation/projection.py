"""Plots of features of random items, with lines between the modalities of an item (SpectraDINO Figure 3).

The paper's is a t-SNE in three dimensions. Principal components in two need no tuning and are comparable between
stages.

Letters: N items, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.files import written_atomically

__all__ = ["plot_pairs", "plot_tsne", "principal_components"]

MAX_ITEMS = 100
"""Maximum number of items drawn per modality, at random: the first ones of a recording look alike."""

COLOURS = {
    "rgb": "#1b9e77",
    "nir": "#e6ab02",
    "swir": "#7570b3",
    "lwir": "#d95f02",
    "depth": "#666666",
    "segmentation": "#e7298a",
}


def principal_components(features: np.ndarray, count: int = 2) -> np.ndarray:
    """Project features [N, D] to their principal components [N, count], padded with zeros.

    Signs are fixed so that the item with the largest absolute coordinate is positive in each component.
    """
    centred = np.asarray(features, np.float64) - np.mean(features, axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    points = u[:, :count] * s[:count]
    farthest = points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])]
    points = points * np.where(farthest < 0, -1.0, 1.0)
    return np.pad(points, ((0, 0), (0, count - points.shape[1])))


def plot_pairs(
    stages: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], path: Path, title: str = "", seed: int = 0
) -> None:
    """Plot one panel per stage with the normalised features of RGB and other modalities in their principal components.

    Args:
        stages: (RGB features, features of the modality), [N, D] each, by stage and modality.
        path: PNG file to write.
        title: title of the figure.
        seed: seed of the items drawn.

    Raises:
        ValueError: no features.
    """
    _plot(stages, path, title, seed, principal_components)


def plot_tsne(
    stages: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], path: Path, title: str = "", seed: int = 0
) -> None:
    """Plot the same items as `plot_pairs` by t-SNE in three dimensions, as the paper does.

    Raises:
        ValueError: no features.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn.manifold import TSNE

    def embedded(features: np.ndarray) -> np.ndarray:
        perplexity = min(30.0, max(1.0, (len(features) - 1) / 3))  # scikit-learn's default needs more items
        return TSNE(3, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)

    _plot(stages, path, title, seed, embedded, projection="3d")


def _plot(
    stages: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    path: Path,
    title: str,
    seed: int,
    project: Callable[[np.ndarray], np.ndarray],
    **axes_options: Any,
) -> None:
    if not any(stages.values()):
        raise ValueError("no features to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(stages), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(stages), squeeze=False, subplot_kw=axes_options)[0]
    for axis, (name, pairs) in zip(axes, stages.items(), strict=True):
        _panel(axis, name, {key: _chosen(a, b, seed) for key, (a, b) in pairs.items()}, project)
    handles = {handle.get_label(): handle for axis in axes for handle in axis.get_legend_handles_labels()[0]}
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=len(handles), frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    with written_atomically(path) as scratch:
        figure.savefig(scratch, format="png", dpi=130)


def _chosen(a: np.ndarray, b: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of up to `MAX_ITEMS` random items."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(a))[:MAX_ITEMS])
    return a[rows], b[rows]


def _panel(
    axis: Any,
    name: str,
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    project: Callable[[np.ndarray], np.ndarray],
) -> None:
    blocks: Sequence[np.ndarray] = [_unit(x) for pair in pairs.values() for x in pair]
    points = project(np.concatenate(blocks))
    start = 0
    for number, (key, (rgb, other)) in enumerate(pairs.items()):
        a, b = points[start : start + len(rgb)], points[start + len(rgb) : start + len(rgb) + len(other)]
        start += len(rgb) + len(other)
        for both in zip(a, b, strict=True):
            axis.plot(*np.transpose(both), color="#bbbbbb", linewidth=0.4, zorder=1)
        axis.scatter(*a.T, s=9, color=COLOURS["rgb"], label="rgb" if number == 0 else None, zorder=2)
        axis.scatter(*b.T, s=9, color=COLOURS.get(key, "#333333"), label=key, zorder=2)
    axis.set_title(name, fontsize=10)
    for ticks in (axis.set_xticks, axis.set_yticks, getattr(axis, "set_zticks", axis.set_yticks)):
        ticks([])
    axis.set_aspect("equal", adjustable="datalim")


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
