"""Memory of training on a CPU: keep what was freed instead of giving it back to the system after each step."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Parameters of glibc's `mallopt`."""


def keep_freed_memory() -> bool:
    """Make glibc reuse large blocks: by default each is mapped afresh, and its pages faulted in, at every allocation.

    A training step allocates hundreds of activations of many megabytes; `benchmarks/training_speed.py` measures what
    their page faults cost.

    Returns:
        Whether it was done: the C library is glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    limit = 2**31 - 1
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, limit) and mallopt(_TOP_PAD, 1 << 28))
