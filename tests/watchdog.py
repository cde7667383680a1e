"""Watchdog: no process outlives the test run that started it, even if the run is killed.

A leftover node publishes into the topics of later runs. All processes started by tests, and their children, inherit a
mark in their environment. The watchdog is a process at the other end of a pipe: when the pipe closes, for whatever
reason this process ends, it ends all processes with the mark. It needs /proc, hence Linux.

Run as a script this file is the watchdog, which imports only the standard library.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress

__all__ = ["MARK", "start"]

MARK = "SPECTRADINO_TEST_RUN"
_GRACE_S = 5.0
"""For a node to end by itself: one that is killed leaves its shared memory behind."""

_watchdog: subprocess.Popen[bytes] | None = None


def start() -> None:
    """Make the watchdog end all processes that this one starts from now on; later calls have no effect."""
    global _watchdog
    if _watchdog is not None or not os.path.isdir("/proc/self"):
        return
    mark = uuid.uuid4().hex
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    # In a session of its own: what ends this process's whole group must not end the watchdog.
    _watchdog = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # or whoever reads our output would wait for the watchdog's too
        stderr=subprocess.DEVNULL,
        env=unmarked,
        start_new_session=True,
    )
    os.environ[MARK] = mark
    atexit.register(_finish, _watchdog)


def _finish(watchdog: subprocess.Popen[bytes]) -> None:
    assert watchdog.stdin is not None
    watchdog.stdin.close()
    watchdog.wait(2 * _GRACE_S)


def _marked(mark: str) -> list[int]:
    """Return the processes with a mark; those of other users cannot be read, and were not started from here."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for name in os.listdir("/proc"):
        with suppress(OSError, ValueError):
            number = int(name)
            with open(f"/proc/{number}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(number)
    return found


def _end_all(mark: str) -> None:
    for number, patience_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        reported: set[int] = set()
        end = time.monotonic() + patience_s
        while (left := _marked(mark)) and time.monotonic() < end:
            for process in set(left) - reported:
                with suppress(OSError):
                    os.kill(process, number)
            reported.update(left)
            time.sleep(0.05)


if __name__ == "__main__":
    with suppress(OSError):
        sys.stdin.buffer.read()
    _end_all(sys.argv[1])
