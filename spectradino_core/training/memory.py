"""Memory of training on a CPU: keep freed blocks instead of returning them to the system after each step."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Parameters of glibc's `mallopt`."""


def keep_freed_memory() -> bool:
    """Make glibc reuse large blocks, which it otherwise maps and page-faults anew at every allocation.

    A training step allocates hundreds of activations of many megabytes; `benchmarks/training_speed.py` measures the
    cost of their page faults.

    Returns:
        Whether it took effect, which requires glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    limit = 2**31 - 1
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, limit) and mallopt(_TOP_PAD, 1 << 28))
