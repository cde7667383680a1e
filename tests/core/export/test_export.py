"""Parity of exported models with the module, also on real pairs if available, and their metadata."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import onnx
import pytest

from spectradino_core.calibration.registration import Registration
from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.data.scene_sets import scene_sample
from spectradino_core.export import onnx_model as export_module
from spectradino_core.export.onnx_model import IR_VERSION, OPSET, ParityError, export, weights_digest
from spectradino_core.export.torch_engine import TorchEngine
from spectradino_core.modality import Modality
from spectradino_core.models.perception_checkpoint import load_perception, save_perception
from spectradino_core.runtime.bundle import METADATA_KEY, WEIGHTS_KEY, BundleError
from spectradino_core.runtime.engine import EngineError
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.training.recipes import box, smoke
from tests.core.export.lively import lively

pytestmark = pytest.mark.usefixtures("traced_once")


SLOW = pytest.mark.slow
"""Mark for parameters that run with the slow tests; one case of each test stays fast."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    recipe = smoke()
    model = lively(recipe).train()
    pairs = [scene_sample(9_000_000 + i, Modality.LWIR, (320, 256)) for i in range(3)]
    parity = export(model, recipe.info(), folder / "m.onnx", pairs)
    assert model.training, "export changed the module that it was given"
    model.eval()
    save_perception(folder / "m.safetensors", model, recipe.info())
    return folder, model, parity


def test_parity_is_measured_and_stored(exported):
    folder, _, parity = exported
    assert parity["pairs"] == 3
    assert OnnxEngine(folder / "m.onnx", device="cpu").info.parity == parity
    assert 0 < parity["scores"] <= 1e-3


@pytest.mark.parametrize("band", ["lwir", "nir", "swir"])
def test_companions_exported_now_fit_the_bundled_models(band, repository):
    path = repository / f"models/{band}_box"
    digest = weights_digest(*load_perception(path.with_suffix(".safetensors")))
    assert OnnxEngine(path.with_suffix(".onnx"), "cpu").info.provenance[WEIGHTS_KEY] == digest


def test_graph_has_operators_required_by_half_precision(exported):
    folder, _, _ = exported
    graph = onnx.load(str(folder / "m.onnx"))
    operators = [node.op_type for node in graph.graph.node]
    assert graph.opset_import[0].version == 20
    assert graph.ir_version == IR_VERSION
    assert {"LayerNormalization", "Gelu", "Softmax"} <= set(operators)
    assert not set(operators) & {"Erf", "If", "Loop"}
    assert operators.count("ReduceMean") == 4  # the stem's instance norm; no LayerNorm was decomposed
    assert all(d.dim_value > 0 for i in graph.graph.input for d in i.type.tensor_type.shape.dim)


def test_file_contains_no_path_of_exporting_machine(exported, repository):
    folder, _, _ = exported
    for path in (folder / "m.onnx", *sorted((repository / "models").glob("*.onnx"))):
        content = path.read_bytes()
        assert str(repository).encode() not in content
        assert b'File "' not in content, f"{path.name} holds stack traces"


def test_file_contains_description(exported):
    folder, _, _ = exported
    metadata = {p.key: p.value for p in onnx.load(str(folder / "m.onnx")).metadata_props}
    description = json.loads(metadata[METADATA_KEY])
    assert description["bands"] == ["rgb", "lwir"]
    assert description["thermal"]["kind"] == "percentile"
    assert len(description["palette"]) == len(description["mask_classes"])


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.FUSED, Mode.RGB_ONLY, Mode.IR_ONLY])
def test_pipelines_agree_on_real_pairs(shared_data, tmp_path_factory, mode):
    """ONNX Runtime against torch for the bundled architecture: boxes, scores within 1e-3, masks on 99.9 % of pixels."""
    folder = PairedFolder(shared_data / "roadscene_rgb_lwir", "val")
    recipe = box()
    model = lively(recipe, sharp=False)
    path = tmp_path_factory.getbasetemp() / "box_random.onnx"
    if not path.exists():
        export(model, recipe.info(), path, [folder.load(folder[0])])
    torch_pipeline = Pipeline(TorchEngine.of(model, recipe.info()), score_threshold=0.4)
    onnx_pipeline = Pipeline(OnnxEngine(path, device="cpu"), score_threshold=0.4)
    found = 0
    for item in list(folder)[:8]:
        sample = folder.load(item)
        frames = (
            None if mode is Mode.IR_ONLY else sample.rgb,
            None if mode is Mode.RGB_ONLY else sample.infrared,
        )
        a, b = torch_pipeline(*frames), onnx_pipeline(*frames)
        assert a.mode is b.mode is mode
        assert len(a) == len(b)
        found += len(a)
        a_rows, b_rows = (np.column_stack((p.labels, p.boxes, p.scores)) for p in (a, b))
        # scores equal up to rounding may be in either order, so rows are matched by box
        nearest = np.abs(a_rows[:, None, :5] - b_rows[None, :, :5]).max(axis=2).argmin(axis=1)
        assert sorted(nearest) == list(range(len(b)))
        np.testing.assert_allclose(a_rows, b_rows[nearest], atol=1e-3)
        assert a.mask.shape == sample.infrared.shape
        assert (a.mask == b.mask).mean() > 0.999
    assert found > 20


def test_pipeline_opens_checkpoints(exported):
    folder, _, _ = exported
    sample = scene_sample(9_000_100, Modality.LWIR, (320, 256))
    a = Pipeline.open(folder / "m.onnx", device="cpu")(sample.rgb, sample.infrared)
    b = Pipeline.open(folder / "m.safetensors", device="cpu")(sample.rgb, sample.infrared)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)


@pytest.mark.slow  # test_raw_inputs.py covers both forms
@pytest.mark.parametrize("size", [(333, 150), (1, 1), *(pytest.param(s, marks=SLOW) for s in ((320, 256), (150, 333)))])
def test_both_input_forms_agree_with_checkpoint(exported, tmp_path_factory, size):
    """Raw and normalised inputs give bitwise equal results, which agree with PyTorch's."""
    folder, model, _ = exported
    plain = tmp_path_factory.getbasetemp() / "plain_form.onnx"
    if not plain.exists():
        pair = scene_sample(9_000_000, Modality.LWIR, (320, 256))
        export(model, smoke().info(), plain, [pair], inputs="normalised")
    raw, old, torch_ = (
        Pipeline.open(path, device="cpu", score_threshold=0.3)
        for path in (folder / "m.onnx", plain, folder / "m.safetensors")
    )
    assert [p.info.inputs for p in (raw, old, torch_)] == ["raw", "normalised", "normalised"]
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    tilted = Registration((1.05, 0.01, size[0] / 20, -0.02, 1.02, size[1] / 15, 0, 0, 1.0))
    for registration, kind in product((None, tilted), (np.uint8, np.uint16)):
        counts = rng.integers(0, 200, (size[1], size[0])).astype(kind) * (1 if kind is np.uint8 else 100)
        for pipeline in (raw, old, torch_):
            pipeline.registration = registration
        for frames in ((rgb, counts), (rgb, None), (None, counts)):
            a, b, c = raw(*frames), old(*frames), torch_(*frames)
            np.testing.assert_array_equal(a.boxes, b.boxes)
            np.testing.assert_array_equal(a.scores, b.scores)
            np.testing.assert_array_equal(a.mask, b.mask)
            np.testing.assert_allclose(np.sort(a.scores), np.sort(c.scores), atol=1e-3)
            assert (a.mask == c.mask).mean() > 0.999


def test_deviating_graph_is_not_written(tmp_path, monkeypatch):
    recipe = smoke()
    trace = export_module._trace

    def sabotage(graph, info, path):
        trace(graph, info, path)
        model = onnx.load(str(path))
        (bias,) = (t for t in model.graph.initializer if t.name == "model.detection.classify.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
        onnx.save(model, str(path))

    monkeypatch.setattr(export_module, "_trace", sabotage)
    (tmp_path / "m.onnx").write_bytes(b"the old one")
    with pytest.raises(ParityError, match="scores"):
        export(lively(recipe), recipe.info(), tmp_path / "m.onnx", [scene_sample(1, Modality.LWIR, (200, 160))])
    assert (tmp_path / "m.onnx").read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_invalid_model_files_are_rejected(exported, tmp_path):
    folder, _, _ = exported
    with pytest.raises(BundleError, match=r"nowhere\.onnx does not exist"):
        open_engine(tmp_path / "nowhere.onnx")
    (tmp_path / "cut.onnx").write_bytes((folder / "m.onnx").read_bytes()[:20000])
    with pytest.raises(BundleError, match=r"cut\.onnx is not a readable ONNX model"):
        open_engine(tmp_path / "cut.onnx")
    foreign = onnx.load(str(folder / "m.onnx"))
    del foreign.metadata_props[:]
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    with pytest.raises(BundleError, match=r"foreign\.onnx is an ONNX model but not of SpectraDINO"):
        open_engine(tmp_path / "foreign.onnx")


def test_unavailable_device_is_rejected(exported):
    import onnxruntime

    folder, _, _ = exported
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    with pytest.raises(EngineError, match="device 'cuda' needs ONNX Runtime's CUDAExecutionProvider"):
        open_engine(folder / "m.onnx", device="cuda")
    with pytest.raises(EngineError, match="unknown device 'tpu'"):
        open_engine(folder / "m.onnx", device="tpu")


@pytest.mark.parametrize("name", ["lwir_box", "lwir_box_large", "nir_box", "swir_box"])
def test_bundled_models_load_in_oldest_runtime(repository, name):
    graph = onnx.load(str(repository / "models" / f"{name}.onnx"))
    assert graph.ir_version <= IR_VERSION
    assert graph.opset_import[0].version <= OPSET
