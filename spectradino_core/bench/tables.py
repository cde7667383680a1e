"""Results as CSV (comment lines `# fact: value`, then header and rows) and as Markdown."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Row", "markdown", "read_table", "shown", "write_table"]

Row = dict[str, object]


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
