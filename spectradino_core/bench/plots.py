"""Plots of the results with Matplotlib (from the extra `train`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectradino_core.bench.tables import Row, shown

__all__ = ["plot_bars", "plot_steps"]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F")
DPI = 90


def plot_bars(
    path: Path,
    rows: Sequence[Row],
    group: Sequence[str],
    label: str,
    value: str,
    unit: str,
    wanted: float | None = None,
) -> None:
    """Draw a panel per combination of the columns `group` with a bar per row, and a line at `wanted`."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if isinstance(row[value], float):
            panels.setdefault(", ".join(str(row[name]) for name in group), []).append(row)
    if not panels:
        return
    most = max(map(len, panels.values()))
    figure, axes = _figure(len(panels), most)
    for axis, (title, found) in zip(axes, panels.items(), strict=True):
        values = [float(row[value]) for row in found]  # type: ignore[arg-type]
        axis.barh(range(len(found)), values, color=[COLOURS[i % len(COLOURS)] for i in range(len(found))])
        for place, number in enumerate(values):
            axis.text(number, place, f" {shown(number)}", va="center", fontsize=8)
        axis.set_yticks(range(len(found)), [str(row[label]) for row in found], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.18 * max(values))
        axis.set_xlabel(unit)
        axis.set_title(title, fontsize=9)
        if wanted is not None:
            axis.axvline(wanted, color="k", lw=0.8, ls="--")
    _save(figure, path)


def plot_steps(path: Path, rows: Sequence[Row], label: Sequence[str], steps: Sequence[str]) -> None:
    """Draw a stacked bar per row from its steps' milliseconds."""
    figure, (axis,) = _figure(1, len(rows))
    lefts = [0.0] * len(rows)
    for step, colour in zip(steps, COLOURS, strict=False):
        widths = [float(row[f"{step}_ms"]) for row in rows]  # type: ignore[arg-type]
        axis.barh(range(len(rows)), widths, left=lefts, color=colour, label=step)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axis.set_yticks(range(len(rows)), [" ".join(str(row[name]) for name in label) for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("medians [ms]")
    axis.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(steps), frameon=False)
    _save(figure, path)


def _figure(panels: int, bars: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = 1 if panels == 1 else 2
    lines = -(-panels // columns)
    figure = Figure(figsize=(6.4 * columns, (0.9 + 0.3 * bars) * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
