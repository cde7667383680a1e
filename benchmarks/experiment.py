"""Set-up that experiments share: command line, tables, processes; and jobs, commands that run once.

A job with an existing product is skipped, an interrupted one is resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import cv2

from spectradino_core.bench import machine
from spectradino_core.bench.tables import write_table
from spectradino_core.files import error_text, folder_fault, write_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_TIMES = "times"

J = TypeVar("J")


class JobError(RuntimeError):
    """A job failed, or did not make its product."""


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and end the process with its status, 1 with one line for a wrong file or setting."""
    try:
        sys.exit(main())
    except (OSError, RuntimeError, ValueError) as error:
        if type(error) is RuntimeError:  # of torch: a fault of the program, not of its input
            raise
        sys.exit(f"error: {error_text(error)}")


def parser_of(name: str, about: str | None, out: Path = RESULTS) -> argparse.ArgumentParser:
    """Return the command line of the module `name` below `benchmarks`, with `--out`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=out, help="folder of the results (default: %(default)s)")
    return parser


def show(row: Mapping[str, Any]) -> None:
    """Print a row as soon as it is measured."""
    values = (f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    print(", ".join(values), flush=True)


def side_by_side(work: Callable[[J], list[dict[str, Any]]], jobs: Sequence[J], workers: int) -> list[dict[str, Any]]:
    """Return the rows of all jobs in order, each of which runs in one of the processes."""
    rows = []
    with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        for done in pool.map(work, jobs):
            rows += done
            for row in done:
                show(row)
    return rows


def ros_machine() -> dict[str, str]:
    """Return `describe` of `spectradino_core.bench.machine` with rclpy's version and the middleware."""
    return machine.describe() | {
        "rclpy": machine.version("ros-jazzy-rclpy", "rclpy"),
        "middleware": os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp"),
    }


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: key of its time.
        arguments: of this Python.
        makes: file that exists once it has succeeded.
    """

    name: str
    arguments: tuple[str, ...]
    makes: Path


def cli(*arguments: object) -> tuple[str, ...]:
    """Return the command `spectradino <arguments>` as arguments of Python."""
    return ("-m", "spectradino_core.cli", *map(str, arguments))


def run_job(job: Job, work: Path) -> None:
    """Run a job unless its product exists; add its times, wall and CPU (including its workers'), in `work`.

    Raises:
        JobError: it failed, or did not make its product.
    """
    if job.makes.is_file():
        return
    print(f"\n== {job.name}\npython {' '.join(job.arguments)}", flush=True)
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, *job.arguments], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall, cpu = times_of(work).get(job.name, (0.0, 0.0))
    spent = [wall + time.monotonic() - start, cpu + usage.ru_utime + usage.ru_stime]
    write_file(work / _TIMES / f"{job.name}.json", json.dumps(spent))
    if process.returncode or not job.makes.is_file():
        raise JobError(f"{job.name} ended with {process.returncode} and left no {job.makes}; see above")


def times_of(work: Path) -> dict[str, tuple[float, float]]:
    """Return seconds by job: wall and CPU, of all attempts together."""
    files = sorted((work / _TIMES).glob("*.json"), key=lambda path: path.stat().st_mtime)
    return {path.stem: (wall, cpu) for path in files for wall, cpu in [json.loads(path.read_text(encoding="utf-8"))]}


def write_times(work: Path, out: Path, facts: Mapping[str, str], note: str) -> None:
    """Write `times.csv` of the jobs in `work`, if there are any; `note`: other load on the machine."""
    rows = [{"job": job, "wall_s": wall, "cpu_s": cpu} for job, (wall, cpu) in times_of(work).items()]
    if rows:
        write_table(out / "times.csv", {**facts, "note": note or "none"}, rows, ".3f")


def folders(name: str, quick: bool, work: Path | None = None, out: Path | None = None) -> tuple[Path, Path]:
    """Return the folders of weights and logs, and of tables: as given, else the experiment's own.

    `quick` runs, whose results mean nothing, have folders apart from committed results and from a full run's weights.
    """
    work = (work or ROOT / "runs" / f"bench-{name}{'-quick' if quick else ''}").resolve()
    return work, out or (work / "results" if quick else RESULTS / name)


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
        name, about, parts: module below `benchmarks`; text for --help; available parts, in order.
        jobs: jobs of a part, from (part, quick, folder of the data set or None, work).
        report: writes the tables, from (work, out, note).
        arguments: command line; None: this program's.

    Raises:
        OSError, JobError, ValueError: a job failed, or data is missing.
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
    if options.data is not None and not options.data.is_dir():
        parser.error(f"--data {folder_fault(options.data)}")
    work, out = folders(name, options.quick, options.work, options.out)
    for part in options.parts or parts:
        if part != "report":
            for job in jobs(part, options.quick, options.data, work):
                run_job(job, work)
    report(work, out, options.note)
    return 0
