"""Engines are built in a child process, which a signal ends at once; the CPU's results are cached."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from spectradino_core.runtime import engines
from spectradino_core.runtime.bundle import WEIGHTS_KEY, companion_path
from spectradino_core.runtime.companions import CompanionEngine
from spectradino_core.runtime.engines import BuildError, build, open_engine
from spectradino_core.runtime.network_inputs import blank_input
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.parity import RememberedEngine, first_that_agrees, sample_inputs
from spectradino_core.runtime.providers import EngineCandidate
from tests.blob_model import make_blob_model

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def candidate(tmp_path) -> EngineCandidate:
    return EngineCandidate("tensorrt", "fp16", tmp_path / "cache" / "engine")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_an_engine_is_built_once(candidate, caplog):
    command = python(f"from pathlib import Path; Path({str(candidate.cache / 'a.engine')!r}).write_bytes(b'x')")
    build(Path("m.onnx"), candidate, command=command)
    assert "builds an engine of m.onnx" in caplog.text
    build(Path("m.onnx"), candidate, command=python("raise SystemExit('built again')"))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('first'); print('no kernel for node Gelu'); raise SystemExit(1)", "no kernel for node Gelu"),
        ("import os; os.abort()", "exit status -6"),
    ],
)
def test_a_builder_that_fails_or_crashes_is_an_error_with_its_last_words(candidate, code, why):
    with pytest.raises(BuildError, match=f"m.onnx cannot be built: {why}"):
        build(Path("m.onnx"), candidate, command=python(code))


def test_a_signal_ends_the_builder(candidate, monkeypatch, tmp_path):
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(engines, "_interrupted", False)

    def interrupt() -> None:
        while not (pid.is_file() and pid.read_text()):
            time.sleep(0.02)
        engines.interrupt_builds()

    thread = threading.Thread(target=interrupt)
    thread.start()
    start = time.monotonic()
    with pytest.raises(BuildError, match="was interrupted"):
        build(Path("m.onnx"), candidate, command=python(code))
    thread.join()
    assert time.monotonic() - start < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death is Linux's")
def test_the_real_builder_reports_its_error_and_obeys_signals(tmp_path):
    """There is no TensorRT here, which its error must state. It is a separate process with its own exit code."""
    model = make_blob_model(tmp_path / "m.onnx", (28, 14))
    command = [sys.executable, "-m", "spectradino_core.runtime.engines", str(model), "tensorrt", "fp16", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "needs ONNX Runtime's TensorrtExecutionProvider" in done.stdout
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == -signal.SIGTERM


def test_other_devices_build_nothing():
    build(Path("m.onnx"), EngineCandidate("cuda"), command=python("raise SystemExit('built')"))


def test_graphs_of_one_stream_are_opened_at_once_for_tensorrt_only(tmp_path):
    weights = {WEIGHTS_KEY: "a" * 64}
    model = make_blob_model(tmp_path / "m.onnx", (28, 14), provenance=weights)
    for stream in ("rgb", "ir"):
        make_blob_model(companion_path(model, stream), (28, 14), streams=stream, provenance=weights)
    opened: list[tuple[str, bool]] = []

    def open_one(path, device, threads, stream):
        opened.append((stream, threading.current_thread() is threading.main_thread()))
        engine = open_engine(path, "cpu", threads, stream)
        engine.on_cpu = False
        return engine

    both = open_engine(model, "cpu")
    both.on_cpu = False
    CompanionEngine(both, model, "cuda", open_one=open_one)
    assert opened == []
    CompanionEngine(both, model, "tensorrt", open_one=open_one)
    assert opened == [("rgb", True), ("ir", True)]


class Counted:
    def __init__(self, engine: OnnxEngine) -> None:
        self.info, self.label, self.on_cpu, self._engine, self.passes = engine.info, "CPU", True, engine, 0

    def run(self, *inputs):
        self.passes += 1
        return self._engine.run(*inputs)


def test_cpu_results_are_cached_and_still_compared(tmp_path):
    path = make_blob_model(tmp_path / "m.onnx", (28, 14))
    engine = OnnxEngine(path, "cpu")
    inputs = sample_inputs(engine)
    for expected in (len(inputs), 0):
        counted = Counted(engine)
        remembered = RememberedEngine(counted, tmp_path / "parity", "abc-ort1")
        found = first_that_agrees(
            [EngineCandidate("cuda")], lambda one: OnnxEngine(path, "cpu"), engine, inputs, remembered
        )
        assert found.info == engine.info
        assert counted.passes == expected
    other = Counted(engine)
    RememberedEngine(other, tmp_path / "parity", "abc-ort2").run(*inputs[0])
    assert other.passes == 1, "another version of the runtime is asked anew"


def test_damaged_memory_is_made_anew_and_no_place_is_no_error(tmp_path):
    path = make_blob_model(tmp_path / "m.onnx", (28, 14))
    engine = OnnxEngine(path, "cpu")
    blank = blank_input(engine.info)
    folder = tmp_path / "parity"
    expected = RememberedEngine(engine, folder, "k").run(*blank)
    (file,) = folder.glob("*.npz")
    for damage in (b"", b"not a zip", file.read_bytes()[:-40]):
        file.write_bytes(damage)
        counted = Counted(engine)
        for one, other in zip(RememberedEngine(counted, folder, "k").run(*blank), expected, strict=True):
            np.testing.assert_array_equal(one, other)
        assert counted.passes == 1
    (tmp_path / "file").write_text("in the way")
    RememberedEngine(engine, tmp_path / "file" / "parity", "k").run(*blank)
