"""Runs an ablation's jobs, several at a time, each in a process of its own.

What is done is not done again. A job that fails or is killed is named, what needs it is left out, and the rest goes on;
the next call takes up what is missing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from spectradino_core.ablation.recipe import Ablation
from spectradino_core.ablation.work import Job, Setup, claim, jobs_of, run_job

__all__ = ["Outcome", "finished", "run"]

_WAIT_S = 0.2


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


def run(ablation: Ablation, setup: Setup, jobs: int, tell: Callable[[str], None] = print) -> Outcome:
    """Runs what is not done yet.

    Args:
        ablation: what to run.
        setup: where and on what.
        jobs: how many at a time.
        tell: is given a line for each job that ends.

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
        tell(f"{len(outcome.done)} of {total} jobs are done already")
    # Each job is forked from one process that has imported everything and done nothing: starting it costs no seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run_job.__module__])
    running: dict[str, tuple[BaseProcess, float]] = {}
    try:
        while todo or running:
            for key in [key for key, job in todo.items() if _blocked(job, outcome)]:
                outcome.left_out.append(key)
                del todo[key]
            ready = [job for job in todo.values() if set(job.needs) <= set(outcome.done)]
            for job in ready[: jobs - len(running)]:
                process: BaseProcess = context.Process(target=_child, args=(ablation, setup, job), name=job.key)
                process.start()
                running[job.key] = (process, time.monotonic())
                del todo[job.key]
            ended = [key for key, (process, _) in running.items() if not process.is_alive()]
            for key in ended:
                over, started = running.pop(key)
                over.join()
                _take_in(key, over.exitcode or 0, time.monotonic() - started, setup, outcome, total, tell)
            if not ended:
                time.sleep(_WAIT_S)
    finally:  # on Ctrl-C too: they are taken up next time
        for left, _ in running.values():
            left.terminate()
        for left, _ in running.values():
            left.join()
    return outcome


def _blocked(job: Job, outcome: Outcome) -> bool:
    return any(need in outcome.failed or need in outcome.left_out for need in job.needs)


def _take_in(
    key: str, code: int, seconds: float, setup: Setup, outcome: Outcome, total: int, tell: Callable[[str], None]
) -> None:
    folder = setup.folder / key
    if code == 0:
        outcome.done.append(key)
        tell(f"[{len(outcome.done)}/{total}] {key}: {seconds:.0f} s{_headline(folder)}")
        return
    told = folder / "error.txt"
    if code < 0:
        reason = f"killed by signal {-code}"
    elif told.is_file():
        reason = told.read_text(encoding="utf-8").splitlines()[0]
    else:
        reason = f"ended with status {code}"
    outcome.failed[key] = reason
    tell(f"failed: {key}: {reason} (see {folder / 'output.txt'})")


def _headline(folder: Path) -> str:
    rows = json.loads((folder / "done.json").read_text(encoding="utf-8")).get("rows")
    if not rows:
        return ""
    figures = rows["fused"]["all"]
    return "".join(f", {name} {100 * figures[name]:.1f}" for name in ("mAP50", "mIoU") if figures.get(name) is not None)


def _child(ablation: Ablation, setup: Setup, job: Job) -> None:
    """One job in its own process; what it prints goes to a file, its error's first line to another."""
    folder = setup.folder / job.key
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "error.txt"
    told.unlink(missing_ok=True)
    with (folder / "output.txt").open("ab") as output:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(output.fileno(), stream.fileno())
    try:
        run_job(ablation, setup, job)
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        told.write_text(f"{first}\n", encoding="utf-8")
        sys.stderr.flush()
        sys.exit(1)
