"""Fast engines are compared with the CPU before they serve: faulty ones are refused, the next one is used."""

from __future__ import annotations

import base64
import json
import logging
import sys
import weakref
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from spectradino_core.runtime import engines, providers
from spectradino_core.runtime.bundle import INPUTS, BundleError
from spectradino_core.runtime.engine import EngineError
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.network_inputs import blank_input
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.parity import (
    SAMPLES_KEY,
    TOLERANCES,
    Difference,
    Tolerance,
    drawn_samples,
    first_that_agrees,
    largest_difference,
    network_inputs,
    pack_samples,
    sample_inputs,
    unpack_samples,
)
from spectradino_core.runtime.providers import CPU, EngineCandidate, UnavailableError, candidates, engine_cache
from spectradino_core.thermal import ThermalContract
from tests.blob_model import make_blob_model

ALL = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
FP16 = EngineCandidate("tensorrt", "fp16")
FP32 = EngineCandidate("tensorrt", "fp32")
CUDA = EngineCandidate("cuda")


@pytest.fixture(scope="module", params=INPUTS)
def model(request, tmp_path_factory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("gate") / "blob.onnx", (168, 140), inputs=request.param)


@pytest.fixture(scope="module")
def inputs(model):
    engine = OnnxEngine(model, device="cpu")
    samples = unpack_samples(engine.metadata, engine.info, engine.path)
    return [given for rgb, ir in samples for given in network_inputs(rgb, ir, engine.info)]


class Altered:
    """A real engine with modified results, like those of a miscompiled one."""

    def __init__(self, path: Path, change) -> None:
        self._engine = OnnxEngine(path, device="cpu")
        self.info, self.label, self._change = self._engine.info, "altered", change

    def run(self, *arrays):
        return self._change(*self._engine.run(*arrays))


def shifted(pixels):
    return lambda boxes, scores, mask: (boxes + np.float32(pixels), scores, mask)


def test_an_engine_that_agrees_serves_and_is_logged(model, inputs, caplog):
    good = Altered(model, shifted(0.01))
    with caplog.at_level(logging.INFO):
        assert first_that_agrees([FP16, CPU], lambda c: good, OnnxEngine(model, "cpu"), inputs) is good
    assert "TensorRT in fp16 agrees with the CPU" in caplog.text


def test_a_broken_engine_is_refused_and_the_next_precision_serves(model, inputs, caplog):
    engines_ = {FP16: Altered(model, shifted(30)), FP32: Altered(model, shifted(0))}
    found = first_that_agrees([FP16, FP32, CPU], engines_.__getitem__, OnnxEngine(model, "cpu"), inputs)
    assert found is engines_[FP32]
    assert "TensorRT in fp16 is not used: its results differ from the CPU's (boxes_px 3.00e+01 > 1e+00)" in caplog.text


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda boxes, scores, mask: (boxes, scores + np.float32(0.2), mask), "scores"),
        (lambda boxes, scores, mask: (boxes, scores * np.float32("nan"), mask), "scores inf"),
        (lambda boxes, scores, mask: (boxes, scores, (mask + 1).astype(np.uint8)), "mask_differs"),
        (lambda boxes, scores, mask: (boxes, scores, None), "mask_differs"),
    ],
)
def test_what_is_wrong_is_named(model, inputs, change, culprit):
    with pytest.raises(EngineError, match=culprit):
        first_that_agrees([CUDA], lambda c: Altered(model, change), OnnxEngine(model, "cpu"), inputs)


@pytest.mark.parametrize(
    ("provenance", "admitted"),
    [
        ({"converted": {"precision": "fp16"}}, True),
        ({"converted": {"precision": "int8"}}, False),
        ({"converted": "fp16"}, False),
        ({}, False),
    ],
)
def test_a_file_in_half_precision_may_differ_by_what_half_precision_does(tmp_path, provenance, admitted):
    """The CPU computes it in single precision, a GPU in half precision."""
    path = make_blob_model(tmp_path / "half.onnx", input_size=(168, 140), provenance=provenance)
    engine = Altered(path, shifted(0.5))
    cpu = OnnxEngine(path, "cpu")
    assert (first_that_agrees([CUDA, CPU], lambda c: engine, cpu, sample_inputs(cpu)) is engine) is admitted
    far = Altered(path, shifted(1.5))
    assert first_that_agrees([CUDA, CPU], lambda c: far, cpu, sample_inputs(cpu)) is cpu


def test_a_refused_engine_lets_go_of_its_memory_before_the_next_is_built(model, inputs):
    alive: list[weakref.ref] = []

    def open_one(candidate):
        assert not any(engine() for engine in alive), "two engines at once may be more than a GPU holds"
        engine = Altered(model, shifted(30))
        alive.append(weakref.ref(engine))
        return engine

    cpu = OnnxEngine(model, "cpu")
    assert first_that_agrees([FP16, FP32, CUDA, CPU], open_one, cpu, inputs) is cpu
    assert len(alive) == 3


def test_the_cpu_engine_is_opened_once(model, monkeypatch):
    import onnxruntime

    opened: list[str] = []

    class Watched(OnnxEngine):
        def __init__(self, path, device="auto", threads=0):
            opened.append(device.device)
            super().__init__(path, device, threads)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(ALL[1:]))
    monkeypatch.setattr(engines, "OnnxEngine", Watched)
    assert open_engine(model, "auto").on_cpu  # CUDA fails: it is not there
    assert opened == ["cpu", "cuda"]


def test_failing_engines_are_skipped_and_all_are_reported(model, inputs):
    def fails(candidate):
        raise EngineError(f"no {candidate.device} here")

    with pytest.raises(EngineError, match=r"TensorRT in fp16: no tensorrt here; CUDA: no cuda here.*device to 'cpu'"):
        first_that_agrees([FP16, CUDA], fails, OnnxEngine(model, "cpu"), inputs)
    cpu = OnnxEngine(model, "cpu")
    assert first_that_agrees([CUDA, CPU], lambda c: cpu if c is CPU else fails(c), cpu, inputs) is cpu


def test_opening_includes_the_parity_check(model, monkeypatch, caplog):
    """`auto` skips a GPU with wrong results; a GPU requested by name is an error."""

    class Wrong(OnnxEngine):
        def __init__(self, path, device="auto", threads=0):
            self._wrong = isinstance(device, EngineCandidate) and device.device == "cuda"
            super().__init__(path, CPU, threads)

        def run(self, *arrays):
            boxes, scores, mask = super().run(*arrays)
            return (boxes + np.float32(5), scores, mask) if self._wrong else (boxes, scores, mask)

    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(ALL))
    monkeypatch.setattr(engines, "OnnxEngine", Wrong)
    assert open_engine(model, "auto").label.endswith("CPU")
    assert "CUDA is not used: its results differ" in caplog.text
    with pytest.raises(EngineError, match="CUDA: its results differ"):
        open_engine(model, "cuda")


def test_an_engine_does_not_move_to_other_providers_by_itself(model, capsys):
    """ONNX Runtime would replace a failed provider by a session on the CPU, and return that one's result."""
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

    class Failing:
        def run(self, *arguments):
            raise ort.EPFail("CUDA failure 700: an illegal memory access was encountered")

    engine = OnnxEngine(model, "cpu")
    engine._session._sess = Failing()
    blank = blank_input(engine.info)
    for _ in range(2):
        with pytest.raises(EngineError, match="illegal memory access"):
            engine.run(*blank)
    assert "Falling back" not in capsys.readouterr().out


def test_samples_that_the_model_refuses_are_reported(tmp_path, monkeypatch):
    """8-bit samples in a file that takes 16 bits: the file is at fault, not the frame."""
    import onnxruntime

    contract = ThermalContract("fixed", 263.15, 323.15, kelvin_per_count=0.04, depths=(16,))
    path = make_blob_model(tmp_path / "odd.onnx", input_size=(28, 14), thermal=contract)
    image = np.full((14, 28, 3), 90, np.uint8)
    held = onnx.load(str(path))
    entry = held.metadata_props.add()
    entry.key, entry.value = SAMPLES_KEY, pack_samples([(image, image[..., 0])], OnnxEngine(path, "cpu").info)
    onnx.save(held, str(path))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(ALL[1:]))
    with pytest.raises(BundleError, match=r"odd\.onnx: its sample images do not fit .*16-bit.*export the model again"):
        open_engine(path, "auto")


def test_differences_by_hand(model, inputs):
    reference = OnnxEngine(model, "cpu")
    found = largest_difference(reference, Altered(model, shifted(0.5)), inputs)
    assert found.boxes_px == pytest.approx(0.5, abs=1e-3)
    assert (found.scores, found.mask_differs) == (0, 0)
    assert found | Difference(0.1, 0.2, 0.3) == Difference(found.boxes_px, 0.2, 0.3)
    assert (
        Tolerance(1, 0.1, 0.1).problem(Difference(float("nan"), 0.2, 0))
        == "boxes_px nan > 1e+00, scores 2.00e-01 > 1e-01"
    )
    with pytest.raises(ValueError, match="at least one input"):
        largest_difference(reference, reference, [])


def test_candidates_in_order(model, monkeypatch, tmp_path):
    monkeypatch.setenv("SPECTRADINO_CACHE", str(tmp_path))
    monkeypatch.setattr(providers, "runtime_version", lambda: "1.23.2")
    asked = candidates("tensorrt", ALL, model)
    assert [str(c) for c in asked] == ["TensorRT in fp16", "TensorRT in fp32", "CUDA"]
    assert [c.device for c in candidates("auto", ALL, model)] == ["cuda", "cpu"]
    assert candidates("auto", ALL[2:], model) == candidates("cpu", ALL, model) == [CPU]
    with pytest.raises(UnavailableError, match="install onnxruntime-gpu in place of onnxruntime"):
        candidates("tensorrt", ALL[1:], model)
    assert set(TOLERANCES) == {c.precision for c in asked} | {"bf16"}, "which only OpenVINO computes in"
    folders = {c.cache for c in asked[:2]}
    assert len(folders) == 2
    assert all(folder.parent == tmp_path / "tensorrt" for folder in folders)
    name, options = asked[0].providers[0]
    assert (name, options["trt_fp16_enable"], options["trt_engine_cache_path"]) == (ALL[0], "True", str(asked[0].cache))
    assert dict(asked[2].providers)["CUDAExecutionProvider"]["use_tf32"] == "0"
    other = model.with_name("other.onnx")
    other.write_bytes(model.read_bytes() + b"\0")
    assert candidates("tensorrt", ALL, other)[0].cache != asked[0].cache


def test_problems_that_prevent_tensorrt_are_reported(model, monkeypatch):
    with pytest.raises(UnavailableError, match=r"gone\.onnx cannot be read \(No such file.*parameter 'model'"):
        candidates("tensorrt", ALL, model.with_name("gone.onnx"))

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SPECTRADINO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(UnavailableError, match="no home folder .*: set SPECTRADINO_CACHE"):
        candidates("tensorrt", ALL, model)
    assert candidates("cuda", ALL, model)


def test_the_cache_reports_the_wait_and_removes_failed_builds(tmp_path, caplog, monkeypatch):
    candidate = EngineCandidate("tensorrt", "fp16", tmp_path / "cache" / "x")
    with engine_cache(candidate, Path("m.onnx")):
        (candidate.cache / "a.engine").write_bytes(b"built")
    assert "builds an engine of m.onnx for this GPU, which takes minutes, once" in caplog.text
    caplog.clear()
    for problem, kept in (("cuCtxSynchronize returned CUDA_ERROR_ILLEGAL_ADDRESS", True), ("", False)):
        with pytest.raises(RuntimeError), engine_cache(candidate, Path("m.onnx"), lambda message=problem: message):
            raise RuntimeError("deserialization failed")
        assert (candidate.cache / "a.engine").exists() is kept
        assert "builds an engine" not in caplog.text
        assert ("is kept, since it may be intact: the GPU cannot compute now (cuCtx" in caplog.text) is kept
        assert ("which seems damaged: TensorRT failed on it" in caplog.text) is not kept
        caplog.clear()
    assert not candidate.cache.exists()
    with pytest.raises(RuntimeError), engine_cache(candidate, Path("m.onnx"), lambda: "no GPU"):
        raise RuntimeError("no libnvinfer")
    assert not candidate.cache.exists(), "an empty folder holds nothing to keep"
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(UnavailableError, match="set SPECTRADINO_CACHE"),
        engine_cache(EngineCandidate("tensorrt", "fp16", tmp_path / "file" / "x"), Path("m.onnx")),
    ):
        pass
    monkeypatch.setenv("SPECTRADINO_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert providers.cache_root() == tmp_path / "xdg" / "spectradino"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that not even the superuser may write to")
def test_an_unwritable_engine_cache_is_reported_before_a_build(caplog):
    candidate = EngineCandidate("tensorrt", "fp16", Path("/proc/self/fdinfo"))
    with (
        pytest.raises(UnavailableError, match=r"/proc/self/fdinfo cannot be written to.*set SPECTRADINO_CACHE"),
        engine_cache(candidate, Path("m.onnx")),
    ):
        pytest.fail("a folder that can't be written to was taken")
    assert "builds an engine" not in caplog.text


def test_samples_travel_with_the_model(model):
    info = OnnxEngine(model, "cpu").info
    rng = np.random.default_rng(0)
    rgb = np.full((280, 336, 3), (200, 90, 20), np.uint8)
    infrared = rng.integers(0, 60000, (256, 320)).astype(np.uint16)
    held = unpack_samples({SAMPLES_KEY: pack_samples([(rgb, infrared)], info)}, info, "m.onnx")
    assert len(held) == 1
    assert held[0][0].shape == (140, 168, 3)
    assert np.abs(held[0][0].astype(int) - (200, 90, 20)).max() <= 3  # JPEG; red is still red
    assert (held[0][1].dtype, held[0][1].shape) == (np.dtype(np.uint16), (140, 168))
    for damaged in (
        "{",
        '{"format": 2, "pairs": []}',
        '{"format": 1, "pairs": []}',
        '{"format": 1, "pairs": [{"rgb": "x"}]}',
    ):
        with pytest.raises(BundleError, match=r"m\.onnx: its sample images are damaged"):
            unpack_samples({SAMPLES_KEY: damaged}, info, "m.onnx")


def test_samples_that_claim_too_many_pixels_are_not_decoded(model, monkeypatch):
    info = OnnxEngine(model, "cpu").info
    bomb = base64.b64encode(b"P5\n40000 40000\n255\n" + bytes(99)).decode()
    held = json.dumps({"format": 1, "pairs": [{"rgb": bomb, "ir": bomb}]})
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(BundleError, match=r"m\.onnx: .*damaged \(one claims 40000x40000 pixels"):
        unpack_samples({SAMPLES_KEY: held}, info, "m.onnx")


@pytest.mark.parametrize("size", [(14, 14), (28, 14), (28, 28), (14, 644)])
def test_samples_are_drawn_for_the_smallest_inputs_too(model, size):
    info = OnnxEngine(model, "cpu").info.with_(input_size=size)
    for rgb, infrared in drawn_samples(info):
        assert rgb.shape == (size[1], size[0], 3)
        assert infrared.shape == rgb.shape[:2]
        assert rgb.std() > 5


@pytest.mark.parametrize(
    "contract",
    [
        ThermalContract(),
        ThermalContract("fixed", 263.15, 323.15, kelvin_per_count=0.04, depths=(16,)),
        ThermalContract("fixed", 20, 200, depths=(8,)),
        ThermalContract("none", depths=(8,)),
    ],
)
def test_drawn_samples_suit_every_contract(model, contract):
    info = OnnxEngine(model, "cpu").info.with_(thermal=contract)
    pairs = drawn_samples(info)
    for (rgb, infrared), (again, _) in zip(pairs, drawn_samples(info), strict=True):
        np.testing.assert_array_equal(rgb, again)
        (_, plane, _), *_ = network_inputs(rgb, infrared, info.with_(inputs="normalised"))
        assert plane.std() > 0.05  # not flat
        assert plane.min() >= 0
        assert plane.max() <= 1
