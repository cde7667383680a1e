"""Half precision for GPUs: matrix products and convolutions in fp16, everything that sums or decodes in fp32.

What stays in fp32, and why: LayerNorm, softmax and the stems' instance norm sum over many values, and their rounding
would be carried from block to block. Boxes are decoded by an exponential, scores by a sigmoid, and a position of some
hundred pixels leaves 11 bits no fraction. The network's inputs and outputs stay fp32 too, so that one pipeline serves
any file.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from spectradino_core.gpu_operators import UPSAMPLING

__all__ = ["halve"]

_FULL = ("LayerNormalization", "Softmax", "ReduceMean", "Pow", "Sqrt", "Reciprocal", "Resize", "ArgMax", "Where")
_HEAVY = ("Conv", "MatMul", "Gemm", "MultiHeadAttention", "ConvTranspose")


def halve(model: ModelProto) -> ModelProto:
    """A copy of the graph in half precision."""
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
    del half.graph.value_info[:]  # the converter leaves the kinds that were
    OnnxModel.graph_topological_sort(half.graph)  # and lays its casts behind the nodes that read them
    return half


def _decoding(model: ModelProto) -> list[NodeProto]:
    """From each output back to the first product or convolution, which is not one of them."""
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
    """Bilinear interpolation, which was in fp32 as a `Resize` too."""
    return [node for node in model.graph.node if node.name.startswith(UPSAMPLING)]


def _instance_norm(model: ModelProto) -> list[NodeProto]:
    """From the stem's last convolution to where the streams are joined: mean, variance, their use, gain and offset."""
    takers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    found: dict[str, NodeProto] = {}
    todo = [node for node in model.graph.node if node.op_type == "ReduceMean"]
    while todo:
        node = todo.pop()
        if node.op_type in ("Concat", *_HEAVY) or node.name in found:
            continue
        found[node.name] = node
        todo += [taker for name in node.output for taker in takers.get(name, [])]
    centred = {name for node in found.values() for name in node.input}
    for node in model.graph.node:  # x - mean: its mean is in, x comes from the convolution
        if node.op_type == "Sub" and any(name in centred for name in node.output):
            found[node.name] = node
    return list(found.values())
