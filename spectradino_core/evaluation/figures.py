"""Plots of scores: precision-recall curves, bars by class and by subset, confusion matrices."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectradino_core.evaluation.comparison import Comparison
from spectradino_core.evaluation.detection import RECALLS
from spectradino_core.evaluation.scorer import ALL
from spectradino_core.evaluation.spread import Spread

COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#7F7F7F", "#009E73", "#CC79A7", "#56B4E9", "#000000")
"""Colours of rows in their order, distinguishable with colour vision deficiency (Okabe and Ito)."""

_MAX_CLASSES_WITH_NUMBERS = 14


def precision_recall(
    rows: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]], instances: Mapping[str, int]
) -> Figure | None:
    """Plot precision at each of `RECALLS`, by row and class, a panel per class with true boxes; None without any."""
    classes = [name for name, count in instances.items() if count]
    if not classes:
        return None
    figure, all_axes = panels(len(classes), 3.6, 3.0)
    for axes, label in zip(all_axes, classes, strict=True):
        for number, (row, precision) in enumerate(rows.items()):
            axes.plot(RECALLS, precision[label], color=COLOURS[number], label=row, linewidth=1.6)
        axes.set(title=f"{label} ({instances[label]})", xlim=(0, 1), ylim=(0, 1.02))
        axes.set(xlabel="recall", ylabel="precision")
    legend(figure, all_axes[0])
    return figure


def class_bars(comparison: Comparison, kind: str, name: str) -> Figure | None:
    """Plot scores of this name by class, a bar per row; kind as in `Comparison.by_class`. None without labels."""
    values = {row: comparison.by_class(kind, row) for row in comparison.rows}
    known = [v for v in values.values() if v]
    classes = [label for label in (known[0] if known else ()) if any(not math.isnan(v[label].mean) for v in known)]
    if not classes:
        return None
    bars = {row: [v[label] for label in classes] for row, v in values.items() if v}
    return grouped_bars(classes, bars, f"{name} in per cent")


def subset_bars(comparison: Comparison, metric: str) -> Figure | None:
    """Plot one metric by subset, a bar per row; None for a single subset."""
    if len(comparison.subsets) < 2:
        return None
    names = [f"{subset} ({comparison.images[subset]})" for subset in comparison.subsets]
    values = {
        row: [comparison.figure(metric, row, subset) for subset in comparison.subsets]
        for row in comparison.rows
        if comparison.scores[ALL][row]
    }
    return grouped_bars(names, values, f"{metric} in per cent")


def grouped_bars(groups: Sequence[str], values: dict[str, list[Spread]], ylabel: str) -> Figure:
    """Plot the bars of several rows side by side in each group, in per cent, with error bars over seeds."""
    slant = len(groups) > 8
    names = list(groups) if slant else [textwrap.fill(name, 14) for name in groups]
    inches = 1.15 if any("\n" in name for name in names) else 0.28 * (len(values) + 1)  # per group
    figure = Figure(figsize=(max(4.0, 1.2 + inches * len(groups)), 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(1, len(values))
    for number, (row, spreads) in enumerate(values.items()):
        positions = np.arange(len(groups)) + (number - (len(values) - 1) / 2) * width
        heights = [0.0 if math.isnan(s.mean) else 100 * s.mean for s in spreads]
        errors = [0.0 if math.isnan(s.std) else 100 * s.std for s in spreads]
        axes.bar(positions, heights, width, color=COLOURS[number % len(COLOURS)], label=row)
        if any(errors):
            axes.errorbar(positions, heights, errors, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    axes.set_xticks(np.arange(len(groups)), names, rotation=30 if slant else 0, ha="right" if slant else "center")
    axes.set(ylabel=ylabel)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend(figure, axes)
    return figure


def confusion_matrix(counts: np.ndarray, rows: Sequence[str], columns: Sequence[str], what: str) -> Figure:
    """Plot counts [rows, columns] as fractions of each row."""
    totals = counts.sum(axis=1, keepdims=True)
    fractions = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    figure = Figure(figsize=(1.8 + 0.5 * len(columns), 1.4 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if len(columns) <= _MAX_CLASSES_WITH_NUMBERS:
        for (row, column), fraction in np.ndenumerate(fractions):
            if counts[row, column]:
                ink = "white" if fraction > 0.55 else "black"
                axes.text(column, row, f"{100 * fraction:.0f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right")
    axes.set_yticks(range(len(rows)), [f"{name} ({int(n):,})" for name, n in zip(rows, totals[:, 0], strict=True)])
    axes.set(xlabel="predicted", ylabel="true", title=f"{what}, per cent of each row")
    return figure


def panels(count: int, width: float, height: float, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row by row, of `width` by `height` inches each."""
    columns = min(columns, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(columns * width, lines * height + 0.4), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for used in axes[:count]:
        used.grid(alpha=0.25)
        used.spines[["top", "right"]].set_visible(False)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, list(axes[:count])


def legend(figure: Figure, axes: Axes) -> None:
    """Add one legend below all panels for the lines of one of them, unless there is a single line."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
