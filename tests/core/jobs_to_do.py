"""Work for `test_jobs.py`, in a module of its own so that other processes find it."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def leave_word(argument: tuple[Path, str]) -> None:
    """Writes who did it, or fails in the way asked for."""
    path, how = argument
    if how == "refuse":
        raise ValueError(f"{path.name} is refused")
    if how == "mistake":
        raise KeyError("forgotten")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    path.write_text(str(os.getpid()))
