"""Commands that run once: a job with an existing product is skipped, an interrupted one is resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from spectradino_core.files import written_atomically

__all__ = ["ROOT", "Job", "cli", "run_job", "times_of"]

ROOT = Path(__file__).resolve().parents[1]
_TIMES = "times"


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
        RuntimeError: it failed, or did not make its product.
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
    with written_atomically(work / _TIMES / f"{job.name}.json") as scratch:
        scratch.write_text(json.dumps(spent), encoding="utf-8")
    if process.returncode or not job.makes.is_file():
        raise RuntimeError(f"{job.name} ended with {process.returncode} and left no {job.makes}; see above")


def times_of(work: Path) -> dict[str, tuple[float, float]]:
    """Return seconds by job: wall and CPU, of all attempts together."""
    files = sorted((work / _TIMES).glob("*.json"), key=lambda path: path.stat().st_mtime)
    return {path.stem: (wall, cpu) for path in files for wall, cpu in [json.loads(path.read_text(encoding="utf-8"))]}
