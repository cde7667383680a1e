"""`python -m benchmarks.downstream`: tables of fine-tuned models over three seeds; see README.md beside this file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.downstream.data import gather
from benchmarks.downstream.plan import FULL, PARTS, QUICK, jobs_of
from benchmarks.downstream.report import write_report
from benchmarks.pretrain.data import find_data
from benchmarks.pretrain.jobs import run_job

RESULTS = Path(__file__).resolve().parents[1] / "results" / "downstream"
WORK = Path(__file__).resolve().parents[2] / "runs" / "bench-downstream"
QUICK_WORK = WORK.with_name("bench-downstream-quick")
"""With `--quick`, whose figures mean nothing: apart from what is committed, and from a full run's weights."""


def main(arguments: list[str] | None = None) -> int:
    """Runs what is not there yet, then gathers the tables of what is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.downstream", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}, report (default: all)")
    parser.add_argument("--data", type=Path, help="the shared data set (default: $SPECTRADINO_DATA, ../shared/data)")
    parser.add_argument("--work", type=Path, help=f"weights and logs, not committed ({WORK}; --quick: {QUICK_WORK})")
    parser.add_argument("--out", type=Path, help=f"tables ({RESULTS}; --quick: results below its --work)")
    parser.add_argument("--quick", action="store_true", help="to see that it runs")
    parser.add_argument("--note", default="", help="kept with the results: what else the machine did")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in (*PARTS, "report")]:
        parser.error(f"no part {', '.join(unknown)}: choose of {', '.join(PARTS)}, report")
    scale = QUICK if options.quick else FULL
    work = (options.work or (QUICK_WORK if options.quick else WORK)).resolve()
    out = options.out or (work / "results" if options.quick else RESULTS)
    for part in options.parts or PARTS:
        if part != "report":
            pairs = gather(find_data(options.data), work / "data", scale.streets)
            for job in jobs_of(part, scale, pairs, work):
                run_job(job, work)
    write_report(work, out, options.note)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")
