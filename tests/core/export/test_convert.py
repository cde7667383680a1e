"""Model conversion: parity within each precision's tolerance, or no output file."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from spectradino_core.cli import main
from spectradino_core.data.scene_sets import scene_sample
from spectradino_core.export.attention import fuse_attention
from spectradino_core.export.convert import PRECISIONS, convert
from spectradino_core.export.gpu_operators import UPSAMPLING
from spectradino_core.export.onnx_model import ParityError, describe, export
from spectradino_core.export.precision import halve
from spectradino_core.modality import Modality
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.training.recipes import smoke
from tests.core.export.lively import lively

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def pairs():
    return [scene_sample(9_100_000 + i, Modality.LWIR, (200, 160)) for i in range(2)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, pairs):
    """Model of two blocks with normalised inputs and spread scores, so that differences are visible."""
    recipe = smoke()
    model = lively(recipe)
    path = tmp_path_factory.mktemp("graphs") / "m.onnx"
    export(model, recipe.info(), path, pairs, inputs="normalised")
    export(model, recipe.info(), path.with_name("raw.onnx"), pairs)
    return path


def operators(path) -> Counter:
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def dtypes(model: onnx.ModelProto) -> dict[str, np.dtype]:
    """Type of every node output, as computed by ONNX Runtime."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    named = {output.name for output in probe.graph.output}
    names = [name for node in probe.graph.node for name in node.output if name and name not in named]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(names, {node.name: np.ones(node.shape, np.float32) for node in session.get_inputs()})
    return {name: value.dtype for name, value in zip(names, values, strict=True)}


def test_fused_attention_keeps_results(exported, tmp_path, pairs):
    facts = convert(exported, tmp_path / "fused.onnx", "fp32", pairs)
    assert facts["fused_attentions"] == 2
    assert facts["difference"]["scores"] < 1e-5
    found = operators(tmp_path / "fused.onnx")
    assert found["MultiHeadAttention"] == 2
    assert found["Softmax"] == 0


def test_int8_is_within_tolerance_and_recorded(exported, tmp_path, pairs):
    facts = convert(exported, tmp_path / "int8.onnx", "int8", pairs)
    # per block: q, k, v, projection, two of the MLP and two of the adapters; and the fusion's
    found = operators(tmp_path / "int8.onnx")
    assert facts["int8_products"] == 2 * 8 + 1 == found["MatMulInteger"]
    assert found["Gelu"] == 0 < found["FastGelu"]
    assert 0 < facts["difference"]["scores"] < 0.1
    weights = [onnx.numpy_helper.to_array(w) for w in onnx.load(str(tmp_path / "int8.onnx")).graph.initializer]
    largest = max(int(np.abs(w.astype(int)).max()) for w in weights if w.dtype == np.int8)
    assert largest == 64  # with 127, CPUs without VNNI saturate
    assert (tmp_path / "int8.onnx").stat().st_size < exported.stat().st_size
    info = open_engine(tmp_path / "int8.onnx", device="cpu").info
    assert info.provenance["converted"] == facts
    assert info.with_(provenance={}) == OnnxEngine(exported, device="cpu").info.with_(provenance={})
    result = Pipeline.open(tmp_path / "int8.onnx", device="cpu")(pairs[0].rgb, pairs[0].infrared)
    assert result.size == pairs[0].size


def test_half_precision_keeps_reductions_and_decoding_in_fp32(exported, tmp_path, pairs):
    facts = convert(exported, tmp_path / "half.onnx", "fp16", pairs)
    assert facts["fused_attentions"] == 0
    assert 0 < facts["difference"]["scores"] < 0.02
    model = onnx.load(str(tmp_path / "half.onnx"))
    kinds = dtypes(model)
    by_type: dict[str, set[np.dtype]] = {}
    for node in model.graph.node:
        by_type.setdefault(node.op_type, set()).update(kinds[name] for name in node.output if name in kinds)
    full, half = np.dtype(np.float32), np.dtype(np.float16)
    for kind in ("LayerNormalization", "Softmax", "ReduceMean", "Sqrt", "Reciprocal", "Exp"):
        assert by_type[kind] == {full}, kind
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    upsampling = [node for node in products if node.name.startswith(UPSAMPLING)]
    assert len(upsampling) == 2
    for node in products:
        assert kinds[node.output[0]] == (full if node in upsampling else half), node.name
    assert by_type["Conv"] == {half}
    assert {i.type.tensor_type.elem_type for i in model.graph.input} == {onnx.TensorProto.FLOAT}
    assert {i.type.tensor_type.elem_type for i in model.graph.output[:2]} == {onnx.TensorProto.FLOAT}


def test_whole_instance_norm_of_stem_stays_in_fp32(exported):
    """The variance of a whole image exceeds the precision of fp16."""
    source = onnx.load(str(exported))
    taken = {name: node for node in source.graph.node for name in node.output}
    joined = next(n for n in source.graph.node if n.op_type == "Concat" and any("conv2d" in i for i in n.input))
    norm, todo = set(), [name for name in joined.input if taken[name].op_type != "Conv"]
    while todo:
        node = taken.get(todo.pop())
        if node is not None and node.op_type != "Conv":
            norm.add(node.name)
            todo += node.input
    assert len(norm) >= 10
    half = halve(source)
    kinds = dtypes(half)
    assert {kinds[node.output[0]] for node in half.graph.node if node.name in norm} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "precision",
    # slow: fp32 is the same graph with fused attention, which is tested above
    [pytest.param(one, marks=pytest.mark.slow) if one == "fp32" else one for one in PRECISIONS],
)
def test_preprocessing_of_raw_inputs_is_not_converted(exported, tmp_path, pairs, precision):
    """Conversions of both input forms give bitwise equal results."""
    raw = exported.with_name("raw.onnx")
    facts = convert(raw, tmp_path / "raw.onnx", precision, pairs)
    convert(exported, tmp_path / "plain.onnx", precision, pairs)
    if precision != "fp32":
        assert facts["difference"]["scores"] > 0
    made = onnx.load(str(tmp_path / "raw.onnx"))
    first = [[n.name, n.op_type, *n.input] for n in onnx.load(str(raw)).graph.node if n.name.startswith("input/")]
    assert first == [[n.name, n.op_type, *n.input] for n in made.graph.node if n.name.startswith("input/")]
    assert len(first) > 5
    onnx.checker.check_model(made)
    old, new = (
        Pipeline.open(tmp_path / name, device="cpu", score_threshold=0.05) for name in ("plain.onnx", "raw.onnx")
    )
    assert (old.info.inputs, new.info.inputs) == ("normalised", "raw")
    for pair in pairs:
        for frames in ((pair.rgb, pair.infrared), (pair.rgb, None), (None, pair.infrared)):
            a, b = old(*frames), new(*frames)
            np.testing.assert_array_equal(a.boxes, b.boxes)
            np.testing.assert_array_equal(a.scores, b.scores)
            np.testing.assert_array_equal(a.mask, b.mask)


def test_deviating_conversion_is_not_written(exported, tmp_path, pairs, monkeypatch):
    from spectradino_core.export import convert as module

    def broken(model):
        model, count = real(model)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("_scale"):
                values = onnx.numpy_helper.to_array(tensor) * np.float32(1.5)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return model, count

    real = module.quantise_weights
    monkeypatch.setattr(module, "quantise_weights", broken)
    with pytest.raises(ParityError, match="int8 differs too much from m.onnx"):
        convert(exported, tmp_path / "int8.onnx", "int8", pairs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # a deviating conversion covers refusals
def test_decreased_score_is_rejected(exported, tmp_path, pairs):
    scores = iter((0.50, 0.49))
    with pytest.raises(ParityError, match="lowers the score by 1.00 points from 50.00"):
        convert(exported, tmp_path / "int8.onnx", "int8", pairs, score=lambda engine: next(scores))
    assert list(tmp_path.iterdir()) == []
    scores = iter((0.50, 0.497))
    facts = convert(exported, tmp_path / "int8.onnx", "int8", pairs, score=lambda engine: next(scores))
    assert facts["score"] == {"before": 0.5, "after": 0.497}


@pytest.mark.slow  # a deviating conversion covers refusals
def test_converted_file_is_not_converted_again(exported, tmp_path, pairs, capsys):
    convert(exported, tmp_path / "fused.onnx", "fp32", pairs)
    assert (
        main(
            [
                "convert",
                "--model",
                str(tmp_path / "fused.onnx"),
                "--out",
                str(tmp_path / "x.onnx"),
                "--precision",
                "int8",
            ]
        )
        == 1
    )
    assert "was converted already (fp32): start from the file it was made from" in capsys.readouterr().err


def test_other_softmax_is_unchanged(exported):
    info = OnnxEngine(exported, device="cpu").info
    node = onnx.helper.make_node("Softmax", ["x"], ["y"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [2, 3])], [value("y", 1, [2, 3])])
    model = onnx.helper.make_model(graph)
    describe(model, info)
    assert fuse_attention(model) == 0
    assert [n.op_type for n in model.graph.node] == ["Softmax"]


@pytest.mark.slow
def test_command_converts_bundled_model(repository, tmp_path, capsys):
    source, target = repository / "models" / "lwir_box.onnx", tmp_path / "int8.onnx"
    arguments = ["--precision", "int8", "--scenes", "2", "--score-scenes", "12", "--max-map-drop", "3"]
    assert main(["convert", "--model", str(source), "--out", str(target), *arguments]) == 0
    output = capsys.readouterr().out
    assert "int8.onnx: " in output
    assert "mAP50 on 12 scenes" in output
    assert operators(target)["MultiHeadAttention"] == 6
