"""Benchmark of thermal defects: its cases, sets and pipelines."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import thermal_defects
from benchmarks.thermal_defects import CASES, SMALL_CASES, main, recording, small, widened
from spectradino_core.data.sample import PairedSample
from spectradino_core.invalid_counts import InvalidCounts
from tests.blob_model import make_blob_model


@pytest.mark.parametrize("case", CASES)
def test_every_case_but_the_clean_one_is_recognised(case):
    frame = np.random.default_rng(0).normal(29_000, 300, (512, 640)).astype(np.uint16)
    before = frame.copy()
    damaged = CASES[case](frame, np.random.default_rng(0))
    np.testing.assert_array_equal(frame, before)
    valid = InvalidCounts()(damaged)
    if case == "clean":
        assert valid is None
    else:
        np.testing.assert_array_equal(valid == 0, damaged != frame)


def test_small_and_widened_frames():
    (sample,) = recording(0, 1)
    assert small([sample])[0].infrared.shape == (120, 160)
    sample.infrared = (sample.infrared >> 8).astype(np.uint8)
    (wide,) = widened([sample])
    assert wide.infrared.dtype == np.uint16
    np.testing.assert_array_equal((wide.infrared - 7000) // 32, sample.infrared)


def test_the_command_writes_both_tables(tmp_path, monkeypatch):
    """Of a model that takes no time, and has two classes."""

    def two_classes(*which) -> list[PairedSample]:
        return [replace(sample, labels=np.minimum(sample.labels, 1)) for sample in recording(*which)]

    monkeypatch.setattr(thermal_defects, "recording", two_classes)
    model = make_blob_model(tmp_path / "m.onnx", (322, 238))
    words = ["--model", str(model), "--seeds", "0", "--count", "1", "--rounds", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    scores, times = (
        list(csv.DictReader(line for line in (tmp_path / name).open() if not line.startswith("#")))
        for name in ("thermal_defects.csv", "thermal_defects_time.csv")
    )
    assert len(scores) == len(CASES) + len(SMALL_CASES)
    assert [row["case"] for row in times] == list(CASES)
    assert float(times[0]["after_ms"]) > 0
