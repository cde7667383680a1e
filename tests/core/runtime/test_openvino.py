"""OpenVINO beside ONNX Runtime: the same results from the same file, cached, checked, and refused with a remedy."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from spectradino_core.runtime import engines, openvino_engine, parity
from spectradino_core.runtime.bundle import WEIGHTS_KEY, companion_path
from spectradino_core.runtime.engine import EngineError
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.network_inputs import blank_input
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.openvino_engine import OpenVinoEngine, openvino_candidates
from spectradino_core.runtime.parity import Tolerance, largest_difference, sample_inputs
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.providers import EngineCandidate
from spectradino_core.runtime.recovery import FAILURES, Condition, RecoveringEngine, RecoveryPolicy
from tests.blob_model import make_blob_model
from tests.core.runtime.test_companions import IR, OTHER_IR, OTHER_RGB, RGB, SIZE, Robot, family, until_reused
from tests.core.runtime.test_companions import Reused as CountingOpener

ROOT = Path(__file__).resolve().parents[3]
MODELS = ROOT / "models"
installed = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SPECTRADINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def blob(tmp_path_factory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("models") / "blob.onnx", SIZE)


@pytest.fixture
def without_openvino(monkeypatch) -> Iterator[None]:
    openvino_engine.openvino_core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    yield
    openvino_engine.openvino_core.cache_clear()


def in_precision(path: Path, precision: str, threads: int = 1) -> tuple[OnnxEngine, OpenVinoEngine]:
    """A file in ONNX Runtime and in OpenVINO, in a precision that the processor may have to emulate."""
    on_cpu = OnnxEngine(path, "cpu", threads)
    candidate = replace(openvino_candidates("openvino", path, on_cpu.info)[-1], precision=precision)
    return on_cpu, OpenVinoEngine(path, on_cpu.info, candidate, threads)


def caches(folder: Path) -> list[Path]:
    return sorted((folder / "openvino").glob("*.blob"))


@installed
@pytest.mark.slow  # test_known_boxes_and_masks_are_found covers the comparison
@pytest.mark.parametrize(
    ("model", "precision", "allowed"),
    [
        ("lwir_box", "fp32", Tolerance(boxes_px=5e-3, scores=1e-3, mask_differs=1e-4)),
        ("lwir_box", "bf16", Tolerance(boxes_px=1.2, scores=0.01, mask_differs=0.01)),
        ("nir_box", "fp32", Tolerance(boxes_px=1e-3, scores=1e-3, mask_differs=1e-4)),
        ("nir_box", "bf16", Tolerance(boxes_px=1.2, scores=0.01, mask_differs=0.01)),
    ],
)
def test_bundled_models_give_the_results_of_onnx_runtime(model, precision, allowed):
    on_cpu, engine = in_precision(MODELS / f"{model}.onnx", precision)
    assert allowed.problem(largest_difference(on_cpu, engine, sample_inputs(on_cpu))) == ""
    assert engine.label.startswith("OpenVINO 20")
    assert engine.label.endswith(f" on CPU ({precision})")


@installed
@pytest.mark.parametrize("form", ["raw", "normalised"])
def test_known_boxes_and_masks_are_found(tmp_path, form):
    model = make_blob_model(tmp_path / "m.onnx", SIZE, inputs=form)
    found, wanted = (Pipeline.open(model, device=device, threads=1)(RGB, IR) for device in ("openvino", "cpu"))
    assert len(found) == 2
    np.testing.assert_array_equal(found.boxes, wanted.boxes)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=0.004)
    np.testing.assert_array_equal(found.mask, wanted.mask)


@installed
def test_results_are_not_overwritten_by_the_next_pass(blob):
    engine = Pipeline.open(blob, device="openvino:CPU")
    first = engine(RGB, IR)
    boxes, mask = first.boxes.copy(), first.mask.copy()
    engine(OTHER_RGB, OTHER_IR)
    np.testing.assert_array_equal(first.boxes, boxes)
    np.testing.assert_array_equal(first.mask, mask)


@installed
def test_number_of_threads_is_that_of_the_parameter(blob):
    for threads in (1, 2):
        engine = open_engine(blob, "openvino", threads)
        assert isinstance(engine, OpenVinoEngine)
        compiled = engine._request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert not compiled.get_property("ENABLE_CPU_PINNING")


@installed
def test_a_compiled_model_is_cached_by_file_and_precision(blob, cache, monkeypatch):
    first = open_engine(blob, "openvino", 1)
    (cached,) = caches(cache)
    wanted = first.run(*blank_input(first.info))

    class Core:
        """OpenVINO without its reader of ONNX files."""

        def __getattr__(self, name):
            if name == "read_model":
                raise AssertionError("the graph was read again")
            return getattr(core, name)

    core = openvino_engine.openvino_core()
    monkeypatch.setattr(openvino_engine, "openvino_core", Core)
    second = open_engine(blob, "openvino", 1)
    for a, b in zip(second.run(*blank_input(first.info)), wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    monkeypatch.undo()
    monkeypatch.setenv("SPECTRADINO_CACHE", str(cache))
    in_precision(blob, "fp32")
    open_engine(make_blob_model(blob.with_name("other.onnx"), SIZE, score_threshold=0.4), "openvino", 1)
    assert len(caches(cache)) == 2 + cached.name.endswith("-bf16.blob")


@installed
def test_without_a_place_for_a_cache_the_model_is_compiled_each_time(blob, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPECTRADINO_CACHE", str(tmp_path / "file"))
    assert open_engine(blob, "openvino", 1).label.startswith("OpenVINO")

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SPECTRADINO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert open_engine(blob, "openvino", 1).label.startswith("OpenVINO")


@installed
@pytest.mark.parametrize(
    "damage",
    # slow: they differ from the truncated file only in their content
    [
        "truncated",
        "one bit",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("empty", "of another program")),
        "a folder",
    ],
)
def test_a_damaged_cache_is_made_again(blob, cache, damage, caplog):
    engine = open_engine(blob, "openvino", 1)
    (cached,) = caches(cache)
    good = cached.read_bytes()
    if damage == "truncated":
        cached.write_bytes(good[:-100])
    elif damage == "one bit":
        cached.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    elif damage == "empty":
        cached.write_bytes(b"")
    elif damage == "of another program":
        cached.write_bytes(hashlib.sha256(b"junk").digest() + b"junk")
    else:
        cached.unlink()
        cached.mkdir()
    again = open_engine(blob, "openvino", 1)
    for a, b in zip(again.run(*blank_input(engine.info)), engine.run(*blank_input(engine.info)), strict=True):
        np.testing.assert_array_equal(a, b)
    if damage != "a folder":  # which is not a file that a crash leaves, and is not deleted
        assert f"{cached} " in caplog.text
        assert "made again" in caplog.text
        assert len(cached.read_bytes()) > 5000
        caplog.clear()
        open_engine(blob, "openvino", 1)
        assert "made again" not in caplog.text


@installed
def test_bf16_that_differs_too_much_gives_way_to_fp32(blob, monkeypatch, caplog):
    def both(device, path, info, gpu_id) -> list[EngineCandidate]:
        short = replace(openvino_candidates(device, path, info)[0], precision="bf16")
        return [short, replace(short, precision="fp32", cache=short.cache.with_suffix(".fp32"))]

    monkeypatch.setattr(engines, "openvino_candidates", both)
    refused = Tolerance(boxes_px=1.0, scores=-1.0, mask_differs=0.0)  # which even equal scores exceed
    monkeypatch.setitem(parity.TOLERANCES, "bf16", refused)
    with caplog.at_level(logging.INFO):
        assert open_engine(blob, "openvino", 1).label.endswith(" on CPU (fp32)")
    assert "OpenVINO on CPU in bf16 is not used: its results differ from the CPU's (scores" in caplog.text
    assert "OpenVINO on CPU in fp32 agrees with the CPU" in caplog.text


@installed
def test_precision_is_the_processors(blob, monkeypatch):
    info = OnnxEngine(blob, "cpu").info

    class Core:
        """A machine with two Intel GPUs and an NPU; no such device is here."""

        available_devices = ("CPU", "GPU.0", "GPU.1", "NPU")

        def get_property(self, target, name):
            found = {"CPU": ["FP32", "FP16", "INT8"], "NPU": ["FP16"], "GPU": ["FP32", "FP16"], "GPU.1": ["FP32"]}
            return found[target] if name == "OPTIMIZATION_CAPABILITIES" else f"Intel(R) {target}"

    monkeypatch.setattr(openvino_engine, "openvino_core", Core)
    for device, gpu_id, found in (
        ("openvino", 1, ["OpenVINO on CPU in fp32"]),
        ("openvino:GPU", 0, ["OpenVINO on GPU in fp16", "OpenVINO on GPU in fp32"]),
        ("openvino:GPU", 1, ["OpenVINO on GPU.1 in fp32"]),
        ("openvino:NPU", 0, ["OpenVINO on NPU in fp16", "OpenVINO on NPU in fp32"]),
    ):
        assert [str(one) for one in openvino_candidates(device, blob, info, gpu_id)] == found
    with pytest.raises(EngineError, match=r"finds only CPU, GPU\.0, GPU\.1, NPU"):
        openvino_candidates("openvino:GPU", blob, info, 2)


@installed
@pytest.mark.parametrize("device", ["openvino:GPU", "openvino:NPU"])
def test_an_absent_device_is_refused_with_those_that_are_there(blob, device):
    with pytest.raises(EngineError, match=f"device '{device}' is not available: OpenVINO finds only CPU"):
        open_engine(blob, device)


def test_without_the_package_the_extra_is_named_and_auto_takes_onnx_runtime(blob, without_openvino):
    with pytest.raises(EngineError, match=r"OpenVINO is not installed .*extra 'openvino'.*set device to 'cpu'"):
        open_engine(blob, "openvino")
    assert open_engine(blob, "auto", auto_openvino=True).label.endswith(" on CPU")
    with pytest.raises(EngineError, match="unknown device 'openvino:TPU'"):
        open_engine(blob, "openvino:TPU")


@installed
def test_auto_takes_it_only_where_results_may_depend_on_what_is_installed(blob, tmp_path, caplog):
    assert open_engine(blob, "auto", 1, auto_openvino=True).label.startswith("OpenVINO")
    assert open_engine(blob, "auto", 1).label.startswith("ONNX Runtime")
    assert open_engine(blob, "cpu", 1, auto_openvino=True).label.startswith("ONNX Runtime")
    caplog.clear()
    int8 = make_blob_model(tmp_path / "m.onnx", SIZE, provenance={"converted": {"precision": "int8", "weight_bits": 7}})
    assert open_engine(int8, "auto", 1, auto_openvino=True).label.startswith("ONNX Runtime")
    assert "OpenVINO" not in caplog.text
    with pytest.raises(EngineError, match=r"m\.onnx is an int8 file.*give the fp32 file"):
        open_engine(int8, "openvino")


@installed
def test_auto_passes_over_an_installation_that_is_broken(blob, monkeypatch, caplog):
    def broken() -> None:
        raise RuntimeError("libopenvino_intel_cpu_plugin.so: cannot open shared object file")

    monkeypatch.setattr(openvino_engine, "openvino_core", broken)
    assert open_engine(blob, "auto", 1, auto_openvino=True).label.startswith("ONNX Runtime")
    assert "OpenVINO is not used: libopenvino_intel_cpu_plugin.so" in caplog.text


@installed
@pytest.mark.parametrize("error", [RuntimeError("no plugins.xml"), AttributeError("module has no attribute 'Core'")])
def test_an_installation_that_is_broken_is_refused_with_a_remedy(blob, monkeypatch, error):
    def broken() -> None:
        raise error

    monkeypatch.setattr(openvino_engine, "openvino_core", broken)
    with pytest.raises(EngineError, match=f"OpenVINO cannot be used .{error}.; install .* set device to 'cpu'"):
        open_engine(blob, "openvino", 1)


@installed
def test_a_compiled_model_of_another_user_is_made_again(blob, cache, monkeypatch, caplog):
    open_engine(blob, "openvino", 1)
    (cached,) = caches(cache)
    assert cached.stat().st_uid == os.geteuid()
    if os.geteuid() == 0:
        os.chown(cached, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert open_engine(blob, "openvino", 1).label.startswith("OpenVINO")
    assert f"{cached} belongs to another user" in caplog.text
    assert cached.stat().st_uid != 12345


@installed
@pytest.mark.parametrize(
    ("provenance", "remedy"),
    [({"converted": {"precision": "fp32"}}, "written by 'spectradino export'"), ({}, "cannot be run by OpenVINO")],
)
def test_operators_that_it_lacks_are_named(blob, tmp_path, provenance, remedy, caplog):
    path = make_blob_model(tmp_path / "m.onnx", SIZE, provenance=provenance)
    model = onnx.load(str(path))
    last = next(node for node in model.graph.node if "scores" in node.output)
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("SampleOp", ["before"], ["scores"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, str(path))
    with pytest.raises(EngineError, match=rf"SampleOp.*{remedy}|{remedy}.*SampleOp.*") as caught:
        open_engine(path, "openvino", 1)
    assert "set device to 'cpu'" in str(caught.value)
    assert open_engine(path, "auto", 1, auto_openvino=True).label.startswith("ONNX Runtime")


@installed
def test_a_frame_that_does_not_fit_costs_itself_only(blob):
    engine = open_engine(blob, "openvino", 1)
    good = blank_input(engine.info)
    for bad in (good[:-1], (good[0][:, 1:], *good[1:])):
        with pytest.raises(EngineError, match=r"OpenVINO .* on CPU .* failed on a frame: "):
            engine.run(*bad)
    assert engine.run(*good)[0].shape == (2, 4)


@installed
def test_an_engine_that_keeps_failing_is_replaced_by_onnx_runtime(blob):
    """CUDA is never asked whether it is the cause."""

    def context_problem() -> str:
        raise AssertionError("OpenVINO has no CUDA context")

    lines: list[str] = []
    engine = RecoveringEngine(
        lambda device: open_engine(blob, device, 1), "openvino", lambda: RecoveryPolicy(max_rebuilds=1),
        lines.append, first_pause_s=0.0, context_problem=context_problem,
    )  # fmt: skip
    good = blank_input(engine.info)
    for rebuilt in (Condition.GOOD, Condition.ON_CPU):
        for _ in range(FAILURES):
            with pytest.raises(EngineError):
                engine.run(*good[:-1])
        assert engine.condition is rebuilt
        engine.run(*good)
    assert engine.label.startswith("ONNX Runtime")
    assert any("Continuing on ONNX Runtime" in line for line in lines)


class Cuda:
    """Engine of a GPU that is lost after opening: its label and flags, and failures."""

    on_cpu, label = False, "ONNX Runtime on CUDA"

    def __init__(self, path: Path) -> None:
        self.info = OnnxEngine(path, "cpu").info

    def run(self, *inputs: np.ndarray):
        raise EngineError("CUDA failure 719")


@installed
@pytest.mark.parametrize("allow_cpu", [True, False])
def test_a_lost_gpu_is_not_replaced_by_openvino_on_the_cpu(blob, allow_cpu):
    opened: list[str] = []

    def open_on(device: str):
        opened.append(device)
        return Cuda(blob) if len(opened) == 1 else open_engine(blob, device, 1, auto_openvino=True)

    engine = RecoveringEngine(open_on, "auto", lambda: RecoveryPolicy(2, allow_cpu), first_pause_s=0.0)
    good = blank_input(engine.info)
    for _ in range(FAILURES):
        with pytest.raises(EngineError) as caught:
            engine.run(*good)
    assert opened == ["auto", "auto", "auto", *(["cpu"] if allow_cpu else [])]
    assert engine.condition is (Condition.ON_CPU if allow_cpu else Condition.LOST)
    if allow_cpu:
        engine.run(*good)
        assert engine.label.startswith("ONNX Runtime")
    else:
        assert "device 'auto' opened on the CPU only" in str(caught.value)


@installed
@pytest.mark.parametrize("device", ["openvino", "auto"])
def test_companions_run_in_openvino_too(tmp_path, device):
    model = family(tmp_path)

    def open_here(path, device, threads, streams="both"):
        return open_engine(path, device, threads, streams, auto_openvino=True)

    robot = Robot(model, open_here(model, device, 1), device, open_one=open_here)
    plain = Pipeline.open(model, device="cpu")
    robot.until_alone("ir")
    assert robot.engine.label.startswith("OpenVINO")
    np.testing.assert_array_equal(robot.pipeline(None, IR).boxes, plain(None, IR).boxes)
    assert robot.lines == []


@installed
def test_features_of_an_infrared_frame_are_reused(tmp_path):
    features = {"features": (1, 8, 196), "provenance": {WEIGHTS_KEY: "a" * 64}}
    model = make_blob_model(tmp_path / "blob.onnx", SIZE, **features)
    make_blob_model(companion_path(model, "reuse"), SIZE, streams="reuse", **features)
    reused = CountingOpener()
    robot, plain = Robot(model, device="openvino", open_one=reused), Pipeline.open(model, device="cpu")
    passes, key = until_reused(robot, reused), object()
    for number, rgb in enumerate((RGB, OTHER_RGB, RGB)):
        found, wanted = robot.pipeline(rgb, OTHER_IR, key), plain(rgb, OTHER_IR, key)
        assert reused.passes == passes + number
        np.testing.assert_array_equal(found.boxes, wanted.boxes)
        np.testing.assert_array_equal(found.mask, wanted.mask)
    assert "infrared features reused on CPU" in robot.engine.label
    assert robot.engine.label.startswith("OpenVINO")
    assert robot.lines == []


@pytest.mark.slow  # a process; nothing else covers it, and only a new OpenVINO can change it
@installed
def test_nothing_is_sent_and_no_identifier_written(blob, tmp_path):
    """`import openvino` would look up a server of usage statistics, and write an identifier into the home folder."""
    code = (
        "import sys, time\n"
        "seen = []\n"
        "watched = ('socket.', 'subprocess.', 'os.fork')\n"
        "sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(watched) else None)\n"
        "from spectradino_core.runtime.engines import open_engine\n"
        "from spectradino_core.runtime.engine import warm_up\n"
        f"engine = open_engine({str(blob)!r}, 'openvino', 1)\n"
        "warm_up(engine)\n"
        "time.sleep(0.5)\n"
        "print(engine.label, seen)\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    usual = {name: value for name, value in os.environ.items() if name not in ("CI", "HOME")}  # CI disables it
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=usual | {"HOME": str(home)}, capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("OpenVINO")
    assert done.stdout.endswith(" []\n")
    assert list(home.rglob("*")) == []
