"""Fixed input memory gives the results of plain calls: no frame uses another one's input, no result changes later."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from spectradino_core.runtime import onnx_engine
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.runtime.onnx_engine import BoundSession, OnnxEngine
from spectradino_core.runtime.providers import EngineCandidate
from tests.blob_model import make_blob_model


@pytest.fixture(scope="module", params=["normalised", "raw"])
def engine(request, tmp_path_factory) -> OnnxEngine:
    path = make_blob_model(tmp_path_factory.mktemp("bound") / "m.onnx", (28, 14), inputs=request.param)
    return OnnxEngine(path, "cpu")


def frames(engine: OnnxEngine, count: int = 4) -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(0)
    return [
        tuple(
            rng.integers(0, 14, shape).astype(kind) if kind != np.float32 else rng.random(shape, np.float32)
            for kind, shape in signature(engine.info).values()
        )
        for _ in range(count)
    ]


def test_each_frame_gets_the_result_of_its_own_input(engine):
    names = list(signature(engine.info))
    bound = BoundSession(engine._session, "cpu")
    results = []
    for frame in [*frames(engine), *reversed(frames(engine))]:
        plain = dict(zip(engine._outputs, engine._session.run(None, dict(zip(names, frame, strict=True))), strict=True))
        results.append((bound.run(names, frame), plain))
    for found, plain in results:  # after all passes: memory that was reused would show here
        assert found.keys() == plain.keys()
        for name, values in plain.items():
            np.testing.assert_array_equal(found[name], values)
    first, last = results[0][0], results[3][0]
    assert any((first[name] != last[name]).any() for name in first), "frames of one answer show nothing stale"


def test_a_buffer_that_is_written_again_is_read_again(engine):
    """As in the pipeline: one buffer for all frames. Neither the last frame's input nor its result may remain."""
    names = list(signature(engine.info))
    bound = BoundSession(engine._session, "cpu")
    first, second, *_ = frames(engine)
    buffers = tuple(np.empty_like(array) for array in first)
    answers = []
    for frame in (first, second, first):
        for buffer, array in zip(buffers, frame, strict=True):
            buffer[...] = array
        answers.append(bound.run(names, buffers))
        for buffer in buffers:
            buffer[...] = 0  # the next frame is being prepared
    plain = [engine._session.run(None, dict(zip(names, frame, strict=True))) for frame in (first, second, first)]
    for found, expected in zip(answers, plain, strict=True):
        for name, values in zip(engine._outputs, expected, strict=True):
            np.testing.assert_array_equal(found[name], values)
    assert any((a != b).any() for a, b in zip(plain[0], plain[1], strict=True)), "frames of one answer show nothing"


def test_inputs_for_a_gpu_pass_through_page_locked_memory(engine, monkeypatch):
    """The CPU replaces the GPU: the arrays that the device reads are those that the driver locked."""
    locked, read = [], []

    def lock(shape, kind, gpu_id):
        locked.append(np.empty(shape, kind))
        return locked[-1] if len(locked) > 1 else None  # none for the first: ordinary memory does too

    class Value:
        def __init__(self, value):
            self._value = value

        def update_inplace(self, array):
            read.append(array)
            self._value.update_inplace(array)

        def __getattr__(self, name):
            return getattr(self._value, name)

    make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    monkeypatch.setattr(onnx_engine, "page_locked", lock)
    monkeypatch.setattr(
        onnxruntime.OrtValue, "ortvalue_from_shape_and_type", lambda shape, kind, *_: Value(make(shape, kind))
    )
    names = list(signature(engine.info))
    bound = BoundSession(engine._session, "cuda", 1)
    frame, other, *_ = frames(engine)
    for given in (frame, other):
        found = bound.run(names, given)
        plain = engine._session.run(None, dict(zip(names, given, strict=True)))
        for name, values in zip(engine._outputs, plain, strict=True):
            np.testing.assert_array_equal(found[name], values)
    assert [id(array) for array in read[1 : len(names)]] == [id(array) for array in locked[1:]]
    assert [id(array) for array in read[: len(names)]] == [id(array) for array in read[len(names) :]]


def test_arrays_of_another_shape_or_type_are_refused_by_name(engine):
    names = list(signature(engine.info))
    bound = BoundSession(engine._session, "cpu")
    (frame,) = frames(engine, 1)
    for wrong in (frame[0][:, :1], frame[0].astype(np.float64)):
        with pytest.raises(ValueError, match=f"'{names[0]}' must be .*, got"):
            bound.run(names, (wrong, *frame[1:]))


def test_arrays_that_are_not_contiguous_are_taken_whole(engine):
    names = list(signature(engine.info))
    bound = BoundSession(engine._session, "cpu")
    (frame,) = frames(engine, 1)
    strided = tuple(np.repeat(array, 2, axis=-1)[..., ::2] for array in frame)
    expected = bound.run(names, frame)
    for name, values in bound.run(names, strided).items():
        np.testing.assert_array_equal(values, expected[name])


def test_shapes_that_vary_are_refused(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "varying",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with pytest.raises(ValueError, match="'x' is tensor"):
        BoundSession(session, "cpu")


@pytest.mark.parametrize("whole", [True, False])
def test_a_cuda_graph_is_taken_where_cuda_runs_every_node(engine, monkeypatch, whole):
    """The CPU replaces the GPU: the requested sessions, and unchanged results."""
    asked = []

    def session(path, options, providers):
        asked.append(dict(providers))
        if "enable_cuda_graph" in providers[0][1] and not whole:
            raise RuntimeError("a node is assigned to the CPU")
        found = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found.get_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        return found

    monkeypatch.setattr(onnx_engine, "_session", session)
    monkeypatch.setattr(onnx_engine, "prepare_gpu_libraries", lambda: None)
    monkeypatch.setattr(onnx_engine, "BoundSession", lambda one, device, gpu_id: BoundSession(one, "cpu"))
    providers = (("CUDAExecutionProvider", {"device_id": "0"}), ("CPUExecutionProvider", {}))
    fast = OnnxEngine(engine.path, EngineCandidate("cuda", providers=providers))
    assert [("enable_cuda_graph" in one["CUDAExecutionProvider"]) for one in asked] == [False, True]
    assert "CPUExecutionProvider" not in asked[1], "a graph can't capture what the CPU runs"
    assert fast._bound is not None
    for frame in frames(engine):
        for one, other in zip(fast.run(*frame), engine.run(*frame), strict=True):
            np.testing.assert_array_equal(one, other)
