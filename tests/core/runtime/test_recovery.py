"""Lost and recovered engines: real graphs that fail on frames with a green corner, and deleted files."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from spectradino_core.runtime import recovery
from spectradino_core.runtime.engine import Engine, EngineError
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.recovery import (
    FAILURES,
    Condition,
    DeviceLostError,
    RebuildInterruptedError,
    RecoveringEngine,
    RecoveryPolicy,
)
from tests.blob_model import make_blob_model

GOOD = np.full((20, 28, 3), 90, np.uint8)
BAD = GOOD.copy()
BAD[:4, :4] = (0, 255, 0)
IR = np.full((20, 28), 20, np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("models") / "blob.onnx", input_size=(28, 14))


class Machine:
    """Opens engines; its accelerator can be lost and restored."""

    def __init__(self, model: Path, accelerator: bool = True) -> None:
        self.model = model
        self.accelerator = accelerator
        self.opened: list[str] = []
        self.lines: list[str] = []

    def open(self, device: str) -> Engine:
        self.opened.append(device)
        if device == "auto":
            device = "cuda" if self.accelerator else "cpu"
        on_accelerator = device != "cpu"
        path = self.model.with_name("gone.onnx") if on_accelerator and not self.accelerator else self.model
        engine = OnnxEngine(path, device="cpu", threads=1)
        engine.label = engine.label.replace("CPU", "CUDA") if on_accelerator else engine.label
        engine.on_cpu = not on_accelerator
        return engine

    def pipeline(self, device: str = "cuda", pause_s: float = 0.0, **policy) -> tuple[Pipeline, RecoveringEngine]:
        engine = RecoveringEngine(
            self.open, device, lambda: RecoveryPolicy(**policy), self.lines.append, first_pause_s=pause_s
        )
        return Pipeline(engine), engine


def fail(pipeline: Pipeline, times: int) -> Exception:
    """Send frames on which the graph fails; returns the last error."""
    for _ in range(times):
        with pytest.raises(EngineError) as caught:
            pipeline(BAD, IR)
    return caught.value


def test_fewer_failures_cost_their_frames_and_nothing_else(model):
    machine = Machine(model)
    pipeline, engine = machine.pipeline()
    for _ in range(5):
        fail(pipeline, FAILURES - 1)
        pipeline(GOOD, IR)
    assert machine.opened == ["cuda"]
    assert machine.lines == []
    assert engine.condition is Condition.GOOD


def test_failures_in_a_row_open_the_engine_anew_on_its_device(model):
    machine = Machine(model)
    pipeline, engine = machine.pipeline()
    error = fail(pipeline, FAILURES)
    assert "Gather" in str(error)
    assert (machine.opened, engine.rebuilds, engine.condition) == (["cuda", "cuda"], 1, Condition.GOOD)
    assert "failed on 3 frames in a row: " in machine.lines[0]
    assert "rebuild 1 of 3" in machine.lines[0]
    pipeline(GOOD, IR)


def test_rebuilds_are_bounded_and_then_the_cpu_serves(model):
    machine = Machine(model)
    pipeline, engine = machine.pipeline()
    machine.accelerator = False
    fail(pipeline, FAILURES)
    assert machine.opened == ["cuda", *["cuda"] * 3, "cpu"]
    assert engine.condition is Condition.ON_CPU
    assert engine.label.endswith("on CPU")
    assert "gone.onnx" in machine.lines[-1]
    pipeline(GOOD, IR)
    machine.accelerator = True
    fail(pipeline, FAILURES)
    assert machine.opened[5:] == ["cpu"], "once left, the device is not tried again by itself"


def test_without_cpu_fallback_it_gives_up_and_reports_the_reason(model):
    machine = Machine(model)
    pipeline, engine = machine.pipeline(max_rebuilds=2, allow_cpu=False)
    machine.accelerator = False
    error = fail(pipeline, FAILURES)
    assert isinstance(error, DeviceLostError)
    assert "gave up" in str(error)
    assert "2 rebuilds (max_engine_rebuilds), and allow_cpu_fallback is false" in str(error)
    assert machine.opened == ["cuda"] * 3
    with pytest.raises(DeviceLostError, match="gave up"):
        pipeline(GOOD, IR)
    assert len(machine.opened) == 3
    assert engine.condition is Condition.LOST


@pytest.mark.parametrize("allow_cpu", [True, False])
def test_auto_moves_to_the_cpu_only_where_that_is_allowed(model, allow_cpu):
    """'auto' opens on the CPU if there is no GPU: a rebuild that ends there does not restore the lost device."""
    machine = Machine(model)
    pipeline, engine = machine.pipeline("auto", max_rebuilds=2, allow_cpu=allow_cpu)
    assert not engine.on_cpu
    machine.accelerator = False
    error = fail(pipeline, FAILURES)
    assert machine.opened == ["auto", "auto", "auto", *(["cpu"] if allow_cpu else [])]
    assert "on the CPU only" in "".join(machine.lines)
    if allow_cpu:
        assert (engine.condition, engine.on_cpu) == (Condition.ON_CPU, True)
        pipeline(GOOD, IR)
    else:
        assert engine.condition is Condition.LOST
        assert isinstance(error, DeviceLostError)
        assert "device 'auto' opened on the CPU only" in str(error)
        assert "allow_cpu_fallback is false" in str(error)


def test_auto_takes_the_device_again_that_is_back_before_the_rebuilds_are_spent(model, monkeypatch):
    machine = Machine(model)
    pipeline, engine = machine.pipeline("auto", allow_cpu=False)
    machine.accelerator = False

    def pause(seconds: float) -> None:
        machine.accelerator = engine.rebuilds == 2

    monkeypatch.setattr(engine._interrupted, "wait", pause)
    fail(pipeline, FAILURES)
    assert (engine.condition, engine.rebuilds, engine.on_cpu) == (Condition.GOOD, 3, False)


def test_auto_that_never_had_another_device_is_rebuilt_on_the_cpu(model):
    machine = Machine(model, accelerator=False)
    pipeline, engine = machine.pipeline("auto", allow_cpu=False)
    fail(pipeline, FAILURES)
    assert (engine.condition, engine.rebuilds, engine.on_cpu) == (Condition.GOOD, 1, True)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_an_engine_that_never_recovers_is_given_up_after_a_bounded_number_of_rebuilds(model, device):
    machine = Machine(model)
    pipeline, engine = machine.pipeline(device)
    errors = 0
    while engine.condition is not Condition.LOST:
        fail(pipeline, 1)
        errors += 1
        assert errors < 100
    assert machine.opened == ([device] * 4 if device == "cpu" else ["cuda"] * 4 + ["cpu"] * 4)


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        RuntimeError("CUDA error: device lost"),
        ValueError("low >= high"),
        KeyError("x"),
    ],
)
@pytest.mark.parametrize("at_warm_up", [False, True])
def test_any_exception_of_a_rebuild_counts_as_a_rebuild(model, monkeypatch, error, at_warm_up):
    """A driver, a disk or a library may raise anything: the inference thread must survive it."""
    machine = Machine(model)
    pipeline, engine = machine.pipeline(max_rebuilds=2)
    opened_well = machine.open

    def run(*inputs):
        raise error

    def open_badly(device: str) -> Engine:
        if device != "cpu" and not at_warm_up:
            machine.opened.append(device)
            raise error
        found = opened_well(device)
        if device != "cpu":
            monkeypatch.setattr(found, "run", run)
        return found

    monkeypatch.setattr(engine, "_open_on", open_badly)
    fail(pipeline, FAILURES)
    assert machine.opened == ["cuda", "cuda", "cuda", "cpu"]
    assert f"cannot be rebuilt: {type(error).__name__}: {error}" in machine.lines[-1]
    assert engine.condition is Condition.ON_CPU
    pipeline(GOOD, IR)


def test_many_good_frames_give_it_all_its_rebuilds_again(model, monkeypatch):
    monkeypatch.setattr(recovery, "GOOD_FRAMES", 10)
    machine = Machine(model)
    pipeline, engine = machine.pipeline("cpu", max_rebuilds=1)
    for _ in range(4):
        fail(pipeline, FAILURES)
        for _ in range(10):
            pipeline(GOOD, IR)
    assert engine.rebuilds == 4
    fail(pipeline, FAILURES)
    for _ in range(9):
        pipeline(GOOD, IR)
    assert isinstance(fail(pipeline, FAILURES), DeviceLostError)


def test_the_pauses_between_rebuilds_grow(model, monkeypatch):
    pauses: list[float] = []
    machine = Machine(model)
    pipeline, engine = machine.pipeline(pause_s=0.5, max_rebuilds=10, allow_cpu=False)
    monkeypatch.setattr(engine._interrupted, "wait", pauses.append)
    machine.accelerator = False
    fail(pipeline, FAILURES)
    assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_pause_can_be_interrupted_and_the_rebuild_resumed_later(model):
    machine = Machine(model)
    pipeline, engine = machine.pipeline(pause_s=60.0)
    machine.accelerator = False
    errors: list[Exception] = []
    thread = threading.Thread(target=lambda: errors.append(fail(pipeline, FAILURES)))
    thread.start()
    while len(machine.opened) < 2:
        time.sleep(0.01)
    assert engine.condition is Condition.REBUILDING
    engine.interrupt()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(errors[0], RebuildInterruptedError)
    machine.accelerator = True
    engine.rearm()
    pipeline(GOOD, IR)
    assert engine.condition is Condition.GOOD


def test_the_pipeline_keeps_its_settings_over_a_rebuild(model):
    pipeline, _engine = Machine(model).pipeline()
    pipeline.score_threshold = 0.85
    fail(pipeline, FAILURES)
    hot = IR.copy()
    hot[5:10, 5:10] = 220
    assert list(pipeline(GOOD, hot).labels) == [1]
    assert pipeline.score_threshold == 0.85


def test_another_model_in_the_file_is_not_taken(model, tmp_path):
    machine = Machine(model)
    pipeline, _engine = machine.pipeline("cpu")
    machine.model = make_blob_model(tmp_path / "other.onnx", input_size=(28, 14), name="other")
    error = fail(pipeline, FAILURES)
    assert isinstance(error, DeviceLostError)
    assert "replaced by another model" in str(error)
