"""A CUDA context poisoned by a failed kernel: the process continues, although destroying the session would abort it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from spectradino_core.runtime import gpu
from spectradino_core.runtime.engine import EngineError
from spectradino_core.runtime.network_inputs import blank_input
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.recovery import FAILURES, Condition, DeviceLostError, RecoveringEngine, RecoveryPolicy
from tests.blob_model import make_blob_model

POISONED = "cuCtxSynchronize returned CUDA_ERROR_ILLEGAL_ADDRESS"

# As CUDA's own libraries do: every call fails, and the destructor ends the process.
CHILD = """
import os, sys
from spectradino_core.runtime.engine import EngineError
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.gpu import leave_process
from spectradino_core.runtime.network_inputs import blank_input
from spectradino_core.runtime.recovery import RecoveringEngine, RecoveryPolicy

class Poisoned:
    def __init__(self, path):
        self.info, self.label, self.on_cpu = OnnxEngine(path, "cpu").info, "ONNX Runtime on CUDA", False
    def run(self, *inputs):
        raise EngineError("CUDA failure 700: an illegal memory access was encountered")
    def __del__(self):
        os.abort()

path, problem, allow_cpu = sys.argv[1], sys.argv[2], sys.argv[3] == "cpu"
engine = RecoveringEngine(
    lambda device: OnnxEngine(path, "cpu") if device == "cpu" else Poisoned(path),
    "cuda", lambda: RecoveryPolicy(2, allow_cpu), first_pause_s=0.0, context_problem=lambda: problem,
)
blank = blank_input(engine.info)
for _ in range(3):
    try:
        engine.run(*blank)
    except EngineError as error:
        print(error, flush=True)
if allow_cpu:
    engine.run(*blank)
    print("served by", engine.label, engine.rebuilds, flush=True)
print("restart", engine.needs_restart, flush=True)
code = 1 if engine.needs_restart else 0
leave_process(code)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("models") / "blob.onnx", input_size=(28, 14))


def child(model: Path, problem: str, policy: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(model), problem, policy],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_cpu_takes_over_and_the_process_ends_cleanly(model):
    done = child(model, POISONED, "cpu")
    assert "served by ONNX Runtime" in done.stdout, done.stderr
    assert "on CPU 1" in done.stdout, "no rebuild on the GPU may be tried"
    assert done.returncode == 0, done.stderr


def test_without_the_cpu_the_process_asks_for_a_restart(model):
    done = child(model, POISONED, "none")
    assert "gave up ONNX Runtime on CUDA" in done.stdout
    assert POISONED in done.stdout
    assert "restart the process" in done.stdout
    assert "restart True" in done.stdout
    assert done.returncode == 1


def test_the_child_does_die_where_the_session_is_destroyed(model):
    """Control: if the driver reports no error, the engine is destroyed before the first rebuild."""
    assert child(model, "", "cpu").returncode < 0


class Failing:
    def __init__(self, engine: OnnxEngine) -> None:
        self.info, self.label, self.on_cpu, self._engine = engine.info, "on CUDA", False, engine
        self.broken = False

    def run(self, *inputs: np.ndarray):
        if self.broken:
            raise EngineError("CUDA failure")
        return self._engine.run(*inputs)


def test_a_context_that_is_poisoned_during_a_rebuild_ends_the_rebuilds(model, monkeypatch):
    kept: list = []
    monkeypatch.setattr(gpu, "_abandoned", kept)
    opened: list[Failing] = []
    problems = iter(["", POISONED])

    def open_on(device: str):
        if device == "cpu":
            return OnnxEngine(model, "cpu")
        engine = Failing(OnnxEngine(model, "cpu"))
        engine.broken = bool(opened)
        opened.append(engine)
        return engine

    engine = RecoveringEngine(
        open_on, "cuda", lambda: RecoveryPolicy(5), first_pause_s=0.0, context_problem=lambda: next(problems)
    )
    blank = blank_input(engine.info)
    opened[0].broken = True
    for _ in range(FAILURES):
        with pytest.raises(EngineError):
            engine.run(*blank)
    assert engine.condition is Condition.ON_CPU
    assert len(opened) == 2, "the first rebuild found the context poisoned: no second one"
    assert kept == [opened[1]]
    assert engine.run(*blank)


def test_full_memory_does_not_poison_a_context(model):
    from tests.core.runtime.test_gpu import Driver

    assert gpu.context_problem(Driver(free_mb=10)) == ""
    assert "only 10 of its" in gpu.gpu_problem(Driver(free_mb=10))
    assert gpu.context_problem(Driver(cuMemAlloc_v2=700)) == "cuMemAlloc_v2 returned CUDA_ERROR_ILLEGAL_ADDRESS"


def test_rebuilds_go_on_while_the_gpu_computes(model):
    opened = []

    def open_on(device: str):
        opened.append(device)
        engine = Failing(OnnxEngine(model, "cpu"))
        engine.broken = True
        return engine

    engine = RecoveringEngine(open_on, "cuda", lambda: RecoveryPolicy(2, allow_cpu=False), first_pause_s=0.0)
    for _ in range(FAILURES - 1):
        with pytest.raises(EngineError):
            engine.run(*blank_input(engine.info))
    with pytest.raises(DeviceLostError, match="configure and activate the node, or restart the process"):
        engine.run(*blank_input(engine.info))
    assert opened == ["cuda"] * 3
    assert not engine.needs_restart
