"""Benchmarks of the node: slopes, tables and plots by hand, and short runs on a real node."""

from __future__ import annotations

import math
import platform

import cv2
import numpy as np
import pytest

from benchmarks.experiment import ros_machine
from benchmarks.node.measuring import OVERHEAD, PERCENTS, measure_overhead, percentiles, slope, soak
from benchmarks.node.plots import plot_overhead, plot_soak
from spectradino_core.bench.tables import write_table
from tests.blob_model import make_blob_model
from tests.tables import read_table

MINUTES = np.arange(600) / 60


class TestSlope:
    def test_of_a_line_by_hand(self):
        line = slope(MINUTES, 5 + 0.5 * MINUTES)
        assert line.per_minute == pytest.approx(0.5)
        assert (line.low, line.high) == (pytest.approx(0.5), pytest.approx(0.5))
        assert line.grows()
        assert not line.grows(noise=0.6)

    def test_a_constant_and_a_falling_series_do_not_grow(self):
        assert not slope(MINUTES, np.full(600, 80.0)).grows()
        assert not slope(MINUTES, 80 - MINUTES).grows()

    def test_noise_is_distinguished_from_growth(self):
        """One in forty series without growth may seem to grow: the interval has 95 %."""
        rng, grown = np.random.default_rng(0), 0
        for _ in range(200):
            noise = rng.normal(0, 5, 600)
            grown += slope(MINUTES, 100 + noise).grows()
            assert slope(MINUTES, 100 + MINUTES + noise).grows()
        assert grown <= 15

    def test_one_step_is_no_slope_and_step_after_step_is_one(self):
        once = np.where(MINUTES < 3, 215.4, 219.4)
        assert not slope(MINUTES, once).grows()
        assert slope(MINUTES, 215.4 + np.floor(MINUTES)).grows(noise=0.1)

    def test_two_samples_are_too_few(self):
        with pytest.raises(ValueError, match="three samples"):
            slope([0, 1], [1, 2])


def test_a_table_comes_back_as_it_was_written(tmp_path):
    rows = [{"step": "queue", "p50_ms": 1 / 3, "pairs": 7}, {"step": "engine", "p50_ms": 2.0, "pairs": 8}]
    write_table(tmp_path / "results" / "t.csv", {"cores": "2", "note": "busy: a, b"}, rows, ".3f")
    facts, read = read_table(tmp_path / "results" / "t.csv")
    assert facts == {"cores": "2", "note": "busy: a, b"}
    assert read == [
        {"step": "queue", "p50_ms": "0.333", "pairs": "7"},
        {"step": "engine", "p50_ms": "2.000", "pairs": "8"},
    ]


def test_the_machine_is_described_and_not_named():
    facts = ros_machine()
    assert int(facts["cores"]) >= 1
    assert facts["opencv"] == cv2.__version__
    assert all(facts.values())
    text = " ".join(facts.values())
    assert "/" not in text
    assert platform.node() not in text.split()


def test_committed_results_can_be_read(repository):
    results = repository / "benchmarks" / "results"
    for name, columns in (
        ("node_overhead", {"size", "step", "p50_ms", "p95_ms", "p99_ms"}),
        ("node_overhead_lwir_box", {"size", "step", "p50_ms", "p95_ms", "p99_ms"}),
        ("node_soak", {"second", "latency_ms", "rss_mb", "overload"}),
    ):
        facts, rows = read_table(results / f"{name}.csv")
        assert {"cores", "processor", "python", "onnxruntime"} <= set(facts)
        assert columns <= set(rows[0])
        assert (results / f"{name}.png").stat().st_size < 200_000


def test_plots_are_drawn(tmp_path):
    steps = ("pairing", "queue", "preprocess", "postprocess", "publishing", OVERHEAD)
    case = [dict.fromkeys(steps, 1.0 + i / 10) for i in range(20)]
    plot_overhead(tmp_path / "overhead.png", {"640x512": case, "1280x1024": case}, 5.0)
    rows = [
        {"second": i + 1.0, "sent": 60 * i, "answers": 9 * (i != 7), "latency_ms": 100.0 if i != 7 else math.nan}
        | {"latency_max_ms": 130.0 if i != 7 else math.nan, "rss_mb": 90.0, "overload": 51 * i}
        for i in range(30)
    ]
    plot_soak(tmp_path / "soak.png", rows, "a title")
    for name in ("overhead", "soak"):
        image = cv2.imread(str(tmp_path / f"{name}.png"))
        assert image.shape[1] > 600
        assert image.std() > 5


@pytest.mark.slow
def test_overhead_is_all_but_the_engine_and_the_way_there(tmp_path):
    model = make_blob_model(tmp_path / "blob.onnx", input_size=(70, 56), work=1)
    memory_mb: list[float] = []
    rows = measure_overhead(model, (160, 128), rate_hz=10, seconds=2, memory_mb=memory_mb)
    assert 30 < min(memory_mb) <= max(memory_mb) < 2000
    assert len(rows) >= 5  # of twenty, on a machine that is busy with other things too
    for row in rows:
        inside = row["pairing"] + row["queue"] + row["preprocess"] + row["postprocess"] + row["publishing"]
        assert row[OVERHEAD] == pytest.approx(inside)
        assert min(row.values()) >= 0
        assert row[OVERHEAD] + row["engine"] <= row["stamp to last publish"] + 0.5
    table = percentiles(rows)
    assert set(table) == set(rows[0])
    assert all(len(values) == len(PERCENTS) and values[0] <= values[1] <= values[2] for values in table.values())


@pytest.mark.slow
def test_a_soak_counts_seconds_results_and_drops(tmp_path):
    model = make_blob_model(tmp_path / "slow.onnx", input_size=(70, 56), work=12)
    lines: list[str] = []
    rows, drops = soak(model, (160, 128), rate_hz=40, minutes=0.08, progress=lines.append)
    assert len(rows) == len(lines) >= 4
    assert [row["second"] for row in rows] == sorted(row["second"] for row in rows)
    assert sum(row["answers"] for row in rows) > 0
    assert rows[-1]["overload"] > 0
    assert drops["overload"] >= rows[-1]["overload"]
    assert all(20 < row["rss_mb"] < 2000 for row in rows)
