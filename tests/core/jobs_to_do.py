"""Work for `test_jobs.py`, in its own module so that other processes can import it."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def leave_word(argument: tuple[Path, str]) -> None:
    """Write the process id, or fail as requested."""
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
