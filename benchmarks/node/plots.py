"""Plots of the results with Matplotlib (from the extra `train`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

_DPI = 90
_COLOURS = ("#3b6ea5", "#c0504d", "#7f9f4f")


def plot_soak(path: Path, rows: Sequence[Mapping[str, float]], title: str) -> None:
    """Plot latency, memory and rates over time, from the rows of `soak.soak`."""
    minutes = np.array([row["second"] for row in rows]) / 60
    figure = Figure(figsize=(8, 7), layout="constrained")
    latency, memory, rates = figure.subplots(3, 1, sharex=True)
    figure.suptitle(title)
    latency.plot(minutes, [row["latency_max_ms"] for row in rows], lw=0.6, color="#b8c6d8", label="longest")
    latency.plot(minutes, [row["latency_ms"] for row in rows], lw=1.2, color=_COLOURS[0], label="median")
    latency.set_ylabel("stamp to publish [ms]\nby second")
    latency.set_ylim(0, np.nanpercentile([row["latency_max_ms"] for row in rows], 99) * 1.2)
    latency.legend(loc="upper right")
    memory.plot(minutes, [row["rss_mb"] for row in rows], color=_COLOURS[1])
    low, high = min(row["rss_mb"] for row in rows), max(row["rss_mb"] for row in rows)
    memory.set_ylim(0, high * 1.2)
    memory.set_ylabel("resident memory [MB]")
    memory.annotate(f"{low:.1f} to {high:.1f} MB", (0.02, 0.1), xycoords="axes fraction")
    seconds = np.diff([0.0, *(row["second"] for row in rows)])
    for name, label, colour in (("sent", "pairs sent", _COLOURS[2]), ("overload", "dropped: overload", _COLOURS[1])):
        rates.plot(minutes, np.diff([0.0, *(row[name] for row in rows)]) / seconds, lw=1, color=colour, label=label)
    answers = np.array([row["answers"] for row in rows]) / seconds
    rates.plot(minutes, answers, lw=1, color=_COLOURS[0], label="answered")
    rates.set_ylabel("pairs a second")
    rates.set_ylim(0, None)
    rates.set_xlabel("minutes")
    rates.legend(loc="lower center", ncols=3, bbox_to_anchor=(0.5, 1.0), frameon=False)
    for axes in (latency, memory, rates):
        axes.grid(alpha=0.3)
    _save(figure, path)


def plot_overhead(path: Path, measured: Mapping[str, Sequence[Mapping[str, float]]], wanted_ms: float) -> None:
    """Plot one bar per case: medians of the steps, and the distribution of their sum."""
    steps = ("pairing", "queue", "preprocess", "postprocess", "publishing")
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    bars, curves = figure.subplots(1, 2)
    for number, (_case, rows) in enumerate(measured.items()):
        left = 0.0
        for step, colour in zip(steps, matplotlib.colormaps["tab10"].colors, strict=False):
            width = float(np.median([row[step] for row in rows]))
            bars.barh(number, width, left=left, color=colour, label=step if number == 0 else None)
            left += width
    bars.set_yticks(range(len(measured)), list(measured))
    bars.invert_yaxis()
    bars.set_xlabel("medians [ms]")
    bars.legend(fontsize=8, loc="upper right")
    for case, colour in zip(measured, _COLOURS, strict=False):
        values = np.sort([row["overhead"] for row in measured[case]])
        curves.plot(values, np.linspace(0, 100, len(values)), color=colour, label=case)
    curves.axvline(wanted_ms, color="k", lw=0.8, ls="--", label=f"{wanted_ms:g} ms")
    curves.axhline(95, color="k", lw=0.5, ls=":")
    curves.set_xlim(0, None)
    curves.set_xlabel("overhead [ms]")
    curves.set_ylabel("pairs [%]")
    curves.legend(fontsize=8, loc="lower right")
    for axes in (bars, curves):
        axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
