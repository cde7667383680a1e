"""Command line of experiments with many jobs: parts, folders, a quick trial, only missing results."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.jobs import ROOT, Job, run_job

__all__ = ["folders", "run_experiment"]


def folders(name: str, quick: bool, work: Path | None = None, out: Path | None = None) -> tuple[Path, Path]:
    """Return the folders of weights and logs, and of tables: as given, else the experiment's own.

    `quick` runs, whose results mean nothing, have folders apart from committed results and from a full run's weights.
    """
    work = (work or ROOT / "runs" / f"bench-{name}{'-quick' if quick else ''}").resolve()
    return work, out or (work / "results" if quick else ROOT / "benchmarks" / "results" / name)


def run_experiment(
    name: str,
    about: str | None,
    parts: Sequence[str],
    jobs: Callable[[str, bool, Path | None, Path], Iterable[Job]],
    report: Callable[[Path, Path, str], Any],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run missing jobs, then write the tables.

    Args:
        name: module below `benchmarks`.
        about: for --help.
        parts: available parts, in order.
        jobs: jobs of a part, from (part, quick, folder of the data set or None, work).
        report: writes the tables, from (work, out, note).
        arguments: command line; None: this program's.

    Raises:
        OSError, RuntimeError, ValueError: a job failed, or data is missing.
    """
    (work, out), (quick_work, _) = folders(name, False), folders(name, True)
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}, report (default: all)")
    parser.add_argument("--data", type=Path, help="the shared data set (default: $SPECTRADINO_DATA, ../shared/data)")
    parser.add_argument("--work", type=Path, help=f"weights and logs, not committed ({work}; --quick: {quick_work})")
    parser.add_argument("--out", type=Path, help=f"tables and plots ({out}; --quick: results below its --work)")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; its figures mean nothing")
    parser.add_argument("--note", default="", help="kept with the results: what else the machine did")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in (*parts, "report")]:
        parser.error(f"no part {', '.join(unknown)}: choose of {', '.join(parts)}, report")
    work, out = folders(name, options.quick, options.work, options.out)
    for part in options.parts or parts:
        if part != "report":
            for job in jobs(part, options.quick, options.data, work):
                run_job(job, work)
    report(work, out, options.note)
    return 0
