"""Single-stream models beside the two-stream model: same results, no stalls, and logged faults."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from spectradino_core.calibration.registration import Registration
from spectradino_core.runtime.bundle import WEIGHTS_KEY, BundleError, ModelInfo, companion_path
from spectradino_core.runtime.companions import CompanionEngine
from spectradino_core.runtime.engine import Engine, EngineError
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.parity import first_that_agrees, sample_inputs
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.preprocess import FrameError
from spectradino_core.runtime.providers import EngineCandidate
from spectradino_core.runtime.recovery import FAILURES, RecoveringEngine
from spectradino_core.thermal import NoValidPixelError
from tests.blob_model import blob_info, make_blob_model

SIZE = (56, 28)
WEIGHTS = {WEIGHTS_KEY: "a" * 64}

RGB = np.full((28, 56, 3), 90, np.uint8)
RGB[8:16, 10:30] = (250, 0, 0)
BAD = RGB.copy()
BAD[:4, :4] = (0, 255, 0)  # what makes the graphs fail
IR = np.full((28, 56), 2000, np.uint16)
IR[4:12, 30:50] = 9000
FRAMES = {"rgb": (RGB, None), "ir": (None, IR)}


def family(folder: Path, form: str = "raw") -> Path:
    """A model file with a single-stream model for each stream beside it."""
    model = make_blob_model(folder / "blob.onnx", SIZE, inputs=form, provenance=WEIGHTS)
    for stream in FRAMES:
        make_blob_model(companion_path(model, stream), SIZE, inputs=form, streams=stream, provenance=WEIGHTS)
    return model


@pytest.fixture(scope="module", params=["raw", "normalised"])
def model(request, tmp_path_factory) -> Path:
    return family(tmp_path_factory.mktemp("models"), request.param)


class Robot:
    """Pipeline on an engine with single-stream models, and its log."""

    def __init__(self, model: Path, both: Engine | None = None, device: str = "cpu", **options) -> None:
        self.lines: list[str] = []
        both = both or open_engine(model, device)
        self.engine = CompanionEngine(both, model, device, report=self.lines.append, **options)
        self.pipeline = Pipeline(self.engine)

    def until_alone(self, stream: str) -> None:
        """Send frames of one camera until the single-stream model gives the result."""
        _wait_until(lambda: self.pipeline(*FRAMES[stream]) is not None and f"{stream} only" in self.engine.label)

    def until_told(self) -> str:
        _wait_until(lambda: self.lines)
        return self.lines[0]


def _wait_until(what) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_files_lie_beside():
    assert companion_path(Path("a/m.onnx"), "rgb") == Path("a/m.rgb.onnx")
    assert companion_path(Path("a/m.v2"), "ir") == Path("a/m.v2.ir.onnx")


def test_single_stream_models_give_the_results_of_the_two_stream_model(model):
    robot, plain = Robot(model), Pipeline.open(model, device="cpu")
    for stream, mode in (("rgb", Mode.RGB_ONLY), ("ir", Mode.IR_ONLY)):
        robot.until_alone(stream)
        found, wanted = robot.pipeline(*FRAMES[stream]), plain(*FRAMES[stream])
        assert found.mode is mode
        assert len(found) == 1
        for a, b in ((found.boxes, wanted.boxes), (found.scores, wanted.scores), (found.mask, wanted.mask)):
            np.testing.assert_array_equal(a, b)
        assert len(robot.pipeline(RGB, IR)) == 2
        assert " only" not in robot.engine.label
        robot.pipeline(*FRAMES[stream])
        assert robot.engine.label.endswith(f", {stream} only on CPU")
    assert robot.lines == []


def test_a_graph_that_is_slow_to_open_keeps_no_frame_waiting(model):
    go = threading.Event()
    opened: list[str] = []

    def slowly(path, device, threads, stream) -> Engine:
        opened.append(stream)
        assert go.wait(20)
        return open_engine(path, device, threads, stream)

    robot = Robot(model, open_one=slowly)
    robot.pipeline(RGB, IR)
    assert opened == [], "nothing is opened while both cameras are there"
    for _ in range(20):
        assert len(robot.pipeline(RGB, None)) == 1
        assert " only" not in robot.engine.label
    go.set()
    robot.until_alone("rgb")
    assert opened == ["rgb"], "once, and only the one that is needed"


def spoil(model: Path, how: str, folder: Path) -> Path:
    target = shutil.copy(model, folder / "m.onnx")
    own = companion_path(Path(target), "rgb")
    form = open_engine(model, "cpu").info.inputs
    if how == "other weights":
        make_blob_model(own, SIZE, inputs=form, streams="rgb", provenance={WEIGHTS_KEY: "b" * 64})
    elif how == "no word of weights":
        make_blob_model(own, SIZE, inputs=form, streams="rgb")
    elif how == "other form":
        other = "raw" if form == "normalised" else "normalised"
        make_blob_model(own, SIZE, inputs=other, streams="rgb", provenance=WEIGHTS)
    elif how == "other stream":
        shutil.copy(companion_path(model, "ir"), own)
    elif how == "both streams":
        shutil.copy(model, own)
    else:
        own.write_bytes(companion_path(model, "rgb").read_bytes()[:1000])
    return Path(target)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("other weights", "another checkpoint.*--streams all"),
        ("no word of weights", "another checkpoint.*--streams all"),
        ("other form", "same --inputs"),
        ("other stream", "'ir', not 'rgb' only"),
        ("both streams", "'both', not 'rgb' only"),
        ("damaged", "not a readable ONNX model"),
    ],
)
def test_mismatched_single_stream_models_are_reported_once_and_not_used(model, tmp_path, how, words):
    robot = Robot(spoil(model, how, tmp_path))
    robot.pipeline(RGB, None)
    line = robot.until_told()
    for _ in range(3):
        assert len(robot.pipeline(RGB, None)) == 1
        assert " only" not in robot.engine.label
    assert robot.lines == [line]
    assert str(tmp_path / "m.rgb.onnx") in line
    assert re.search(words, line)


def test_without_single_stream_models_nothing_is_logged(tmp_path):
    robot = Robot(make_blob_model(tmp_path / "m.onnx", SIZE))
    for _ in range(3):
        robot.pipeline(RGB, None)
    assert robot.lines == []


def test_a_failing_single_stream_model_costs_no_frame_and_is_dropped_with_a_log_line(tmp_path):
    """Its description states the same weights, but its graph has another size: ONNX Runtime refuses the frame."""
    model = make_blob_model(tmp_path / "m.onnx", SIZE, provenance=WEIGHTS)
    make_blob_model(companion_path(model, "rgb"), (28, 28), streams="rgb", provenance=WEIGHTS)
    robot = Robot(model)
    robot.pipeline(RGB, None)
    _wait_until(lambda: len(robot.pipeline(RGB, None)) == 1 and robot.lines)
    robot.pipeline(RGB, None)
    assert len(robot.lines) == 1
    assert "m.rgb.onnx is not used (" in robot.lines[0]
    assert "failed on a frame" in robot.lines[0]
    assert " only" not in robot.engine.label


def test_a_frame_on_which_both_fail_is_no_fault_of_the_one(model):
    robot = Robot(model)
    robot.until_alone("rgb")
    with pytest.raises(EngineError, match="failed on a frame"):
        robot.pipeline(BAD, None)
    robot.pipeline(RGB, None)
    assert "rgb only" in robot.engine.label
    assert robot.lines == []


def test_a_recovering_engine_opens_them_anew(model):
    opened: list[str] = []

    def tracked(path, device, threads, stream) -> Engine:
        opened.append(stream)
        return open_engine(path, device, threads, stream)

    engine = RecoveringEngine(
        lambda device: CompanionEngine(open_engine(model, device), model, device, open_one=tracked), "cpu"
    )
    pipeline = Pipeline(engine)
    for times in (1, 2):
        _wait_until(lambda: pipeline(RGB, None) is not None and "rgb only" in engine.label)
        assert opened == ["rgb"] * times
        for _ in range(FAILURES):
            with pytest.raises(EngineError):
                pipeline(BAD, None)
        assert engine.rebuilds == times
        assert " only" not in engine.label


def test_one_that_only_the_cpu_runs_does_not_serve_beside_an_accelerator(model):
    both = OnnxEngine(model, "cpu")
    both.on_cpu = False
    asked: list[str] = []
    lines: list[str] = []

    def on_cpu(path, device, threads, stream) -> Engine:
        asked.append(device)
        return OnnxEngine(path, "cpu", threads)

    engine = CompanionEngine(both, model, "auto", report=lines.append, open_one=on_cpu)
    Pipeline(engine)(RGB, None)
    _wait_until(lambda: lines)
    assert asked == ["auto"]
    assert "on the CPU only" in lines[0]
    both.on_cpu = True
    Pipeline(CompanionEngine(both, model, "auto", open_one=on_cpu))(RGB, None)
    _wait_until(lambda: len(asked) == 2)
    assert asked[1] == "cpu", "where the graph of both ended up on the CPU, so do they"


def test_single_stream_models_are_compared_with_the_cpu_on_their_own_samples(model, tmp_path):
    """The engine that replaces a GPU gives the results of another graph: it must not serve."""
    path = companion_path(model, "ir")
    reference = OnnxEngine(path, "cpu")
    inputs = sample_inputs(reference)
    assert len(inputs) == 2
    assert all(len(given) == (2 if reference.info.inputs == "raw" else 1) for given in inputs)
    fast = EngineCandidate("cuda")
    assert first_that_agrees([fast], lambda _: OnnxEngine(path, "cpu"), reference, inputs).label

    class Wrong(OnnxEngine):
        def run(self, *given):
            boxes, scores, mask = super().run(*given)
            return boxes + 2, scores, mask

    with pytest.raises(EngineError, match="boxes_px"):
        first_that_agrees([fast], lambda _: Wrong(path, "cpu"), reference, inputs)


def test_a_single_stream_model_cannot_be_opened_alone(model):
    with pytest.raises(
        BundleError, match=r"blob\.rgb\.onnx does not take both cameras' images \(rgb\): give blob\.onnx"
    ):
        open_engine(companion_path(model, "rgb"), "cpu")


def test_it_refuses_frames_of_the_other_camera(model):
    pipeline = Pipeline(open_engine(companion_path(model, "rgb"), "cpu", streams="rgb"))
    assert len(pipeline(RGB, None)) == 1
    for frames in ((RGB, IR), (None, IR)):
        with pytest.raises(FrameError, match="rgb camera only"):
            pipeline(*frames)


# ---- reuse of infrared features ----------------------------------------------------------------------------------


FEATURES = {"features": (1, SIZE[0] * SIZE[1] // 196, 196)}
OTHER_RGB = np.roll(RGB, 12, axis=1)
OTHER_IR = np.roll(IR, -14, axis=1)


@pytest.fixture(params=["raw", "normalised"])
def reusing(request, tmp_path) -> Path:
    """A model file with the network that reuses infrared features beside it."""
    model = make_blob_model(tmp_path / "blob.onnx", SIZE, inputs=request.param, provenance=WEIGHTS, **FEATURES)
    make_blob_model(
        companion_path(model, "reuse"), SIZE, inputs=request.param, streams="reuse", provenance=WEIGHTS, **FEATURES
    )
    return model


class Reused:
    """Counts the passes of the network that reuses features."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, path, device, threads, streams) -> Engine:
        engine = open_engine(path, device, threads, streams)
        run = engine.run

        def counted(*inputs):
            self.passes += 1
            return run(*inputs)

        engine.run = counted
        return engine


def until_reused(robot: Robot, reused: Reused) -> int:
    """Send pairs with one infrared frame until its features are reused; returns the number of passes."""
    key, before = object(), reused.passes
    _wait_until(lambda: robot.pipeline(RGB, IR, key) is not None and reused.passes > before + 1)
    return reused.passes


def test_an_infrared_frame_that_is_reused_is_not_processed_again(reusing):
    reused = Reused()
    robot, plain = Robot(reusing, open_one=reused), Pipeline.open(reusing, device="cpu")
    passes = until_reused(robot, reused)
    key = object()
    for number, (rgb, ir) in enumerate([(RGB, OTHER_IR), (OTHER_RGB, OTHER_IR), (RGB, OTHER_IR)]):
        found, wanted = robot.pipeline(rgb, ir, key), plain(rgb, ir, key)
        assert reused.passes == passes + number, "the first pass over a new frame takes both images"
        assert len(found) == 2
        for a, b in ((found.boxes, wanted.boxes), (found.scores, wanted.scores), (found.mask, wanted.mask)):
            np.testing.assert_array_equal(a, b)
    assert robot.engine.label.endswith(" on CPU")
    assert robot.lines == []


def test_features_are_those_of_the_frame_whatever_came_between(reusing):
    """One camera alone, a new infrared frame, one without a key: features of another frame are never used."""
    reused = Reused()
    robot, plain = Robot(reusing, open_one=reused), Pipeline.open(reusing, device="cpu")
    until_reused(robot, reused)
    first, second = object(), object()
    steps = [
        (RGB, IR, first), (RGB, None, None), (OTHER_RGB, IR, first), (RGB, OTHER_IR, second), (None, IR, first),
        (OTHER_RGB, OTHER_IR, second), (OTHER_RGB, IR, None), (RGB, OTHER_IR, None), (RGB, OTHER_IR, None),
    ]  # fmt: skip
    for rgb, ir, key in steps:
        found, wanted = robot.pipeline(rgb, ir, key), plain(rgb, ir, key)
        np.testing.assert_array_equal(found.boxes, wanted.boxes)
        np.testing.assert_array_equal(found.mask, wanted.mask)


def test_a_reused_frame_moves_the_thermal_range_once(reusing):
    """With a smoothed range, a frame that serves three RGB frames counts once."""

    def last_input(times: int) -> list[np.ndarray]:
        engine = open_engine(reusing, "cpu")
        pipeline, key, run, seen = Pipeline(engine), object(), engine.run, []
        engine.run = lambda *inputs: seen.append([array.copy() for array in inputs]) or run(*inputs)
        pipeline(RGB, IR, object())
        for _ in range(times):
            pipeline(RGB, OTHER_IR // 2, key)
        pipeline(RGB, IR, object())
        return seen[-1]

    for once, often in zip(last_input(1), last_input(3), strict=True):
        np.testing.assert_array_equal(once, often)


def test_a_frame_without_a_measurement_is_refused_each_time(reusing):
    """The result must not be that of the previous frame, whose input is still in memory."""
    pipeline, key = Pipeline.open(reusing, device="cpu"), object()
    pipeline(RGB, IR, object())
    for _ in range(2):
        with pytest.raises(NoValidPixelError):
            pipeline(RGB, np.zeros_like(IR), key)
    assert len(pipeline(RGB, IR, key)) == 2


def test_a_reset_forgets_the_kept_input(reusing):
    pipeline, plain, key = Pipeline.open(reusing, device="cpu"), Pipeline.open(reusing, device="cpu"), object()
    for frame in (IR, OTHER_IR // 2):
        pipeline(RGB, frame, key if frame is not IR else object())
    pipeline.reset()
    np.testing.assert_array_equal(pipeline(RGB, OTHER_IR // 2, key).mask, plain(RGB, OTHER_IR // 2).mask)


def test_a_registration_that_changes_makes_the_kept_input_invalid(reusing):
    robot, key = Robot(reusing), object()
    before = robot.pipeline(RGB, IR, key)
    robot.pipeline.registration = Registration((1, 0, -20, 0, 1, 0, 0, 0, 1), SIZE, SIZE, "test")
    after = robot.pipeline(RGB, IR, key)
    hot = [found.boxes[found.labels == 1] for found in (before, after)]
    np.testing.assert_allclose(hot[0] - hot[1], [[20, 0, 20, 0]], atol=1)


def test_a_network_that_does_not_fit_the_features_is_not_used(tmp_path):
    plain = make_blob_model(tmp_path / "m.onnx", SIZE, provenance=WEIGHTS)  # gives none
    make_blob_model(companion_path(plain, "reuse"), SIZE, streams="reuse", provenance=WEIGHTS, **FEATURES)
    robot, key = Robot(plain), object()
    for _ in range(3):
        assert len(robot.pipeline(RGB, IR, key)) == 2
    assert robot.lines == [], "it is never needed"
    other = make_blob_model(tmp_path / "n.onnx", SIZE, provenance=WEIGHTS, features=(2, 8, 98))
    make_blob_model(companion_path(other, "reuse"), SIZE, streams="reuse", provenance=WEIGHTS, **FEATURES)
    robot = Robot(other)
    _wait_until(lambda: len(robot.pipeline(RGB, IR, key)) == 2 and robot.lines)
    assert "takes infrared features [1, 8, 196], the model file gives [2, 8, 98]" in robot.lines[0]
    assert "--streams all" in robot.lines[0]


def test_a_network_of_another_precision_does_not_take_turns_with_the_model(tmp_path):
    model = make_blob_model(tmp_path / "m.onnx", SIZE, provenance=WEIGHTS, **FEATURES)
    converted = WEIGHTS | {"converted": {"precision": "int8", "weight_bits": 7}}
    make_blob_model(companion_path(model, "reuse"), SIZE, streams="reuse", provenance=converted, **FEATURES)
    robot, key = Robot(model), object()
    _wait_until(lambda: len(robot.pipeline(RGB, IR, key)) == 2 and robot.lines)
    assert "computes in int8, the model file in fp32" in robot.lines[0]


def test_features_that_are_no_numbers_are_not_kept(reusing):
    reused = Reused()
    robot, key = Robot(reusing, open_one=reused), object()
    both = robot.engine._both
    run = both.run

    def broken(*inputs):
        result = run(*inputs)
        both.ir_features = np.full_like(both.ir_features, np.nan)
        return result

    both.run = broken
    for _ in range(4):
        assert len(robot.pipeline(RGB, IR, key)) == 2
    assert reused.passes == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"streams": "reuse"}, "'reuse' with features"),
        ({"streams": "rgb", **FEATURES}, "'rgb' with features"),
        ({"features": (1, 8)}, "three sides"),
        ({"features": (1, 8, 0)}, "three sides"),
        ({"features": (1, 9, 196)}, "do not fit input size"),
        ({"features": (1 << 20, 8, 196)}, "do not fit input size"),
    ],
)
def test_a_description_of_features_is_checked(change, words):
    with pytest.raises(BundleError, match=words):
        blob_info(SIZE, **change)
    info = blob_info(SIZE, **FEATURES)
    assert ModelInfo.from_json(info.to_json(), "m.onnx") == info
    assert json.loads(info.to_json())["format"] == 5
    assert "features" not in json.loads(blob_info(SIZE).to_json())


def test_a_network_that_reuses_features_is_no_model_file(reusing):
    with pytest.raises(BundleError, match=r"does not take both cameras' images \(reuse\): give blob\.onnx"):
        open_engine(companion_path(reusing, "reuse"), "cpu")
