"""Dynamic int8 quantisation for CPUs with AVX-512 VNNI, AVX-VNNI or ARM dot product.

Weights are quantised to 7 bits with a scale per output channel: x86 CPUs without VNNI add two products of bytes in 16
bits, which saturate with 8, and a file made on one machine is served on another. Activations are quantised at run time
with a scale per tensor, which requires no calibration data and cannot clip. The adapters are batched products with a
weight per stream, for which ONNX Runtime supports only one scale per tensor; that suffices, since they change the
features only slightly. Attention scores, norms, stems and convolutions stay in fp32. GELU is replaced by its faster
tanh form, which deviates by 5e-4, an eighth of an int8 step over -4..4.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto, helper

from spectradino_core.export.attention import DOMAIN
from spectradino_core.export.gpu_operators import UPSAMPLING

__all__ = ["WEIGHT_BITS", "quantise_weights"]

WEIGHT_BITS = 7


def quantise_weights(model: ModelProto) -> tuple[ModelProto, int]:
    """Quantise matrix products with constant weights in a copy of the graph; also return their number.

    Raises:
        ValueError: the graph has no such product.
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
    level, root.level = root.level, logging.ERROR  # it recommends a shape inference that static graphs don't need
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantised.onnx"
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=names,
                per_channel=per_channel,
                reduce_range=True,  # to WEIGHT_BITS
                weight_type=QuantType.QInt8,
                # shape inference does not know the output type of fused attention
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
            return onnx.load(str(path))
    finally:
        root.level = level


def _approximate_gelu(model: ModelProto) -> None:
    """Replace GELU by ONNX Runtime's `FastGelu`, in place."""
    found = [node for node in model.graph.node if node.op_type == "Gelu" and node.domain in ("", "ai.onnx")]
    for node in found:
        node.op_type, node.domain = "FastGelu", DOMAIN
        del node.attribute[:]
    if found and all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
