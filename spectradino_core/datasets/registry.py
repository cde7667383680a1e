"""Supported benchmarks by name."""

from __future__ import annotations

from pathlib import Path

from spectradino_core.datasets.benchmark import Benchmark, LabelledPairs
from spectradino_core.datasets.files import BenchmarkError
from spectradino_core.datasets.flir import FLIR
from spectradino_core.datasets.fmb import FMB
from spectradino_core.datasets.llvip import LLVIP
from spectradino_core.datasets.mcubes import MCUBES
from spectradino_core.datasets.mfnet import MFNET
from spectradino_core.datasets.rasmd import RASMD
from spectradino_core.datasets.roadscene import ROADSCENE, ROADSCENE_NIGHT
from spectradino_core.datasets.scenes import SCENES, SCENES_NIR, SCENES_SWIR
from spectradino_core.datasets.semanticrt import SEMANTICRT

_ALL = (
    FLIR, LLVIP, RASMD, MFNET, SEMANTICRT, FMB, MCUBES, ROADSCENE, ROADSCENE_NIGHT, SCENES, SCENES_NIR, SCENES_SWIR,
)  # fmt: skip

BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in _ALL}


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark of this name; BenchmarkError lists the known ones."""
    try:
        return BENCHMARKS[name.strip().lower()]
    except KeyError:
        raise BenchmarkError(f"unknown data set {name!r}: choose one of {', '.join(BENCHMARKS)}") from None


def open_benchmark(
    name: str, root: str | Path | None, split: str, subset: str | None = None, allow_missing: bool = False
) -> LabelledPairs:
    """Open the labelled pairs of a benchmark's split, or of a subset of it such as "night"; see `Benchmark.open`.

    Raises:
        BenchmarkError: unknown name, split or subset; or the root does not hold that data set or only part of it.
    """
    pairs = find_benchmark(name).open(root, split, allow_missing)
    return pairs if subset is None else pairs.subset(subset)
