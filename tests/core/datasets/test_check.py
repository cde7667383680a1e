"""`check` reports any content of a folder without failing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spectradino_core.datasets import BENCHMARKS, open_benchmark
from spectradino_core.datasets.check import check_benchmark, check_split
from spectradino_core.datasets.sheet import chosen
from tests.core.datasets.miniatures import MINIATURES


def spoilt(data: bytes, rng: np.random.Generator) -> bytes:
    """Truncate a file, flip bits, invent or empty it."""
    kind = rng.integers(4)
    if kind == 0:
        return data[: int(rng.integers(len(data) + 1))]
    if kind == 1:
        changed = np.frombuffer(data, np.uint8).copy()
        for place in rng.integers(0, max(len(changed), 1), min(12, len(changed))):
            changed[place] ^= 1 << int(rng.integers(8))
        return changed.tobytes()
    return rng.bytes(int(rng.integers(1, 400))) if kind == 2 else b""


@pytest.mark.parametrize("name", sorted(MINIATURES))
def test_damage_of_any_file_is_reported_not_raised(name: str, tmp_path: Path) -> None:
    MINIATURES[name].write(tmp_path)
    one = BENCHMARKS[name]
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    rng = np.random.default_rng(7)
    detected = 0
    for _ in range(12):
        path = files[int(rng.integers(len(files)))]
        whole = path.read_bytes()
        path.write_bytes(spoilt(whole, rng))
        reports = check_benchmark(one, tmp_path)
        assert len(reports) == len(one.splits)
        detected += any(report.problems for report in reports)
        path.write_bytes(whole)
    assert detected >= 3
    assert all(report.usable for report in check_benchmark(one, tmp_path))


def test_a_report_counts_what_was_written(tmp_path: Path) -> None:
    MINIATURES["semanticrt"].write(tmp_path)
    report = check_split(BENCHMARKS["semanticrt"], tmp_path, "test")
    assert report.usable
    assert report.read == 2
    assert report.pixels == {"background": 2 * (24 * 32 - 36 - 64), "car": 2 * 36, "person": 2 * 64, "unlabelled": 0}
    assert report.subsets == {"day": 1, "night": 1, "hard": 1}
    assert report.formats == {"32x24, infrared uint8": 2}


def test_sheets_show_night_as_often_as_day(shared_data: Path) -> None:
    pairs = open_benchmark("roadscene", shared_data, "train")
    picked = chosen(pairs, 6)
    assert [item.subsets for item in picked].count(("night",)) == 3
    assert len({item.name for item in picked}) == 6
    assert len(chosen(pairs, 500)) <= len(pairs)
