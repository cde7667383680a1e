"""`python -m benchmarks.downstream`: tables of fine-tuned models over three seeds; see README.md beside this file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.downstream.plan import FULL, PARTS, QUICK, gather, jobs_of
from benchmarks.experiment import Job, run_experiment, run_main, write_times
from benchmarks.pretrain.data import find_data
from spectradino_core.bench.machine import describe
from spectradino_core.files import write_file

_TABLES = {
    "retrieval": "retrieval/retrieval",
    "streets": "streets-tables/result",
    "fresh": "fresh-tables/result",
    "roadscene": "roadscene-tables/result",
}
"""Files of each part, without .md and .json."""


def write_report(work: Path, out: Path, note: str = "") -> None:
    """Copy the tables of each part from the jobs' folder `work` to `<part>.md` and `.json`, and write `times.csv`.

    Raises:
        ValueError: nothing was evaluated yet.
    """
    found = {part: file for part, file in _TABLES.items() if (work / f"{file}.md").is_file()}
    if not found:
        raise ValueError(f"{work} holds no tables: run a part first")
    out.mkdir(parents=True, exist_ok=True)
    for part, file in found.items():
        for suffix in (".md", ".json"):
            text = (work / f"{file}{suffix}").read_text(encoding="utf-8").replace(f"{work}/", "")
            if suffix == ".json":
                text = json.dumps(json.loads(text), indent=1) + "\n"
            write_file(out / f"{part}{suffix}", text)
    write_times(work, out, describe(), note)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def main(arguments: list[str] | None = None) -> int:
    """See `run_experiment`."""
    return run_experiment("downstream", __doc__, PARTS, _jobs, write_report, arguments)


def _jobs(part: str, quick: bool, data: Path | None, work: Path) -> Iterable[Job]:
    scale = QUICK if quick else FULL
    return jobs_of(part, scale, gather(find_data(data), work / "data", scale.streets), work)


if __name__ == "__main__":
    run_main(main)
