"""Weights in 8 bits for CPUs that multiply bytes fast (AVX-512 VNNI, AVX-VNNI, ARM dot product).

Weights are quantised once to 7 bits, a scale per output channel: x86 CPUs without VNNI add two products of bytes in 16
bits, which saturate with 8, and a file made on one machine is served on another. Activations are quantised by their
range, tensor by tensor, at run time: that needs no calibration data and cannot clip. The adapters are batched products,
a weight for each stream; for those ONNX Runtime has one scale a tensor, which is enough for a small step from the
features. Attention's scores, norms, stems and convolutions stay in fp32. GELU becomes its tanh form (5e-4 from the
exact one, an eighth of a step of 8 bits over -4..4, and two to three times as fast).
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto, helper

from spectradino_core.gpu_operators import UPSAMPLING
from spectradino_core.graphs.attention import DOMAIN

__all__ = ["quantise_weights"]


def quantise_weights(model: ModelProto) -> tuple[ModelProto, int]:
    """A copy of a graph whose matrix products with constant weights run in 8 bits, and how many those are.

    Raises:
        ValueError: there is no such product in the graph.
    """
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    products = [
        (node.name, ranks.get(node.input[1], 0))
        for node in model.graph.node
        if node.op_type == "MatMul" and not node.name.startswith(UPSAMPLING)
    ]
    flat = [name for name, rank in products if rank == 2]
    batched = [name for name, rank in products if rank == 3]
    if not flat and not batched:
        raise ValueError("the graph has no matrix product with constant weights: nothing to quantise")
    copy = ModelProto()
    copy.CopyFrom(model)
    for names, per_channel in ((flat, True), (batched, False)):
        if names:
            copy = _quantised(copy, names, per_channel)
    _approximate_gelu(copy)
    return copy, len(flat) + len(batched)


def _quantised(model: ModelProto, names: list[str], per_channel: bool) -> ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level, root.level = root.level, logging.ERROR  # it recommends a shape inference that a static graph does not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantised.onnx"
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=names,
                per_channel=per_channel,
                reduce_range=True,  # 7 bits
                weight_type=QuantType.QInt8,
                # shape inference does not know what comes out of fused attention
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
            return onnx.load(str(path))
    finally:
        root.level = level


def _approximate_gelu(model: ModelProto) -> None:
    """Standard GELU to ONNX Runtime's `FastGelu`, in place."""
    found = [node for node in model.graph.node if node.op_type == "Gelu" and node.domain in ("", "ai.onnx")]
    for node in found:
        node.op_type, node.domain = "FastGelu", DOMAIN
        del node.attribute[:]
    if found and all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
