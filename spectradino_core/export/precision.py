"""Conversions of a graph's precision: 8-bit weights for CPUs, half precision for GPUs."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto

from spectradino_core.export.attention import DOMAIN, import_domain
from spectradino_core.export.gpu_operators import UPSAMPLING

WEIGHT_BITS = 7
_FULL = ("LayerNormalization", "Softmax", "ReduceMean", "Pow", "Sqrt", "Reciprocal", "Resize", "ArgMax", "Where")
_HEAVY = ("Conv", "MatMul", "Gemm", "MultiHeadAttention", "ConvTranspose")


def quantise_weights(model: ModelProto) -> tuple[ModelProto, int]:
    """Quantise matrix products with constant weights to int8, for CPUs with VNNI or ARM's dot product.

    Weights are quantised to 7 bits with a scale per output channel: x86 CPUs without VNNI add two products of bytes in
    16 bits, which saturate with 8, and a file made on one machine is served on another. Activations are quantised at
    run time with a scale per tensor, which requires no calibration data and cannot clip. The adapters are batched
    products with a weight per stream, for which ONNX Runtime supports only one scale per tensor; that suffices, since
    they change the features only slightly. Attention scores, norms, stems and convolutions stay in fp32.

    Returns:
        A converted copy of the graph, and the number of quantised products.

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
    """Replace GELU by its faster tanh form, which deviates by 5e-4, an eighth of an int8 step over -4..4; in place."""
    found = [node for node in model.graph.node if node.op_type == "Gelu" and node.domain in ("", "ai.onnx")]
    for node in found:
        node.op_type, node.domain = "FastGelu", DOMAIN
        del node.attribute[:]
    if found:
        import_domain(model)


def halve(model: ModelProto) -> ModelProto:
    """Return a copy of the graph with matrix products and convolutions in fp16.

    LayerNorm, softmax and the stems' instance norm stay in fp32 because they sum over many values and their rounding
    errors would accumulate over blocks; so does the decoding of boxes (exponential) and scores (sigmoid), because 11
    bits leave no fraction for positions of several hundred pixels. Inputs and outputs stay in fp32 so that one pipeline
    serves all files.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    upsampling = [node for node in model.graph.node if node.name.startswith(UPSAMPLING)]
    copy = ModelProto()
    copy.CopyFrom(model)
    half = convert_float_to_float16(
        copy,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_FULL],
        node_block_list=sorted({node.name for node in (*_decoding(model), *_instance_norm(model), *upsampling)}),
    )
    del half.graph.value_info[:]  # the converter keeps the old types
    OnnxModel.graph_topological_sort(half.graph)  # and appends its casts after the nodes that read them
    return half


def _decoding(model: ModelProto) -> list[NodeProto]:
    """Return the nodes between the last matrix products or convolutions (exclusive) and the outputs."""
    maker = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, NodeProto] = {}
    todo = [output.name for output in model.graph.output]
    while todo:
        node = maker.get(todo.pop())
        if node is None or node.name in found:
            continue
        if node.op_type in _HEAVY and not node.name.startswith(UPSAMPLING):
            continue
        found[node.name] = node
        todo += node.input
    return list(found.values())


def _instance_norm(model: ModelProto) -> list[NodeProto]:
    """Return the nodes of the stem's instance norm, from its last convolution to the concatenation of the streams."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, NodeProto] = {}
    todo = [node for node in model.graph.node if node.op_type == "ReduceMean"]
    while todo:
        node = todo.pop()
        if node.op_type in ("Concat", *_HEAVY) or node.name in found:
            continue
        found[node.name] = node
        todo += [reader for name in node.output for reader in readers.get(name, [])]
    centred = {name for node in found.values() for name in node.input}
    for node in model.graph.node:  # x - mean: the mean is included already, x is the convolution's output
        if node.op_type == "Sub" and any(name in centred for name in node.output):
            found[node.name] = node
    return list(found.values())
