"""Results as CSV (comment lines `# fact: value`, then header and rows), as Markdown, and as plots with Matplotlib."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, object]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F")
DPI = 90


def write_table(
    path: Path, facts: Mapping[str, str], rows: Sequence[Mapping[str, object]], number: str = ".4g"
) -> None:
    """Write facts and rows as CSV, floats in the format `number`; missing values are empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.writelines(f"# {name}: {value}\n" for name, value in facts.items())
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:{number}}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def read_table(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Read a table of `write_table`: facts and rows, all as text."""
    lines = path.read_text().splitlines()
    heads = [line[2:].partition(": ") for line in lines if line.startswith("# ")]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return {name: value for name, _, value in heads}, rows


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Format rows as a Markdown table with the first row's keys as header and numbers with three digits."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(shown(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def shown(value: object) -> str:
    """Format a value as text; a float with three digits, without an exponent if large."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


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
