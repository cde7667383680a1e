"""Worker thread with a queue of one: a new job replaces the one that waits.

A detector that queues every frame falls behind without bound as soon as frames arrive faster than it processes them.
This worker is at most one job behind, and `submit` returns each job that was replaced.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["NewestOnlyWorker"]

Job = TypeVar("Job")


class NewestOnlyWorker(Generic[Job]):
    """Run `work(job)` on a thread of its own, one job at a time, holding no lock meanwhile."""

    def __init__(
        self, work: Callable[[Job], None], failed: Callable[[Exception], None], name: str = "inference"
    ) -> None:
        """
        Args:
            work: processes one job.
            failed: called with an exception raised by `work`; the thread then continues with the next job.
            name: the thread's name, visible in debuggers.
        """
        self._work = work
        self._failed = failed
        self._changed = threading.Condition()
        self._waiting: Job | None = None
        self._stopping = False
        self._busy = False
        self._let_go = threading.Event()
        self._let_go.set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Job | None:
        """Queue `job`; returns the job that it replaced, which is dropped, or None."""
        with self._changed:
            passed_over, self._waiting = self._waiting, job
            if not self._busy:
                self._let_go.clear()
            self._changed.notify()
        return passed_over

    def let_go(self) -> None:
        """Release threads in `stand_back`; called by `work` before it leaves Python for native code."""
        self._let_go.set()

    def stand_back(self, timeout_s: float) -> None:
        """Wait until the current job has called `let_go` or has ended, `timeout_s` seconds at most.

        The submitting thread runs Python code too and competes with the job for the interpreter lock (GIL): without
        this wait the job would be delayed by it.
        """
        self._let_go.wait(timeout_s)

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Stop the thread after the current job, drop a waiting one; returns whether it stopped in time."""
        with self._changed:
            self._stopping = True
            self._waiting = None
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._waiting is not None)
                if self._stopping:
                    self._let_go.set()
                    return
                job, self._waiting, self._busy = self._waiting, None, True
                self._let_go.clear()
            assert job is not None
            try:
                self._work(job)
            except Exception as error:  # costs one frame, never the thread
                try:
                    self._failed(error)
                except Exception:  # nor may a failing handler end the thread
                    traceback.print_exc()
            finally:
                with self._changed:
                    self._busy = False
                    if self._waiting is None:
                        self._let_go.set()
            del job  # otherwise the frame's memory is held until the next one arrives
