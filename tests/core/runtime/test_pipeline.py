"""Pipeline from frames to results, with a model of known results, at sizes that are no multiples of the patch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from spectradino_core.calibration.registration import Registration
from spectradino_core.runtime.bundle import INPUTS, METADATA_KEY, BundleError
from spectradino_core.runtime.engine import EngineError
from spectradino_core.runtime.network_inputs import blank_input
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.preprocess import FrameError
from spectradino_core.thermal import ThermalContract, ThermalError
from tests.blob_model import HOT_SCORE, RED_SCORE, blob_info, make_blob_model

RED, HOT = 0, 1
SIZES = [(640, 512), (617, 459), (394, 161), (161, 394), (1280, 1024), (37, 29)]


@pytest.fixture(scope="module", params=INPUTS)
def pipeline(request, tmp_path_factory) -> Pipeline:
    path = make_blob_model(tmp_path_factory.mktemp("blob") / "blob.onnx", inputs=request.param)
    return Pipeline.open(path, device="cpu")


def frames(size: tuple[int, int], dtype=np.uint16) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A red rectangle in the RGB frame, a hot one in the infrared frame, and both boxes."""
    width, height = size
    rgb = np.full((height, width, 3), 60, np.uint8)
    infrared = np.linspace(100, 120, width * height).reshape(height, width).astype(dtype)
    red = np.array([width // 8, height // 4, width // 3, height // 2])
    hot = np.array([width // 2, height // 3, width - width // 6, height - height // 5])
    rgb[red[1] : red[3], red[0] : red[2]] = (255, 0, 0)
    infrared[hot[1] : hot[3], hot[0] : hot[2]] = 250
    return rgb, infrared, red, hot


@pytest.mark.parametrize("size", SIZES)
def test_boxes_lie_on_source_pixels(pipeline, size):
    rgb, infrared, red, hot = frames(size)
    perception = pipeline(rgb, infrared)
    assert perception.size == size
    assert perception.mode is Mode.FUSED
    assert perception.labels.tolist() == [HOT, RED]  # best first
    np.testing.assert_allclose(perception.scores, [HOT_SCORE, RED_SCORE], atol=1e-6)
    tolerance = 1.01 * max(size[0] / 644, size[1] / 476, 1.0)  # one pixel of whichever grid is the coarser
    np.testing.assert_allclose(perception.boxes[0], hot, atol=tolerance)
    np.testing.assert_allclose(perception.boxes[1], red, atol=tolerance)


@pytest.mark.parametrize("size", SIZES)
def test_mask_lies_on_source_pixels(pipeline, size):
    rgb, infrared, red, _ = frames(size)
    perception = pipeline(rgb, infrared)
    truth = np.zeros((size[1], size[0]), bool)
    truth[red[1] : red[3], red[0] : red[2]] = True
    found = perception.mask == 1
    assert perception.mask.shape == truth.shape
    assert (found & truth).sum() / (found | truth).sum() > 0.85


def test_either_camera_alone(pipeline):
    rgb, infrared, red, hot = frames((617, 459))
    only_rgb = pipeline(rgb, None)
    assert (only_rgb.mode, only_rgb.labels.tolist()) == (Mode.RGB_ONLY, [RED])
    only_ir = pipeline(None, infrared)
    assert (only_ir.mode, only_ir.labels.tolist()) == (Mode.IR_ONLY, [HOT])
    np.testing.assert_allclose(only_rgb.boxes[0], red, atol=1.1)
    np.testing.assert_allclose(only_ir.boxes[0], hot, atol=1.1)


def test_infrared_of_another_resolution_is_scaled_to_the_rgb_frame(pipeline):
    rgb, _, _, _ = frames((1280, 1024))
    _, infrared, _, hot = frames((640, 512))
    perception = pipeline(rgb, infrared)
    np.testing.assert_allclose(perception.boxes[0], 2 * hot, atol=4.1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"box_classes": ["red"]}, "scores of 2 classes and a mask, but .* 1 detection classes and 3"),
        ({"box_classes": []}, "names 0 detection classes"),
        ({"mask_classes": [], "palette": []}, "names 2 detection classes and 0 mask classes"),
    ],
)
def test_a_graph_with_other_classes_than_its_description_is_refused_when_it_is_opened(tmp_path, changes, said):
    """Otherwise every frame would fail at the first label without a name."""
    onnx.save(described(tmp_path / "blob.onnx", changes), tmp_path / "other.onnx")
    with pytest.raises(BundleError, match=f"{said}.*export the model again"):
        Pipeline.open(tmp_path / "other.onnx", device="cpu")


def described(path: Path, changes: dict) -> onnx.ModelProto:
    """Create the blob model with another description."""
    model = onnx.load(make_blob_model(path))
    for prop in model.metadata_props:
        if prop.key == METADATA_KEY:
            prop.value = json.dumps(json.loads(prop.value) | changes)
    return model


@pytest.mark.parametrize("name", ["scores", "boxes", "mask"])
def test_a_graph_without_the_outputs_that_are_read_is_refused(tmp_path, name):
    model = described(tmp_path / "blob.onnx", {})
    for node in model.graph.node:
        node.output[:] = ["other" if output == name else output for output in node.output]
        node.input[:] = ["other" if entry == name else entry for entry in node.input]
    for output in model.graph.output:
        output.name = "other" if output.name == name else output.name
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(BundleError, match=r"other\.onnx: its graph outputs .*other.*export the model again"):
        Pipeline.open(tmp_path / "other.onnx", device="cpu")


def test_a_mask_of_more_classes_than_are_named_is_refused_at_the_first_pass(pipeline, monkeypatch):
    boxes, scores, mask = pipeline.engine.run(*blank_input(pipeline.info))
    monkeypatch.setattr(pipeline.engine, "run", lambda *inputs: (boxes, scores, np.full_like(mask, 7)))
    with pytest.raises(BundleError, match="mask contains class 7, but its description names 3 mask classes"):
        pipeline.warm_up()


@pytest.mark.parametrize(("facts", "warned"), [({}, True), ({"weight_bits": 7}, False)])
def test_int8_weights_of_8_bits_are_reported(tmp_path, caplog, facts, warned):
    changes = {"provenance": {"converted": {"precision": "int8"} | facts}}
    onnx.save(described(tmp_path / "blob.onnx", changes), tmp_path / "int8.onnx")
    Pipeline.open(tmp_path / "int8.onnx", device="cpu")
    assert ("int8.onnx has 8-bit weights" in caplog.text and "convert it again" in caplog.text) is warned


def test_steps_are_timed(pipeline):
    rgb, infrared, _, _ = frames((640, 512))
    assert list(pipeline(rgb, infrared).steps_ms) == ["preprocess", "engine", "postprocess"]
    assert all(ms >= 0 for ms in pipeline(rgb, infrared).steps_ms.values())
    assert pipeline.warm_up() > 0


def test_threshold_of_the_model_unless_another_is_given(tmp_path):
    path = make_blob_model(tmp_path / "blob.onnx", score_threshold=0.85)
    rgb, infrared, _, _ = frames((640, 512))
    assert Pipeline.open(path, device="cpu")(rgb, infrared).labels.tolist() == [HOT]
    assert Pipeline.open(path, device="cpu", score_threshold=0.1)(rgb, infrared).labels.tolist() == [HOT, RED]


def test_same_frames_same_answer(pipeline):
    rgb, infrared, _, _ = frames((617, 459))
    a, b = pipeline(rgb, infrared), pipeline(rgb, infrared)
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(a.mask, b.mask)


@pytest.mark.parametrize(
    ("rgb", "infrared", "message"),
    [
        (None, None, "at least one of the two streams"),
        (np.zeros((8, 8), np.uint8), None, "an RGB frame must be uint8"),
        (np.zeros((8, 8, 3), np.float32), None, "an RGB frame must be uint8"),
        (np.zeros((0, 8, 3), np.uint8), None, "empty"),
    ],
)
def test_frames_that_are_none_are_refused(pipeline, rgb, infrared, message):
    with pytest.raises(FrameError, match=message):
        pipeline(rgb, infrared)


def test_a_depth_that_the_model_does_not_take_is_refused_with_a_log_line(tmp_path):
    thermal = ThermalContract("fixed", 273.0, 323.0, kelvin_per_count=0.01, depths=(16,))
    pipeline = Pipeline.open(make_blob_model(tmp_path / "blob.onnx", thermal=thermal), device="cpu")
    rgb, infrared, _, _ = frames((640, 512), np.uint8)
    with pytest.raises(ThermalError, match="16-bit infrared frames"):
        pipeline(rgb, infrared)


def test_a_failing_engine_costs_one_frame(pipeline):
    rgb, infrared, _, _ = frames((640, 512))
    poison = rgb.copy()
    poison[:8, :8] = (0, 255, 0)  # makes the graph fail
    with pytest.raises(EngineError, match="failed on a frame"):
        pipeline(poison, infrared)
    assert pipeline(rgb, infrared).labels.tolist() == [HOT, RED]


def test_bundled_model_is_small_and_has_its_provenance(repository: Path):
    path = repository / "models" / "lwir_box.onnx"
    info = Pipeline.open(path, device="cpu").info
    assert path.stat().st_size <= 12e6
    assert info.box_classes == ("person", "bicycle", "car")
    assert info.provenance["recipe"] == "box_real"
    assert "research and evaluation" in info.provenance["terms"]
    assert {"msrs_rgb_lwir", "camel_lwir", "camvid_rgb"} < set(info.provenance["sources"])
    assert 0 <= info.parity["boxes_px"] <= 1e-3
    assert 0 <= info.parity["scores"] <= 1e-3
    assert info.parity["mask_differs"] <= 1e-3


def test_an_earlier_frame_leaves_nothing_behind(pipeline):
    """The input's memory is reused for another size, another mode, and the same again."""
    rgb, infrared, _, _ = frames((617, 459))
    fresh = Pipeline(pipeline.engine)
    expected = {mode: fresh(*mode_frames) for mode, mode_frames in single_and_both(rgb, infrared).items()}
    used = Pipeline(pipeline.engine)
    for other in ((394, 161), (161, 394)):
        used(*frames(other)[:2])
        for mode, mode_frames in single_and_both(rgb, infrared).items():
            found = used(*mode_frames)
            used.reset()
            np.testing.assert_array_equal(found.boxes, expected[mode].boxes)
            np.testing.assert_array_equal(found.mask, expected[mode].mask)


def test_on_prepared_is_called_before_the_network(pipeline):
    rgb, infrared, _, _ = frames((617, 459))
    events: list[str] = []

    class Watched:
        info = pipeline.info
        label = pipeline.engine.label

        def run(self, *inputs):
            events.append("network")
            return pipeline.engine.run(*inputs)

    watched = Pipeline(Watched())
    watched(rgb, infrared)
    watched.on_prepared = lambda: events.append("prepared")
    watched(rgb, infrared)
    assert events == ["network", "prepared", "network"]


@pytest.mark.parametrize("size", SIZES)
def test_files_of_both_forms_give_the_same_answers(tmp_path, size):
    rgb, infrared, _, _ = frames(size)
    tilted = Registration((0.9, 0.02, size[0] / 20, -0.01, 0.95, size[1] / 30, 0, 0, 1.0))
    for registration in (None, tilted):
        old, new = (
            Pipeline.open(
                make_blob_model(tmp_path / f"{form}.onnx", inputs=form), device="cpu", registration=registration
            )
            for form in ("normalised", "raw")
        )
        for counts in (infrared, infrared.astype(np.uint8)):
            for mode_frames in single_and_both(rgb, counts).values():
                a, b = old(*mode_frames), new(*mode_frames)
                np.testing.assert_array_equal(a.boxes, b.boxes)
                np.testing.assert_array_equal(a.scores, b.scores)
                np.testing.assert_array_equal(a.mask, b.mask)
                assert len(a) == sum(frame is not None for frame in mode_frames)


def test_a_file_whose_description_contradicts_its_inputs_is_refused(tmp_path):
    path = make_blob_model(tmp_path / "blob.onnx", inputs="raw")
    model = onnx.load(str(path))
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: blob_info(inputs="normalised").to_json()})
    onnx.save(model, str(path))
    with pytest.raises(BundleError, match="its graph takes .*its description says .*export the model again"):
        Pipeline.open(path, device="cpu")


def single_and_both(rgb, infrared) -> dict[Mode, tuple]:
    return {Mode.FUSED: (rgb, infrared), Mode.RGB_ONLY: (rgb, None), Mode.IR_ONLY: (None, infrared)}
