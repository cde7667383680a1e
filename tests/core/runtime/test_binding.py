"""Fixed memory gives the answers of plain calls: no frame sees another one's input, no answer changes later."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from spectradino_core.runtime import onnx_engine
from spectradino_core.runtime.binding import BoundSession
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.providers import Candidate
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


def test_each_frame_gets_the_answer_of_its_own_input(engine):
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
    """With the CPU in the part of the GPU: which sessions are asked for, and that the answers stay."""
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
    fast = OnnxEngine(engine.path, Candidate("cuda", providers=providers))
    assert [("enable_cuda_graph" in one["CUDAExecutionProvider"]) for one in asked] == [False, True]
    assert "CPUExecutionProvider" not in asked[1], "a graph can't capture what the CPU runs"
    assert fast._bound is not None
    for frame in frames(engine):
        for one, other in zip(fast.run(*frame), engine.run(*frame), strict=True):
            np.testing.assert_array_equal(one, other)
