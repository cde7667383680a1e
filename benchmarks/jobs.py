"""Commands that are run once: a job whose product is there is left out, one that was interrupted goes on."""

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
        name: under which its time is kept.
        arguments: of this Python.
        makes: the file that is there once it has succeeded.
    """

    name: str
    arguments: tuple[str, ...]
    makes: Path


def cli(*arguments: object) -> tuple[str, ...]:
    """The command `spectradino <arguments>` as arguments of Python."""
    return ("-m", "spectradino_core.cli", *map(str, arguments))


def run_job(job: Job, work: Path) -> None:
    """Runs it unless its product is there; adds to its times, wall and CPU (its workers' included), in `work`.

    Raises:
        RuntimeError: it failed, or did not make what it should.
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
    """Seconds by job: wall and CPU, of all attempts together."""
    files = sorted((work / _TIMES).glob("*.json"), key=lambda path: path.stat().st_mtime)
    return {path.stem: (wall, cpu) for path in files for wall, cpu in [json.loads(path.read_text(encoding="utf-8"))]}
