"""`spectradino bench`: measurements, tables and plots."""

from __future__ import annotations

import time
import weakref
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from matplotlib.image import imread

from spectradino_core.bench import backbone, detector, gpu, limits, machine
from spectradino_core.bench.limits import CHAIN, PRODUCTS, REPEATS, best_rates, limit_rows, product, twice_plain
from spectradino_core.bench.machine import describe
from spectradino_core.bench.tables import markdown, plot_bars, write_table
from spectradino_core.bench.timing import Timing, peak_memory_mb, take_turns
from spectradino_core.bench.train import PLAIN, train_rows
from spectradino_core.cli import main
from tests.tables import read_table

SMALL = (56, 70)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> Path:
    """Folder of exported graphs, each of which several tests time."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def short_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time each limit of the CPU in a quarter of the time: its value does not matter here."""
    monkeypatch.setattr(limits, "REPEATS", 1)


def test_cases_are_interleaved_and_warm_up_is_excluded():
    calls: list[str] = []
    took = take_turns({"a": lambda: calls.append("a"), "b": lambda: time.sleep(0.02)}, rounds=3, warm_up=2)
    assert calls == ["a"] * 5
    assert took["a"].rounds == took["b"].rounds == 3
    assert took["a"].median_ms < 20 <= took["b"].low_ms <= took["b"].median_ms <= took["b"].high_ms
    with pytest.raises(ValueError, match="at least one round"):
        take_turns({}, 0)


def test_timing_by_hand():
    assert Timing.of([0.004, 0.001, 0.002, 0.003, 0.005]) == Timing(3.0, 2.0, 4.0, 5)
    assert Timing.of([0.002]) == Timing(2.0, 2.0, 2.0, 1)


def test_table_round_trips(tmp_path):
    rows = [{"case": "a, b", "ms": 1234.5678, "peak": "-"}, {"case": "c", "ms": 0.0012345, "peak": 7.0}]
    write_table(tmp_path / "t.csv", {"note": "x: y"}, rows)
    facts, read = read_table(tmp_path / "t.csv")
    assert facts == {"note": "x: y"}
    assert read == [{"case": "a, b", "ms": "1235", "peak": "-"}, {"case": "c", "ms": "0.001234", "peak": "7"}]
    assert markdown(rows).splitlines()[2:] == ["| a, b | 1235 | - |", "| c | 0.00123 | 7 |"]


def test_machine_description_contains_no_name():
    facts = describe()
    assert int(facts["cores"]) >= 1
    assert facts["torch"] == torch.__version__.split("+")[0] or facts["torch"] == torch.__version__
    assert not any("/" in value for name, value in facts.items() if name != "processor")


@pytest.mark.parametrize(
    ("vendor", "family", "model", "title"),
    [
        ("GenuineIntel", 6, 207, "Emerald Rapids"),
        ("GenuineIntel", 6, 143, "Sapphire Rapids"),
        ("AuthenticAMD", 25, 0x11, "Zen 4"),
        ("AuthenticAMD", 25, 0x01, "Zen 3"),
        ("AuthenticAMD", 26, 0x02, "Zen 5"),
        ("GenuineIntel", 19, 1, "family 19 model 1"),
    ],
)
def test_the_generation_of_a_processor(vendor, family, model, title):
    assert machine._generation(vendor, family, model) == title


@pytest.mark.slow
def test_peak_memory_is_of_child_process_only(tmp_path, monkeypatch):
    (tmp_path / "held.py").write_text(
        "import numpy as np\ndef case(megabytes):\n    return lambda: np.ones(megabytes << 17).sum()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    ballast = np.ones(600 << 17)
    peaks = [peak_memory_mb("held", {"megabytes": size}) for size in (1, 300)]
    assert 290 < peaks[1] - peaks[0] < 330
    assert peaks[0] < 200 < ballast.nbytes / 2**20
    with pytest.raises(RuntimeError, match="unexpected keyword argument 'wrong'"):
        peak_memory_mb("held", {"wrong": 1})


@pytest.mark.slow
@pytest.mark.usefixtures("short_products")
def test_all_backbone_cases_agree_with_torch_fp32(graphs):
    """The standard deviation of patches is 1."""
    rows, limits = backbone.backbone_rows("test", SMALL, graphs, rounds=1, memory=False)
    assert [row["case"] for row in rows] == list(backbone.CASES)
    assert rows[0]["ratio"] == 1.0
    for row in rows[1:]:
        loose = "bf16" in row["case"] or "int8" in row["case"]
        assert row["mean difference"] < (0.02 if loose else 1e-5), row
        assert row["ratio"] == pytest.approx(row["ms"] / rows[0]["ms"])
        precision = next(kind for kind in ("bf16", "int8", "fp32") if kind in row["case"])
        rates = [found["gflop_per_s"] for found in limits if found["precision"] == precision]
        work = backbone.forward_operations("test", SMALL, 1)
        assert row["of limit"] == (pytest.approx(work / row["ms"] / 1e6 / max(rates)) if rates else "-")
    assert [f"{row['library']} {row['precision']}" for row in limits] == list(PRODUCTS)
    assert {path.name for path in graphs.glob("test_*")} == {
        f"test_56x70_{kind}.onnx" for kind in ("fp32", "fp32_fused", "int8_fused")
    }


@pytest.mark.slow
def test_fast_detector_has_anchor_points_and_operations_of_its_levels(graphs):
    """56 x 70 pixels have 8x10 + 4x5 + 2x2 points at strides 7 to 28; "fast" has no first level."""
    usual, fast = detector.detector_rows("test", SMALL, graphs, rounds=1, memory=False)
    assert (usual["strides"], fast["strides"]) == ("7-28", "fast")
    assert (usual["cells"], fast["cells"]) == (104, 24)
    assert usual["ratio"] == 1
    assert fast["ratio"] == pytest.approx(fast["ms"] / usual["ms"])
    grow, smooth = 20 * 48 * 32 * 4 + 80 * 32 * 32, 80 * 9 * 32 * 32  # tokens of width 48 to 80 points of width 32
    towers, outputs = 2 * smooth, 80 * 9 * 32 * (3 + 4)
    assert usual["gflop"] - fast["gflop"] == pytest.approx(2e-9 * (grow + smooth + towers + outputs))


def test_operation_count_matches_formula():
    """Per token, 24 D² + 4 T D of the block and 4 D b of the adapter."""
    width, depth, tokens = 48, 2, 1 + 4 * 5
    by_hand = 2 * tokens * depth * (24 * width**2 + 4 * tokens * width + 4 * width * width // 4)
    embed = 2 * 20 * 2 * 3 * 14**2 * width
    stems = 56 * 70 * 2 * (3 * 3 + 9 * 32 + 9 * 32 * 3)
    assert backbone.forward_operations("test", SMALL, 1) == pytest.approx(by_hand + embed + stems, rel=1e-6)


def test_two_plain_passes_have_neither_stems_nor_adapters():
    width, depth, tokens = 48, 2, 1 + 4 * 5
    by_hand = 2 * (tokens * depth * (24 * width**2 + 4 * tokens * width) + 20 * 2 * 3 * 14**2 * width)
    assert twice_plain("test", SMALL) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_products(name, tmp_path):
    """Integers are compared with NumPy's, chains of floats by the variance that each factor keeps."""
    result = product(name, tmp_path, side=256)()
    if name == "onnx int8":
        left = np.random.default_rng(0).integers(0, 255, (256, 256), np.uint8)
        right = np.random.default_rng(1).integers(-63, 64, (256, 256), np.int8)
        np.testing.assert_array_equal(result[0], left.astype(np.int32) @ right.astype(np.int32))
        assert len(result) == CHAIN
    elif not name.startswith("torch"):
        assert np.square(result[0]).mean() == pytest.approx(1 / 3, rel=0.3)  # of uniform numbers


def test_limits_by_hand():
    timings = {"torch fp32": Timing(2.0, 1.0, 3.0, 5), "onnx fp32": Timing(1.0, 1.0, 1.0, 5)}
    rows = limit_rows(timings, side=100)
    products = CHAIN * REPEATS
    assert [row["gflop_per_s"] for row in rows] == pytest.approx([products * 1.0, products * 2.0])
    assert best_rates(rows) == {"fp32": rows[1]["gflop_per_s"]}


@pytest.mark.slow  # the row of training covers the timing
def test_gpu_rows_are_consistent_on_a_cpu():
    rows = gpu.forward_rows("test", torch.bfloat16, "cpu", SMALL, (1, 2), 2, roof=1e10, compiled=False)
    assert [(row["batch"], row["case"]) for row in rows] == [(b, c) for b in (1, 2) for c in (gpu.TWICE, gpu.PLAIN)]
    for row in rows[1::2]:
        assert row["share_of_roof"] * row["times_the_floor"] == pytest.approx(1)
        operations = backbone.forward_operations("test", SMALL, row["batch"])
        assert row["share_of_roof"] == pytest.approx(operations / (row["ms"] / 1e3) / 1e10)
    assert gpu.matmul_roof("cpu", torch.float32, (64,), 2) > 0


def test_gpu_training_rows_on_a_cpu():
    rows = gpu.training_rows("test", 2, "cpu", rounds=1, crop=28, compiled=(False,))
    assert [row["stage"] for row in rows] == [1, 3]
    assert all(row["pairs_per_s"] == pytest.approx(2e3 / row["ms"]) for row in rows)
    assert all(row["host_waits"] == row["peak_gb"] == "-" for row in rows)


def test_out_of_memory_is_reported_and_memory_freed_before_next_case(monkeypatch):
    held: list[weakref.ref] = []
    make, free = gpu.our_step, gpu._free

    def remember(*given, **named):
        step = make(*given, **named)
        held.append(weakref.ref(step))
        return step

    def run_out_of_memory(*_, **__):
        raise torch.cuda.OutOfMemoryError("too much")

    def check_freed(device):
        free(device)
        assert all(step() is None for step in held)

    monkeypatch.setattr(gpu, "our_step", remember)
    monkeypatch.setattr(gpu, "take_turns", run_out_of_memory)
    monkeypatch.setattr(gpu, "_free", check_freed)
    rows = gpu.training_rows("test", 2, "cpu", rounds=1, crop=28, compiled=(False,))
    assert [row["ms"] for row in rows] == ["out of memory"] * 2 == ["out of memory"] * len(held)


def test_compiled_case_does_not_change_the_plain_one():
    plain = gpu.Streams(gpu._model("test"))
    fast = gpu._compiled(plain, SMALL)
    assert fast.model.vit._frozen_grid == (4, 5)
    assert plain.model.vit._frozen_grid is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_bench_gpu_without_cuda_is_rejected(capsys):
    assert main(["bench", "gpu"]) == 1
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there")
def test_unavailable_device_is_reported_in_table():
    (row,) = gpu.engine_rows(ROOT / "models" / "lwir_box.onnx", ("cuda",))
    assert row["ms"] == "-"
    assert "CUDAExecutionProvider" in row["engine"]


@pytest.mark.slow
def test_training_ratio_is_relative_to_plain_loop():
    pytest.importorskip("transformers")
    rows = train_rows("test", 2, 1, crop=28, loaded="test", steps=0)
    assert [row["what"] for row in rows] == [PLAIN, "ours", "ours, teacher cached"] * 2
    assert all(row["ratio"] == 1 for row in rows if row["what"] == PLAIN)


def test_plot_is_drawn(tmp_path):
    rows = [{"v": "s", "case": name, "x": x} for name, x in (("a", 1.0), ("b", 0.5), ("c", "-"))]
    plot_bars(tmp_path / "p.png", rows, ("v",), "case", "x", "ratio", 1.0)
    assert imread(tmp_path / "p.png").std() > 0.05
    plot_bars(tmp_path / "none.png", [{"v": "s", "case": "c", "x": "-"}], ("v",), "case", "x", "ratio")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nothing"], "no such group"),
        (["model", "--input-size", "112x112"], "--input-size has no effect on model: it is for backbone, detector"),
        (["backbone", "--batch", "4"], "--batch has no effect on backbone: it is for train, gpu"),
        (["backbone", "--cases", "torch fp8"], "no such case"),
        (["model", "--model", "none.onnx"], "none.onnx does not exist"),
    ],
)
def test_invalid_arguments_are_rejected(words, complaint, capsys):
    assert main(["bench", *words]) == 1
    assert complaint in capsys.readouterr().err


def test_invalid_size_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "backbone", "--input-size", "100x100"])
    assert stopped.value.code == 2
    assert "multiples of 14" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("short_products")
def test_quick_benchmark_writes_all_results(graphs, tmp_path, capsys, monkeypatch):
    """With the smallest variant, and without memory measurements, which start many processes."""
    monkeypatch.chdir(ROOT)
    command = ["bench", "--quick", "--variant", "test", "--input-size", "70x56", "--work", str(graphs)]
    command += ["--rounds", "1", "--no-memory", "--out", str(tmp_path), "--note", "a test"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    for name in ("backbone", "detector", "model", "train"):
        facts, rows = read_table(tmp_path / f"{name}.csv")
        assert facts["note"] == "a test"
        assert rows
        assert f"{name}.csv" in printed
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    by_step = read_table(tmp_path / "model.csv")[1]
    assert [row["precision"] for row in by_step if "OpenVINO" not in row["precision"]] == ["fp32", "int8"] * 2
    assert ("OpenVINO fp32" in [row["precision"] for row in by_step]) is (find_spec("openvino") is not None)
    assert all(float(row["engine_ms"]) > 0 and float(row["cpu_ms"]) > 0 for row in by_step)
    assert by_step[0]["cpu_ratio"] == "1"
