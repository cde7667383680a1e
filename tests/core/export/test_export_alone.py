"""Single-stream models: parity with PyTorch and with the model of both streams, and identification by digest."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from spectradino_core.cli import main
from spectradino_core.data.scene_sets import scene_sample
from spectradino_core.export import onnx_model as export_module
from spectradino_core.export.convert import convert
from spectradino_core.export.onnx_model import ParityError, export, weights_digest
from spectradino_core.export.torch_engine import TorchEngine
from spectradino_core.modality import Modality
from spectradino_core.models.perception import Perception
from spectradino_core.models.perception_checkpoint import save_perception
from spectradino_core.runtime.bundle import METADATA_KEY, WEIGHTS_KEY, companion_path
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.parity import network_inputs, unpack_samples
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.training.recipes import smoke

PAIRS = [scene_sample(9_200_000 + i, Modality.LWIR, (200, 160)) for i in range(2)]
STREAMS = ("rgb", "ir")

# slow: three exports; tests/core/test_combinations.py covers streams alone in the module, test_companions serving.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("traced_once")]


@pytest.fixture(scope="module")
def model() -> Perception:
    """Random weights with spread scores and a nonzero placeholder token."""
    torch.manual_seed(0)
    model = Perception(smoke().architecture).eval()
    with torch.no_grad():
        for tensor in (model.fusion.absent, model.segmentation.classify.weight):
            tensor.normal_(std=0.1)
        model.detection.regress.weight.normal_(std=0.01)
        model.detection.classify.weight.normal_(std=0.15)
        model.detection.regress.bias.normal_(std=0.3)
    return model


@pytest.fixture(scope="module", params=["raw", "normalised"])
def exported(request, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "m.onnx"
    export(model, smoke().info(), path, PAIRS, request.param)
    for stream in STREAMS:
        export(model, smoke().info(), companion_path(path, stream), PAIRS, request.param, stream)
    return path


@pytest.mark.parametrize("stream", STREAMS)
def test_companions_model_agrees_with_pytorch_and_with_model_of_both_streams(exported, model, stream):
    own, both = OnnxEngine(companion_path(exported, stream), "cpu"), OnnxEngine(exported, "cpu")
    torch_ = TorchEngine.of(model, own.info)
    spread = 0.0
    for pair in [scene_sample(9_200_100 + i, Modality.LWIR, (200, 160)) for i in range(3)]:
        found = [
            engine.run(*next(network_inputs(pair.rgb, pair.infrared, engine.info, stream)))
            for engine in (own, both, torch_)
        ]
        for others in found[1:]:
            for array, other in zip(found[0][:2], others[:2], strict=True):
                np.testing.assert_allclose(array, other, atol=1e-3)
            assert (found[0][2] == others[2]).mean() > 0.999
        spread = max(spread, float(np.ptp(found[0][1])))
    assert spread > 0.1, "equal scores make the comparison meaningless"
    parity = own.info.parity
    assert parity["pairs"] == 2
    assert 0 < parity["scores"] <= 1e-3


@pytest.mark.parametrize("stream", STREAMS)
def test_companions_model_has_inputs_of_its_stream_and_samples(exported, stream):
    own = OnnxEngine(companion_path(exported, stream), "cpu")
    graph = onnx.load(str(own.path))
    auxiliary = {"rgb": "content", "ir": "ir_gain"}[stream]
    wanted = [stream, auxiliary] if own.info.inputs == "raw" else [stream]
    assert [given.name for given in graph.graph.input] == wanted
    assert own.info.streams == stream
    assert len(unpack_samples(own.metadata, own.info, own.path)) == 2
    description = json.loads({p.key: p.value for p in graph.metadata_props}[METADATA_KEY])
    assert description["format"] == 3, "older software rejects it by this"


def test_model_of_both_streams_keeps_its_format(exported):
    description = json.loads({p.key: p.value for p in onnx.load(str(exported)).metadata_props}[METADATA_KEY])
    assert description["format"] == {"raw": 2, "normalised": 1}[description.get("inputs", "normalised")]
    assert "streams" not in description


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param(
            {"fuse_at": "taps", "fusion": "cross_attention", "segmentation": "upernet"}, marks=pytest.mark.slow
        ),
    ],
)
def test_infrared_features_of_one_pass_serve_other_rgb_images(model, tmp_path, options):
    """On RGB images other than that of the pass that gave the features, compared with both images in PyTorch."""
    if options:
        torch.manual_seed(0)
        model = Perception(replace(smoke().architecture, **options)).eval()
    path = tmp_path / "m.onnx"
    export(model, smoke().info(), path, PAIRS[:1], features=True)
    export(model, smoke().info(), companion_path(path, "reuse"), PAIRS[:1], streams="reuse")
    both, own = OnnxEngine(path, "cpu"), OnnxEngine(companion_path(path, "reuse"), "cpu")
    assert both.info.features == own.info.features == (len(model.architecture.fused), 120, 48)
    assert len(model.architecture.fused) == (2 if options else 1)
    torch_ = TorchEngine.of(model, both.info)
    first, second = (next(network_inputs(pair.rgb, PAIRS[0].infrared, both.info)) for pair in PAIRS)
    both.run(*first)
    given = dict(zip(signature(both.info), second)) | {"ir_features": both.ir_features}
    found = own.run(*(given[name] for name in signature(own.info)))
    wanted = torch_.run(*next(network_inputs(PAIRS[1].rgb, PAIRS[0].infrared, torch_.info)))
    for array, other in zip(found[:2], wanted[:2], strict=True):
        np.testing.assert_allclose(array, other, atol=1e-3)
    assert (found[2] == wanted[2]).mean() > 0.999
    assert not np.allclose(found[1], both.run(*first)[1], atol=1e-3), "the RGB image matters"


def test_models_of_one_checkpoint_share_a_digest(exported, model):
    paths = (exported, *(companion_path(exported, stream) for stream in STREAMS))
    digests = {OnnxEngine(path, "cpu").info.provenance[WEIGHTS_KEY] for path in paths}
    info = smoke().info()
    assert digests == {weights_digest(model, info)}
    assert digests == {weights_digest(model, info.with_(name="other", score_threshold=0.1, nms_iou=0.2, inputs="raw"))}
    others = {weights_digest(model, info.with_(box_classes=info.box_classes[::-1]))}
    for name, tensor in list(model.state_dict().items())[:1] + list(model.state_dict().items())[-1:]:
        with torch.no_grad():
            kept = tensor.clone()
            tensor.reshape(-1)[-1] += 1
            others.add(weights_digest(model, info))
            tensor.copy_(kept)
        assert model.state_dict()[name].equal(kept)
    assert len(others) == 3
    assert not others & digests


def test_deviating_single_stream_graph_is_not_written(model, tmp_path, monkeypatch):
    trace = export_module._trace

    def sabotage(graph, *arguments):
        with torch.no_grad():
            graph.model.fusion.absent.add_(0.5)
        trace(graph, *arguments)

    monkeypatch.setattr(export_module, "_trace", sabotage)
    with pytest.raises(ParityError, match="scores|boxes_px"):
        export(model, smoke().info(), tmp_path / "m.rgb.onnx", PAIRS[:1], streams="rgb")
    assert not list(tmp_path.iterdir())


def test_commands_export_describe_and_convert_single_stream_models(model, tmp_path, capsys):
    checkpoint, path = tmp_path / "model.safetensors", tmp_path / "my.onnx"
    save_perception(checkpoint, model, smoke().info())
    assert main(["export", "--model", str(checkpoint), "--out", str(path), "--streams", "all"]) == 0
    assert sorted(p.name for p in tmp_path.glob("*.onnx")) == [
        "my.ir.onnx", "my.onnx", "my.reuse.onnx", "my.rgb.onnx",
    ]  # fmt: skip
    own = companion_path(path, "ir")
    capsys.readouterr()
    assert main(["info", "--model", str(own)]) == 0
    assert json.loads(capsys.readouterr().out)["streams"] == "ir"
    small = tmp_path / "my_int8.ir.onnx"
    assert main(["convert", "--model", str(own), "--out", str(small), "--precision", "int8", "--scenes", "2"]) == 0
    info = OnnxEngine(small, "cpu").info
    assert (info.streams, info.inputs) == ("ir", "raw")
    assert info.provenance[WEIGHTS_KEY] == weights_digest(model, smoke().info())
    assert len(Pipeline(OnnxEngine(small, "cpu"))(None, PAIRS[0].infrared).size) == 2
    assert OnnxEngine(path, "cpu").info.features == OnnxEngine(companion_path(path, "reuse"), "cpu").info.features
    int8 = ["--precision", "int8", "--scenes", "2"]
    assert main(["convert", "--model", str(path), "--out", str(tmp_path / "p8.onnx"), *int8]) == 0
    reuse = str(companion_path(tmp_path / "p8.onnx", "reuse"))
    assert main(["convert", "--model", str(companion_path(path, "reuse")), "--out", reuse, *int8]) == 0
    assert json.loads(OnnxEngine(reuse, "cpu").info.to_json())["streams"] == "reuse"
    with pytest.raises(ValueError, match=r"my\.ir\.onnx takes only the ir stream: score the model of both streams"):
        convert(own, tmp_path / "x.onnx", "int8", PAIRS, score=lambda engine: 0.5)
