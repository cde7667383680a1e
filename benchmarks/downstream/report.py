"""Tables of all parts in one folder."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.jobs import times_of
from spectradino_core.bench.machine import describe
from spectradino_core.bench.tables import write_table
from spectradino_core.files import written_atomically

__all__ = ["write_report"]

_PARTS = {
    "retrieval": ("retrieval.md", "retrieval.json"),
    "streets-tables": ("result.md", "result.json"),
    "fresh-tables": ("result.md", "result.json"),
    "roadscene-tables": ("result.md", "result.json"),
}


def write_report(work: Path, out: Path, note: str = "") -> None:
    """Copy each part's tables and write `times.csv`.

    Args:
        work: folder of the jobs.
        out: receives `<part>.md` and `<part>.json`.
        note: other load on the machine.

    Raises:
        ValueError: nothing was evaluated yet.
    """
    found = [(part, names) for part, names in _PARTS.items() if (work / part / names[0]).is_file()]
    if not found:
        raise ValueError(f"{work} holds no tables: run a part first")
    out.mkdir(parents=True, exist_ok=True)
    for part, names in found:
        for name in names:
            text = (work / part / name).read_text(encoding="utf-8").replace(f"{work}/", "")
            if name.endswith(".json"):
                text = json.dumps(json.loads(text), indent=1) + "\n"
            with written_atomically(out / f"{part.removesuffix('-tables')}{Path(name).suffix}") as scratch:
                scratch.write_text(text, encoding="utf-8")
    rows = [{"job": job, "wall_s": wall, "cpu_s": cpu} for job, (wall, cpu) in times_of(work).items()]
    if rows:
        write_table(out / "times.csv", describe() | {"note": note or "none"}, rows, ".3f")
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
