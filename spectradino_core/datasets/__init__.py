"""Public data sets with labels, read as they are published: one file a data set.

- `benchmark.py`: what a benchmark is, and the pairs of one split; `registry.py`: those there are.
- `files.py`, `boxes.py`, `voc.py`, `coco_json.py`, `masks.py`, `daylight.py`: what their readers share.
- `check.py`: whether a folder is whole; `sheet.py`: pairs with their labels, to look at.
"""

from __future__ import annotations

from spectradino_core.datasets.benchmark import Benchmark
from spectradino_core.datasets.files import BenchmarkError
from spectradino_core.datasets.registry import BENCHMARKS, find_benchmark, open_benchmark

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkError",
    "find_benchmark",
    "open_benchmark",
]
