"""Read result tables of `spectradino_core.bench.tables`."""

from __future__ import annotations

import csv
from pathlib import Path


def read_table(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Read a table of `write_table`: facts and rows, all as text."""
    lines = path.read_text().splitlines()
    heads = [line[2:].partition(": ") for line in lines if line.startswith("# ")]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return {name: value for name, _, value in heads}, rows
