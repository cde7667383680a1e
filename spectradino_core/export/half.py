"""Half precision for GPUs: matrix products and convolutions in fp16, reductions and decoding in fp32.

LayerNorm, softmax and the stems' instance norm stay in fp32 because they sum over many values and their rounding errors
would accumulate over blocks. Decoding of boxes (exponential) and scores (sigmoid) stays in fp32 because 11 bits leave
no fraction for positions of several hundred pixels. Inputs and outputs stay in fp32 so that one pipeline serves all
files.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from spectradino_core.export.gpu_operators import UPSAMPLING

__all__ = ["halve"]

_FULL = ("LayerNormalization", "Softmax", "ReduceMean", "Pow", "Sqrt", "Reciprocal", "Resize", "ArgMax", "Where")
_HEAVY = ("Conv", "MatMul", "Gemm", "MultiHeadAttention", "ConvTranspose")


def halve(model: ModelProto) -> ModelProto:
    """Return a copy of the graph in half precision."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    copy = ModelProto()
    copy.CopyFrom(model)
    half = convert_float_to_float16(
        copy,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_FULL],
        node_block_list=sorted(
            {node.name for node in (*_decoding(model), *_instance_norm(model), *_upsampling(model))}
        ),
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


def _upsampling(model: ModelProto) -> list[NodeProto]:
    """Return the nodes of bilinear interpolation, which stays in fp32 like `Resize`."""
    return [node for node in model.graph.node if node.name.startswith(UPSAMPLING)]


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
