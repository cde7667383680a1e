"""Run an ablation's jobs, several at a time, each in a process of its own.

What is done is not done again. A job that fails or is killed is named, what needs it is skipped, and the rest goes on;
the next call resumes what is missing.
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
    """How a call ended.

    Attributes:
        done: jobs whose results are there, also from earlier calls.
        failed: what went wrong, by job.
        left_out: jobs that needed a failed one.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def finished(folder: Path, job: Job) -> dict[str, Any] | None:
    """What a job left behind; None: it is not done.

    Raises:
        ValueError: the folder is another recipe's.
    """
    path = folder / job.key / "done.json"
    if not path.is_file():
        return None
    done = json.loads(path.read_text(encoding="utf-8"))
    if done.get("mark") != job.mark:
        raise ValueError(f"{path.parent} was made by another recipe or on other data: give another --out, or delete it")
    return done


def run(ablation: Ablation, setup: Setup, jobs: int, report: Callable[[str], None] = print) -> Outcome:
    """Runs what is not done yet.

    Args:
        ablation: what to run.
        setup: where and on what.
        jobs: how many at a time.
        report: called with a line as each job ends.

    Raises:
        ValueError: data lacks, or the folder is another recipe's; nothing was run.
    """
    todo = {job.key: job for job in jobs_of(ablation, setup)}
    total, outcome = len(todo), Outcome()
    for key, job in list(todo.items()):
        if finished(setup.folder, job) is not None:
            outcome.done.append(todo.pop(key).key)
        elif (setup.folder / key / "job.json").is_file():
            claim(setup.folder / key, job)
    if outcome.done:
        report(f"{len(outcome.done)} of {total} jobs are done already")

    def ended(key: str, error: str | None) -> None:
        if error is None:
            outcome.done.append(key)
            report(f"[{len(outcome.done)}/{total}] {key}: {_headline(setup.folder / key)}")
        else:
            outcome.failed[key] = error.splitlines()[0]
            report(f"failed: {key}: {outcome.failed[key]} (see {setup.folder / key / 'output.txt'})")

    arguments = {key: (ablation, setup, job) for key, job in todo.items()}
    run_jobs(_do, arguments, jobs, report=ended, needs={key: job.needs for key, job in todo.items()}, fresh=True)
    outcome.left_out += [key for key in todo if key not in outcome.done and key not in outcome.failed]
    return outcome


def _headline(folder: Path) -> str:
    """How long a job took, and the figures of a cell."""
    done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    figures = done["rows"]["fused"]["all"] if done.get("rows") else {}
    named = [f"{name} {100 * figures[name]:.1f}" for name in ("mAP50", "mIoU") if figures.get(name) is not None]
    return ", ".join([f"{done['seconds']:.0f} s", *named])


def _do(argument: tuple[Ablation, Setup, Job]) -> None:
    """One job in its own process; its output goes to a file."""
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
