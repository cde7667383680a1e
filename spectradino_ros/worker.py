"""Worker thread without a backlog: a new job replaces the one that waits.

A detector that queues every frame falls behind without bound as soon as frames arrive faster than it processes them.
This worker is one job behind at most, or what became ready together, and `submit` returns each job that was replaced.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class NewestOnlyWorker(Generic[Job]):
    """Run `work(job)` on a thread of its own, one job at a time, holding no lock meanwhile."""

    def __init__(
        self, work: Callable[[Job], None], failed: Callable[[Exception], None], name: str = "inference"
    ) -> None:
        """`failed` is called with an exception raised by `work`; the thread then continues with the next job."""
        self._work = work
        self._failed = failed
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._capacity = 1
        self._stopping = False
        self._busy = False
        self._released = threading.Event()
        self._released.set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, *jobs: Job) -> list[Job]:
        """Queue jobs that became ready together, oldest first, in place of waiting ones.

        RGB frames that waited for the same infrared frame become ready together. An idle worker does all of them unless
        further calls come first; a busy one only the newest.

        Returns:
            Jobs, waiting or new, that are dropped.
        """
        with self._changed:
            together = 1 if self._busy else len(jobs)
            capacity = max(self._capacity, together)
            self._capacity = capacity if capacity == together else capacity - 1
            self._waiting.extend(jobs)
            dropped = [self._waiting.popleft() for _ in range(len(self._waiting) - capacity)]
            if not self._busy:
                self._released.clear()
            self._changed.notify()
        return dropped

    def release_waiters(self) -> None:
        """Release threads in `wait_for_release`; called by `work` before it leaves Python for native code."""
        self._released.set()

    def wait_for_release(self, timeout_s: float) -> None:
        """Wait until the current job has called `release_waiters` or has ended, `timeout_s` seconds at most.

        The submitting thread runs Python code too and competes with the job for the interpreter lock (GIL): without
        this wait the job would be delayed by it.
        """
        self._released.wait(timeout_s)

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Stop the thread after the current job, drop a waiting one; returns whether it stopped in time."""
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or bool(self._waiting))
                if self._stopping:
                    self._released.set()
                    return
                job, self._busy = self._waiting.popleft(), True
                self._released.clear()
            try:
                self._work(job)
            except Exception as error:  # the frame is lost, the thread continues
                try:
                    self._failed(error)
                except Exception:  # a failing handler must not end the thread either
                    traceback.print_exc()
            finally:
                with self._changed:
                    self._busy = False
                    if not self._waiting:
                        self._released.set()
            del job  # otherwise the frame's memory is held until the next one arrives
