"""Parallel jobs in local processes or as tasks of a Ray cluster.

The work is a function of one picklable argument that leaves its results in files. A job that raises, crashes or is
killed fails alone, with the jobs that need it; the others continue.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from spectradino_core.text import PrintableFormatter

log = logging.getLogger(__name__)

ENGINES = ("processes", "ray")
KILLED = "its process was killed"
"""Prefix of the error of a worker that ended without a result."""

Work = Callable[[Any], None]
Report = Callable[[str, "str | None"], None]
"""Called at the end of each job with its name and error, None on success."""


def run_jobs(
    work: Work,
    jobs: Mapping[str, Any],
    workers: int,
    engine: str = "processes",
    report: Report | None = None,
    needs: Mapping[str, Collection[str]] | None = None,
    fresh: bool = False,
) -> dict[str, str]:
    """Run a function on the argument of each job.

    Args:
        work, jobs: module-level function, so that other processes can import it; its argument by job name.
        workers: number of parallel jobs, at least 1. With 1 they run in this process, unless `engine` is "ray" or
            `fresh` is set.
        engine: one of `ENGINES`.
        report: called at the end of each job.
        needs: for each job, the jobs that must succeed first, else it is skipped; unknown names are ignored.
        fresh: run each job in its own process, forked from one that has only imported the module of `work`.

    Returns:
        Errors by name of the failed job; skipped jobs have none.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: Ray is requested but not available.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
    if workers < 1:
        raise ValueError(f"the number of parallel jobs must be at least 1, got {workers}")
    queue = _Queue(jobs, needs or {}, report or (lambda name, error: None))
    if engine == "ray":
        _on_ray(work, queue, workers)
    elif fresh or (workers > 1 and len(jobs) > 1):
        _in_processes(work, queue, workers, fresh)
    else:
        while (job := queue.next()) is not None:
            queue.ended(job[0], run_here(work, job[1]))
    return {name: queue.errors[name] for name in jobs if name in queue.errors}


class _Queue:
    """Jobs in order; each starts once the jobs that it needs have succeeded."""

    def __init__(self, jobs: Mapping[str, Any], needs: Mapping[str, Collection[str]], report: Report) -> None:
        self.errors: dict[str, str] = {}
        self._left = dict(jobs)
        self._waits_for = {name: {need for need in needs.get(name, ()) if need in jobs} for name in jobs}
        self._done: set[str] = set()
        self._report = report

    def next(self) -> tuple[str, Any] | None:
        """Return name and argument of a job that can start now, or None."""
        name = next((name for name in self._left if self._waits_for[name] <= self._done), None)
        return None if name is None else (name, self._left.pop(name))

    def ended(self, name: str, error: str | None) -> None:
        self._report(name, error)
        if error is None:
            self._done.add(name)
        else:
            self.errors[name] = error


def run_here(work: Work, argument: Any) -> str | None:
    """Run one job in this process; returns its error message, None on success."""
    try:
        work(argument)
        return None
    except (OSError, ValueError, RuntimeError) as error:  # with messages for the user
        log.debug("%s", traceback.format_exc())
        return str(error) or type(error).__name__
    except MemoryError:
        return "not enough memory: run fewer jobs at once"
    except Exception as error:  # a bug: the other jobs continue, the traceback is logged
        log.error("%s", traceback.format_exc())
        return f"{type(error).__name__}: {error}"


@dataclass
class _Worker:
    """A process that runs jobs one after another; opening an engine can take longer than a job."""

    process: Any
    link: Connection
    job: str = ""

    def give(self, job: str, work: Work, argument: Any) -> None:
        self.job = job
        try:
            self.link.send((work, argument))
        except OSError:  # the idle worker has died: `result` reads the end of file
            log.debug("a worker died before job %s", job)

    def result(self) -> tuple[str | None, bool]:
        """Return the job's error, and whether the worker is alive."""
        try:
            return self.link.recv()[0], True
        except (EOFError, OSError):
            self.process.join()
            return _killed(self.process.exitcode), False


def _in_processes(work: Work, queue: _Queue, workers: int, fresh: bool) -> None:
    # Not forked from this process: threads of ONNX Runtime and OpenCV don't survive a fork.
    context: Any = multiprocessing.get_context("forkserver" if fresh else "spawn")
    if fresh:
        context.set_forkserver_preload([work.__module__])
    busy: list[_Worker] = []
    idle: list[_Worker] = []
    try:
        while True:
            while len(busy) < workers and (job := queue.next()) is not None:
                worker = idle.pop() if idle else _started(context, fresh)
                busy.append(worker)
                worker.give(job[0], work, job[1])
            if not busy:
                return
            ready = wait([worker.link for worker in busy])
            for worker in [worker for worker in busy if worker.link in ready]:
                busy.remove(worker)
                error, alive = worker.result()
                if alive and not fresh:
                    idle.append(worker)
                else:
                    worker.link.close()
                    worker.process.join()
                queue.ended(worker.job, error)
    finally:
        for worker in busy:  # interrupted: their results would not be read
            worker.process.terminate()
        for worker in (*busy, *idle):
            worker.link.close()
            worker.process.join()


def _started(context: Any, fresh: bool) -> _Worker:
    mine, theirs = context.Pipe()
    # A daemon may not have child processes, which training jobs have.
    process = context.Process(target=_serve, args=(theirs, log.getEffectiveLevel()), daemon=not fresh)
    process.start()
    theirs.close()  # so that the worker's death is an end of file
    return _Worker(process, mine)


def _serve(link: Connection, level: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its children
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
    logging.getLogger("spectradino_core").setLevel(level)
    while True:
        try:
            work, argument = link.recv()
        except EOFError:
            return
        link.send((run_here(work, argument),))


def _killed(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{KILLED} ({name}); out of memory? Run fewer jobs at once"
    return f"{KILLED} (exit code {code})"


def _on_ray(work: Work, queue: _Queue, workers: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    try:
        import ray
    except ImportError as missing:
        raise RuntimeError(f"Ray is not installed ({missing}): pip install 'spectradino_ros[ray]'") from None
    started = not ray.is_initialized()
    if started:  # the cluster of RAY_ADDRESS, else a local one
        own: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(log_to_driver=True, logging_level=logging.WARNING, **own)
        except Exception as refusal:  # Ray has no common base class for these
            raise RuntimeError(f"no Ray cluster is available ({refusal}): check RAY_ADDRESS") from None
    task = ray.remote(num_cpus=1, max_retries=0)(run_here)
    running: dict[Any, str] = {}
    try:
        while True:
            while len(running) < workers and (job := queue.next()) is not None:
                running[task.remote(work, job[1])] = job[0]
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                name = running.pop(reference)
                try:
                    error = ray.get(reference)
                except ray.exceptions.RayError as lost:
                    error = f"{KILLED} ({type(lost).__name__}); out of memory? Run fewer jobs at once"
                queue.ended(name, error)
    finally:
        if started:
            ray.shutdown()
