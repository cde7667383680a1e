"""Results as CSV (comment lines `# fact: value`, then header and rows), as Markdown, and as plots with Matplotlib."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectradino_core.evaluation.page import markdown_table
from spectradino_core.files import make_folder

Row = dict[str, object]

DPI = 90


def write_table(
    path: Path, facts: Mapping[str, str], rows: Sequence[Mapping[str, object]], number: str = ".4g"
) -> None:
    """Write facts and rows as CSV, floats in the format `number`; missing values are empty."""
    make_folder(path.parent)
    with path.open("w", newline="") as file:
        file.writelines(f"# {name}: {value}\n" for name, value in facts.items())
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:{number}}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Format rows as a Markdown table with the first row's keys as header and numbers with three digits."""
    return markdown_table(list(rows[0]), [[format_value(row[name]) for name in rows[0]] for row in rows])


def format_value(value: object) -> str:
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
    from spectradino_core.evaluation.figures import COLOURS, panels

    groups: dict[str, list[Row]] = {}
    for row in rows:
        if isinstance(row[value], float):
            groups.setdefault(", ".join(str(row[name]) for name in group), []).append(row)
    if not groups:
        return
    max_bars = max(map(len, groups.values()))
    figure, axes = panels(len(groups), 6.4, 0.9 + 0.3 * max_bars, columns=2)
    for axis, (title, found) in zip(axes, groups.items(), strict=True):
        values = [float(row[value]) for row in found]  # type: ignore[arg-type]
        axis.barh(range(len(found)), values, color=[COLOURS[i % len(COLOURS)] for i in range(len(found))])
        for place, number in enumerate(values):
            axis.text(number, place, f" {format_value(number)}", va="center", fontsize=8)
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
    from spectradino_core.evaluation.figures import COLOURS, panels

    figure, (axis,) = panels(1, 6.4, 0.9 + 0.3 * len(rows))
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


def _save(figure: Any, path: Path) -> None:
    make_folder(path.parent)
    figure.savefig(path, dpi=DPI)
