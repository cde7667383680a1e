"""Readers of published data sets with labels, one file per data set, and of a user's own folder (`own/`).

- `benchmark.py`: a data set's description and the pairs of one split; `registry.py`: data sets by name.
- `files.py`: shared by the readers; label formats are in `data/labels`.
- `check.py`: checks that a folder is complete; `sheet.py`: draws pairs with their labels.
"""

from __future__ import annotations

from spectradino_core.datasets.benchmark import Benchmark
from spectradino_core.datasets.files import BenchmarkError
from spectradino_core.datasets.registry import BENCHMARKS, find_benchmark, open_benchmark

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkError", "find_benchmark", "open_benchmark"]
