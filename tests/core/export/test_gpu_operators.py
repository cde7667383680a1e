"""Replacements of operators that CUDA and TensorRT lack give the same results."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from spectradino_core.export.gpu_operators import UPSAMPLING, bilinear_matrix, replace_for_gpus


def resize_model(before, after, **attributes) -> onnx.ModelProto:
    attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"} | attributes
    graph = helper.make_graph(
        [
            helper.make_node("Resize", ["x", "", "", "sizes"], ["large"], name="resize", **attributes),
            helper.make_node("ArgMax", ["large"], ["index"], axis=1, keepdims=0),
            helper.make_node("Cast", ["index"], ["mask"], to=TensorProto.UINT8),
        ],
        "upsampling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, before)],
        [
            helper.make_tensor_value_info("large", TensorProto.FLOAT, after),
            helper.make_tensor_value_info("mask", TensorProto.UINT8, [after[0], *after[2:]]),
        ],
        [numpy_helper.from_array(np.array(after, np.int64), "sizes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1, 7, 32, 40), (1, 7, 224, 280)),
        ((1, 3, 37, 46), (1, 3, 518, 644)),
        ((1, 2, 1, 1), (1, 2, 9, 5)),
        ((1, 2, 6, 4), (1, 2, 3, 9)),
        ((2, 4, 11, 13), (2, 4, 11, 26)),
    ],
)
def test_products_equal_resize_and_torch(before, after):
    model = resize_model(before, after)
    x = np.random.default_rng(0).normal(size=before).astype(np.float32)
    large, mask = run(model, x)
    assert replace_for_gpus(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert "Resize" not in {node.op_type for node in model.graph.node}
    other_large, other_mask = run(model, x)
    np.testing.assert_allclose(other_large, large, atol=2e-5)  # ONNX Runtime computes positions in fp32
    assert (mask != other_mask).mean() < 1e-3
    reference = torch.nn.functional.interpolate(torch.from_numpy(x), size=after[2:], mode="bilinear")
    np.testing.assert_allclose(other_large, reference.numpy(), atol=2e-5)


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "nearest"},
        {"mode": "cubic"},
        {"coordinate_transformation_mode": "align_corners"},
        {"antialias": 1},
    ],
)
def test_other_interpolations_are_kept(attributes):
    model = resize_model((1, 2, 4, 4), (1, 2, 8, 8), **attributes)
    assert replace_for_gpus(model) == 0
    assert "Resize" in {node.op_type for node in model.graph.node}


def test_uint8_is_cast_from_float_and_nodes_are_prefixed():
    model = resize_model((1, 2, 4, 4), (1, 2, 8, 8))
    replace_for_gpus(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    last = makers["mask"]
    assert makers[last.input[0]].op_type == "Cast"
    assert helper.get_node_attr_value(makers[last.input[0]], "to") == TensorProto.FLOAT
    assert all(n.name.startswith(UPSAMPLING) for n in model.graph.node if n.op_type == "MatMul")
    assert "sizes" not in {tensor.name for tensor in model.graph.initializer}
    count = len(model.graph.node)
    assert replace_for_gpus(model) == 0
    assert len(model.graph.node) == count


def test_matrix_rows_sum_to_one():
    for size, target in ((1, 5), (5, 1), (16, 224), (37, 518)):
        np.testing.assert_allclose(bilinear_matrix(size, target).sum(axis=1), 1, atol=1e-6)
