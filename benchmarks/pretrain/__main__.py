"""`python -m benchmarks.pretrain`: pretraining at toy scale with its evidence; see README.md beside this file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.experiment import Job, run_experiment, run_main
from benchmarks.pretrain.data import find_data, gather
from benchmarks.pretrain.plan import FULL, PARTS, QUICK, jobs_of
from benchmarks.pretrain.report import write_report


def main(arguments: list[str] | None = None) -> int:
    """See `run_experiment`."""
    return run_experiment("pretrain", __doc__, PARTS, _jobs, write_report, arguments)


def _jobs(part: str, quick: bool, data: Path | None, work: Path) -> Iterable[Job]:
    scale = QUICK if quick else FULL
    return jobs_of(part, scale, gather(find_data(data), work / "data", scale.scenes, scale.labelled), work)


if __name__ == "__main__":
    run_main(main)
