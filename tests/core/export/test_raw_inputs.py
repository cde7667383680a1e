"""Raw-input graphs compute bitwise the same network inputs as the preprocessing of PyTorch, on a CPU."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from spectradino_core.calibration.registration import Registration, RegistrationError
from spectradino_core.export.raw_inputs import take_normalised, take_raw
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.network_inputs import NetworkInputs, blank_input, signature
from spectradino_core.runtime.preprocess import FrameError, Letterbox
from spectradino_core.thermal import (
    STREAM_SMOOTHING,
    NoValidPixelError,
    ThermalContract,
    ThermalError,
    ThermalNormaliser,
)
from tests.blob_model import blob_info
from tests.examples import examples

SIZE = (140, 112)
PLAIN = ThermalContract()
KELVIN = ThermalContract("fixed", 263.15, 323.15, kelvin_per_count=0.04, depths=(16,))
CONTRACTS = {
    "percentile": PLAIN,
    "percentile, low below 0": ThermalContract(min_span=60_000.0),
    "kelvin": KELVIN,
    "counts": ThermalContract("fixed", 20.3, 200.7, depths=(8,)),
    "none": ThermalContract("none"),
}
SIZES = [SIZE, (77, 53), (53, 77), (280, 224), (320, 255), (1, 1)]


def mirror(info: ModelInfo) -> onnx.ModelProto:
    """Network that returns its inputs."""
    value = helper.make_tensor_value_info
    shapes = {name: shape for name, (_, shape) in signature(info.with_(inputs="normalised")).items()}
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"seen_{name}"], name=f"see_{name}") for name in shapes],
        "mirror",
        [value(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [value(f"seen_{name}", TensorProto.FLOAT, shape) for name, shape in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


class Seen:
    """Actual and expected network inputs of a raw-input graph for a frame."""

    def __init__(self, contract=PLAIN, size=SIZE) -> None:
        self.info = blob_info(size, thermal=contract, inputs="raw")
        model = mirror(self.info)
        take_raw(model, self.info)
        onnx.checker.check_model(model, full_check=True)
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self._raw, self._plain = (NetworkInputs(i) for i in (self.info, self.info.with_(inputs="normalised")))
        self._normalisers = [ThermalNormaliser(contract, STREAM_SMOOTHING) for _ in "ab"]

    def __call__(self, rgb, infrared, registration=None):
        height, width = (infrared if rgb is None else rgb).shape[:2]
        box = Letterbox.fit((width, height), self.info.input_size)
        raw, plain = (
            make(rgb, infrared, box, normaliser, registration)
            for make, normaliser in zip((self._raw, self._plain), self._normalisers, strict=True)
        )
        for array, (kind, shape) in zip(raw, signature(self.info).values(), strict=True):
            assert (array.dtype, array.shape) == (kind, shape)
        given = {node.name: array for node, array in zip(self._session.get_inputs(), raw, strict=True)}
        return self._session.run(None, given), plain

    def check(self, *frames) -> None:
        found, wanted = self(*frames)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def frames(size, depth=16, seed=0, ir_size=None):
    rng = np.random.default_rng(seed)
    width, height = size
    ir_width, ir_height = ir_size or size
    counts = rng.normal(7000 if depth == 16 else 120, 300 if depth == 16 else 40, (ir_height, ir_width))
    kind = np.uint16 if depth == 16 else np.uint8
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8), counts.clip(0, np.iinfo(kind).max).astype(kind)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_raw_inputs_equal_normalised_inputs(contract, size):
    seen = Seen(contract)
    for depth in contract.depths:
        for rgb, infrared in (frames(size, depth), frames(size, depth, seed=1, ir_size=(61, 40))):
            seen.check(rgb, infrared)
            seen.check(rgb, None)
            seen.check(None, infrared)
            seen.check(rgb, infrared)  # no state remains from previous frames


def test_constant_frames():
    for contract in (ThermalContract(), CONTRACTS["percentile, low below 0"], ThermalContract("none")):
        for value in (0, 3, 255, 65535):
            seen = Seen(contract)
            rgb = np.full((53, 77, 3), min(value, 255), np.uint8)
            infrared = np.full((53, 77), value, np.uint16)
            if value in (0, 65535):  # no measurement
                with pytest.raises(NoValidPixelError):
                    seen.check(rgb, infrared)
            else:
                seen.check(rgb, infrared)
            if value < 256:
                seen.check(rgb, np.full((53, 77), value, np.uint8))


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_pixels_outside_infrared_view_are_0(contract):
    rgb_size, ir_size = (77, 53), (61, 40)
    registration = Registration(np.array([[0.6, 0.02, 14.0], [-0.01, 0.7, 11.0], [1e-4, 0, 1.0]]), ir_size, rgb_size)
    seen = Seen(contract)
    for depth in contract.depths:
        rgb, infrared = frames(rgb_size, depth, ir_size=ir_size)
        seen.check(rgb, infrared, registration)
        found, _ = seen(rgb, infrared, registration)
        assert (found[1] == 0).mean() > 0.3
        seen.check(rgb, infrared)
    with pytest.raises(RegistrationError):
        seen(frames((70, 70))[0], infrared, registration)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.sampled_from([8, 16]),
    st.integers(0, 1 << 32),
)
def test_arbitrary_frames(size, ir_size, depth, seed):
    Seen(size=(56, 42)).check(*frames(size, depth, seed, ir_size))


def test_invalid_frames_are_rejected():
    seen = Seen(KELVIN)
    rgb, infrared = frames((77, 53))
    with pytest.raises(FrameError, match="an RGB frame must be uint8"):
        seen(rgb.astype(np.float32), infrared)
    with pytest.raises(ThermalError, match="16-bit"):
        seen(rgb, infrared.astype(np.uint8))
    seen.check(rgb, infrared)


def test_absent_stream_is_not_cleared():
    """Its image buffer keeps old content; `content` marks no pixel as valid."""
    seen = Seen()
    rgb, infrared = frames((77, 53))
    seen.check(rgb, infrared)
    box = Letterbox.fit((77, 53), SIZE)
    made = NetworkInputs(seen.info)
    both = [array.copy() for array in made(rgb, infrared, box, ThermalNormaliser(PLAIN))]
    alone = made(None, infrared, box, ThermalNormaliser(PLAIN))
    np.testing.assert_array_equal(alone[0], both[0])
    assert [both[1].tolist(), alone[1].tolist()] == [[*box.content], [0, 0]]
    assert alone[4].tolist() == [0, 1]


def test_take_normalised_inverts_take_raw():
    info = blob_info(SIZE)
    plain, model = mirror(info), mirror(info)
    take_raw(model, info)
    with pytest.raises(ValueError, match="not the normalised inputs"):
        take_raw(model, info)
    with pytest.raises(ValueError, match="not the raw inputs"):
        take_normalised(plain, info)
    with pytest.raises(ValueError, match="280"):
        take_normalised(model, blob_info((280, 224)))
    take_normalised(model, info)
    assert model.SerializeToString() == plain.SerializeToString()


@pytest.mark.parametrize("form", ["raw", "normalised"])
def test_blank_input_matches_signature(form):
    info = blob_info(SIZE, inputs=form)
    arrays = blank_input(info)
    assert [(a.dtype, a.shape) for a in arrays] == list(signature(info).values())
    assert arrays[-1].tolist() == [1, 1]
