"""One thread that works on the newest job only: what arrives while it is busy replaces what waits.

A detector that keeps every frame falls behind for good as soon as frames come faster than it works. This one is never
more than one job behind, and the caller is told of each job that was passed over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["NewestOnlyWorker"]

Job = TypeVar("Job")


class NewestOnlyWorker(Generic[Job]):
    """Runs `work(job)` on a thread of its own, one job at a time. No lock is held while it works."""

    def __init__(
        self, work: Callable[[Job], None], failed: Callable[[Exception], None], name: str = "inference"
    ) -> None:
        """
        Args:
            work: what is done with a job.
            failed: told of an exception that `work` raised; the thread then goes on with the next job.
            name: the thread's name, seen in debuggers.
        """
        self._work = work
        self._failed = failed
        self._changed = threading.Condition()
        self._waiting: Job | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Job | None:
        """Lays `job` in the one slot. Returns the job that waited there and will not be worked on, if there was one."""
        with self._changed:
            passed_over, self._waiting = self._waiting, job
            self._changed.notify()
        return passed_over

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Ends the thread after the job in hand; one that waits is dropped. Returns whether it ended in time."""
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
                    return
                job, self._waiting = self._waiting, None
            assert job is not None
            try:
                self._work(job)
            except Exception as error:  # one frame is lost, never the thread
                self._failed(error)
            del job  # or the frame's memory is held until the next one comes
