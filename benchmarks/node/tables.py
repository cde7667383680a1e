"""Results as CSV: lines `# what: value` that describe the measurement, then a header and rows."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["read_table", "write_table"]


def write_table(path: Path, facts: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> None:
    """Writes `rows`, all with the keys of the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.writelines(f"# {name}: {value}\n" for name, value in facts.items())
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def read_table(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """What `write_table` wrote: facts and rows, all as text."""
    lines = path.read_text().splitlines()
    heads = [line[2:].partition(": ") for line in lines if line.startswith("# ")]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return {name: value for name, _, value in heads}, rows
