"""Signals of child processes."""

from __future__ import annotations

import signal


def heed_signals() -> None:
    """Handle SIGINT, SIGTERM and SIGHUP by default, which nohup and shells in the background ignore; a `preexec_fn`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
