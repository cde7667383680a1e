"""One thread that works on the newest job only: what arrives while it is busy replaces what waits.

A detector that keeps every frame falls behind for good as soon as frames come faster than it works. This one is never
more than one job behind, and the caller is told of each job that was passed over.
"""

from __future__ import annotations

import threading
import traceback
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
        self._busy = False
        self._let_go = threading.Event()
        self._let_go.set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Job | None:
        """Lays `job` in the one slot. Returns the job that waited there and will not be worked on, if there was one."""
        with self._changed:
            passed_over, self._waiting = self._waiting, job
            if not self._busy:
                self._let_go.clear()
            self._changed.notify()
        return passed_over

    def let_go(self) -> None:
        """Called by `work` when it is about to compute outside of Python: who stands back may go on."""
        self._let_go.set()

    def stand_back(self, timeout_s: float) -> None:
        """Returns once the job in hand has let go or has ended, after `timeout_s` seconds at the latest.

        The thread that submits has work of its own in Python, and the interpreter's lock goes to one of the two at a
        time: without this the job waits for whatever the other is about to do.
        """
        self._let_go.wait(timeout_s)

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
                    self._let_go.set()
                    return
                job, self._waiting, self._busy = self._waiting, None, True
                self._let_go.clear()
            assert job is not None
            try:
                self._work(job)
            except Exception as error:  # one frame is lost, never the thread
                try:
                    self._failed(error)
                except Exception:  # nor by what tells of it
                    traceback.print_exc()
            finally:
                with self._changed:
                    self._busy = False
                    if self._waiting is None:
                        self._let_go.set()
            del job  # or the frame's memory is held until the next one comes
