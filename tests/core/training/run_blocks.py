"""Page faults of large blocks that are freed and allocated anew: `python -m tests.core.training.run_blocks keep|plain`.

Runs in its own process, since what the C library was asked for lasts. Prints whether it agreed, and the faults.
"""

from __future__ import annotations

import resource
import sys

import numpy as np

from spectradino_core.training.finetune import keep_freed_memory


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    kept = sys.argv[1] == "keep" and keep_freed_memory()
    np.ones(1 << 22)
    before = faults()
    for _ in range(20):
        np.ones(1 << 22)
    print(int(kept), faults() - before)
