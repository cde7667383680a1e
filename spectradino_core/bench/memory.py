"""`python -m spectradino_core.bench.memory MODULE ARGUMENTS`: run one case and print its peak memory in MB."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

__all__ = ["main"]

RUNS = 3


def main() -> None:
    """Entry point, see `timing.peak_memory_mb`."""
    run = importlib.import_module(sys.argv[1]).case(**json.loads(sys.argv[2]))
    for _ in range(RUNS):
        run()
    print(_peak_mb())


def _peak_mb() -> float:
    """Peak memory of this process; `getrusage` would start at the size of the parent process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):  # not Linux
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
