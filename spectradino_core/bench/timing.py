"""Interleaved timing of cases, and their peak memory in separate processes.

`python -m spectradino_core.bench.timing MODULE ARGUMENTS` runs one case and prints its peak memory in MB.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

Name = TypeVar("Name")
Case = Callable[[], object]
"""One run of a benchmark case."""


@dataclass(frozen=True)
class Timing:
    """Median and quartiles of a case's rounds, in milliseconds."""

    median_ms: float
    low_ms: float
    high_ms: float
    rounds: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Create from the seconds of each round, at least one."""
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        return cls(1e3 * median, 1e3 * low, 1e3 * high, len(seconds))

    def columns(self) -> dict[str, object]:
        """Return the columns of a result table."""
        return {"ms": self.median_ms, "quartiles": f"{self.low_ms:.0f}-{self.high_ms:.0f}", "rounds": self.rounds}


def take_turns(
    cases: Mapping[Name, Case], rounds: int, warm_up: int = 1, synchronise: Callable[[], object] | None = None
) -> dict[Name, Timing]:
    """Time all cases round by round, so that disturbances of the machine affect them equally, after `warm_up` rounds.

    `synchronise` waits for completion of asynchronous runs (`torch.cuda.synchronize`).
    """
    if rounds < 1:
        raise ValueError(f"at least one round must be timed, not {rounds}")
    seconds: dict[Name, list[float]] = {name: [] for name in cases}
    for _ in range(warm_up + rounds):
        for name, case in cases.items():
            start = perf_counter()
            case()
            if synchronise is not None:
                synchronise()
            seconds[name].append(perf_counter() - start)
    return {name: Timing.of(values[warm_up:]) for name, values in seconds.items()}


def peak_memory_mb(module: str, arguments: Mapping[str, Any]) -> float:
    """Measure the peak memory of a new process that builds `case(**arguments)` of a module and runs it three times.

    Raises:
        RuntimeError: the process failed; the message ends with its error output.
    """
    command = [sys.executable, "-m", "spectradino_core.bench.timing", module, json.dumps(dict(arguments))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"measuring the memory of {dict(arguments)} failed: {ended.stderr.strip()[-500:]}")
    return float(ended.stdout.split()[-1])


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
    measured = importlib.import_module(sys.argv[1]).case(**json.loads(sys.argv[2]))
    for _ in range(3):
        measured()
    print(_peak_mb())
