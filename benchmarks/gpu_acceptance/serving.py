"""Acceptance of serving: node placement, parity, precisions, TensorRT's cache, stale inputs, a poisoned context."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime as ort

from benchmarks.experiment import ROOT
from spectradino_core.data.scene_sets import scene_sample
from spectradino_core.export.convert import convert
from spectradino_core.runtime.engine import warm_up
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.runtime.onnx_engine import OnnxEngine, candidates_of
from spectradino_core.runtime.parity import Difference, largest_difference, sample_inputs, tolerance_of
from spectradino_core.runtime.providers import file_precision, prepare_gpu_libraries

HELD_OUT_SEED = 9_200_000
POISON = """
.version 6.0
.target sm_50
.address_size 64
.visible .entry poison() { trap; }
"""
"""A kernel that fails, as PTX: what a fault in any library leaves behind."""


def nodes_by_provider(model: Path, device: str, folder: Path) -> dict[str, int]:
    """Count the nodes that each provider ran in one pass, by ONNX Runtime's profiler."""
    if device != "cpu":
        prepare_gpu_libraries()
    chosen = candidates_of(model, device, OnnxEngine(model, "cpu").info)[0]
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(str(model), options, providers=list(chosen.providers))
    info = OnnxEngine(model, "cpu").info
    session.run(None, {name: np.zeros(shape, kind) for name, (kind, shape) in signature(info).items()})
    events = json.loads(Path(session.end_profiling()).read_text())
    found = Counter(
        event["args"]["provider"].removesuffix("ExecutionProvider")
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    )
    return dict(found)


def check_placement(device: str, model: Path, folder: Path) -> str:
    """Every node of the bundled graph runs on the device."""
    found = nodes_by_provider(model, device, folder)
    wanted = {"cuda": "CUDA", "cpu": "CPU"}[device]
    others = {name: count for name, count in found.items() if name != wanted}
    assert not others, f"{found}: nodes of {', '.join(others)} cost copies at each frame"
    return f"{found[wanted]} nodes on {wanted}; providers {', '.join(ort.get_available_providers())}"


def _checked_difference(model: Path, engine: OnnxEngine) -> Difference:
    """Return the maximum difference to the CPU's results, which must be within the tolerance."""
    reference = OnnxEngine(model, "cpu")
    difference = largest_difference(reference, engine, sample_inputs(reference))
    problem = tolerance_of(file_precision(reference.info), reference.info).problem(difference)
    assert not problem, f"{engine.label}: {problem}"
    return difference


def check_parity(device: str, model: Path, folder: Path) -> str:
    """Boxes and scores agree with the CPU's; with TF32, which needs another process, they may not."""
    engine = OnnxEngine(model, device)
    difference = _checked_difference(model, engine)
    code = (
        "import sys; from spectradino_core.runtime.onnx_engine import OnnxEngine;"
        "from spectradino_core.runtime.parity import largest_difference, sample_inputs;"
        "r = OnnxEngine(sys.argv[1], 'cpu');"
        "print(largest_difference(r, OnnxEngine(sys.argv[1], sys.argv[2]), sample_inputs(r)).to_dict())"
    )
    done = _child("-c", code, str(model), device, NVIDIA_TF32_OVERRIDE="1")
    assert done.returncode == 0, done.stderr[-800:]
    return f"{engine.label}: {difference.to_dict()}; with NVIDIA_TF32_OVERRIDE=1: {done.stdout.strip()}"


def check_precisions(device: str, model: Path, folder: Path) -> str:
    """fp16 files agree on the device, int8 files stay on the CPU under "auto"; milliseconds of each."""
    info = OnnxEngine(model, "cpu").info
    samples = [scene_sample(HELD_OUT_SEED + i, info.infrared, (360, 288)) for i in range(2)]
    found = [f"fp32 {_milliseconds(open_engine(model, device)):.2f} ms"]
    for precision in ("fp16", "int8"):
        path = folder / f"{precision}.onnx"
        convert(model, path, precision, samples)
        engine = open_engine(path, device if precision == "fp16" else "auto")
        assert engine.on_cpu is (precision == "int8" or device == "cpu"), f"{precision} file on {engine.label}"
        found.append(f"{precision} {_milliseconds(engine):.2f} ms on {'CPU' if engine.on_cpu else device}")
    return ", ".join(found)


def check_tensorrt(device: str, model: Path, folder: Path) -> str:
    """The first opening builds, the second one uses the cache; the provider runs most nodes."""
    os.environ["SPECTRADINO_CACHE"] = str(folder / "cache")
    seconds = []
    for _ in range(2):
        start = perf_counter()
        engine = open_engine(model, "tensorrt")
        seconds.append(perf_counter() - start)
        assert "Tensorrt" in engine.label, f"TensorRT was asked for, {engine.label} serves: see the warnings above"
    files = list((folder / "cache").rglob("*.engine"))
    assert files, "no engine was kept"
    assert seconds[1] < seconds[0] / 2, f"the second opening took {seconds[1]:.1f} s of {seconds[0]:.1f}: no cache hit"
    return (
        f"{engine.label}: built in {seconds[0]:.0f} s, opened again in {seconds[1]:.1f} s, {_milliseconds(engine):.2f} "
        f"ms; nodes {nodes_by_provider(model, 'tensorrt', folder)}"
    )


def check_stale_inputs(device: str, model: Path, folder: Path) -> str:
    """Frames in turn through fixed memory or a CUDA graph: each result equals that of a fresh engine."""
    engine = OnnxEngine(model, device)
    inputs = sample_inputs(engine)
    first = [engine.run(*given) for given in inputs]
    for _ in range(3):
        for given, expected in zip(inputs, first, strict=True):
            _assert_close(engine.run(*given), expected)
    _checked_difference(model, engine)
    # One buffer that is written again for each frame, as the pipeline's.
    buffers = tuple(np.empty_like(array) for array in inputs[0])
    for given, expected in zip(inputs, first, strict=True):
        for buffer, array in zip(buffers, given, strict=True):
            buffer[...] = array
        _assert_close(engine.run(*buffers), expected)
    return f"{len(inputs)} inputs in turn, five times; fixed memory: {engine._bound is not None}{_copying(engine)}"


def _assert_close(outputs: Iterable[np.ndarray | None], expected: Iterable[np.ndarray | None]) -> None:
    for array, wanted in zip(outputs, expected, strict=True):
        if array is not None and array.dtype != np.uint8:
            np.testing.assert_allclose(array, wanted, atol=1e-2)


def _copying(engine: OnnxEngine) -> str:
    """Measure the copy of the largest input to the device, from page-locked and from pageable memory."""
    bound = engine._bound
    if bound is None:
        return ""
    name, staged = max(bound._staged.items(), key=lambda item: item[1].nbytes)
    locked = type(staged.base).__name__ == "_PageLocked"
    milliseconds = []
    for array in (staged, np.copy(staged)):
        times = []
        for _ in range(50):
            start = perf_counter()
            bound._inputs[name].update_inplace(array)
            times.append(1e3 * (perf_counter() - start))
        milliseconds.append(float(np.median(times)))
    return (
        f"; page-locked: {locked}; '{name}' of {staged.nbytes >> 10} KiB to the device in {milliseconds[0]:.3f} ms, "
        f"from ordinary memory in {milliseconds[1]:.3f}"
    )


def check_lost_gpu(device: str, model: Path, folder: Path) -> str:
    """A child poisons its own CUDA context: the CPU takes over and the process exits with 0, or requests a restart."""
    found = []
    for policy, code in (("cpu", 0), ("none", 1)):
        done = _child("-m", "benchmarks.gpu_acceptance.poisoned", str(model), policy)
        assert done.returncode == code, f"exit code {done.returncode}, not {code}: {(done.stdout + done.stderr)[-800:]}"
        found.append(done.stdout.strip().splitlines()[-1])
    return "; ".join(found)


def _milliseconds(engine: object, passes: int = 30) -> float:
    for _ in range(5):
        warm_up(engine)  # type: ignore[arg-type]
    return float(np.median([warm_up(engine) for _ in range(passes)]))  # type: ignore[arg-type]


def _child(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, *arguments], os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)
