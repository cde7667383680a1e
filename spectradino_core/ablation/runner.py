"""Run an ablation's jobs, several in parallel, each in its own process.

Finished jobs are not repeated. A job that fails or is killed is reported, jobs that need it are skipped, and the others
continue; the next call resumes the missing jobs.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectradino_core.ablation.recipe import Ablation
from spectradino_core.ablation.work import Job, Setup, claim, jobs_of, run_job
from spectradino_core.jobs import run_jobs

__all__ = ["Outcome", "finished", "run"]


@dataclass
class Outcome:
    """Outcome of a call.

    Attributes:
        done: finished jobs, including those of earlier calls.
        failed: error message by job.
        skipped: jobs that needed a failed one.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def finished(folder: Path, job: Job) -> dict[str, Any] | None:
    """Return the result of a job; None: it is not finished.

    Raises:
        ValueError: the folder belongs to another recipe.
    """
    path = folder / job.key / "done.json"
    if not path.is_file():
        return None
    done = json.loads(path.read_text(encoding="utf-8"))
    if done.get("mark") != job.mark:
        raise ValueError(f"{path.parent} was made by another recipe or on other data: give another --out, or delete it")
    return done


def run(ablation: Ablation, setup: Setup, jobs: int, report: Callable[[str], None] = print) -> Outcome:
    """Run the jobs that are not finished yet.

    Args:
        ablation: the ablation.
        setup: folder, data and device.
        jobs: number of parallel jobs.
        report: called with a line of text when a job ends.

    Raises:
        ValueError: data is missing, or the folder belongs to another recipe; nothing was run.
    """
    todo = {job.key: job for job in jobs_of(ablation, setup)}
    total, outcome = len(todo), Outcome()
    for key, job in list(todo.items()):
        if finished(setup.folder, job) is not None:
            outcome.done.append(todo.pop(key).key)
        elif (setup.folder / key / "job.json").is_file():
            claim(setup.folder / key, job)
    if outcome.done:
        report(f"{len(outcome.done)} of {total} jobs are already done")

    def ended(key: str, error: str | None) -> None:
        if error is None:
            outcome.done.append(key)
            report(f"[{len(outcome.done)}/{total}] {key}: {_headline(setup.folder / key)}")
        else:
            outcome.failed[key] = error.splitlines()[0]
            report(f"failed: {key}: {outcome.failed[key]} (see {setup.folder / key / 'output.txt'})")

    arguments = {key: (ablation, setup, job) for key, job in todo.items()}
    run_jobs(_do, arguments, jobs, report=ended, needs={key: job.needs for key, job in todo.items()}, fresh=True)
    outcome.skipped += [key for key in todo if key not in outcome.done and key not in outcome.failed]
    return outcome


def _headline(folder: Path) -> str:
    """Return a job's duration, and the scores of a cell, as text."""
    done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    figures = done["rows"]["fused"]["all"] if done.get("rows") else {}
    named = [f"{name} {100 * figures[name]:.1f}" for name in ("mAP50", "mIoU") if figures.get(name) is not None]
    return ", ".join([f"{done['seconds']:.0f} s", *named])


def _do(argument: tuple[Ablation, Setup, Job]) -> None:
    """Run one job in its own process, with its output redirected to a file."""
    ablation, setup, job = argument
    folder = setup.folder / job.key
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("ab") as output:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(output.fileno(), stream.fileno())
    try:
        run_job(ablation, setup, job)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        raise
