"""Fuse attention into ONNX Runtime's operator, which does not materialise the scores.

    S streams    N tokens    D width    h heads

The exporter writes attention as a pattern of about fifteen nodes,

    x [S, N, D] ─ MatMul qkv ─ Add ─ Reshape [S, N, 3, h, D/h] ─ q, k, v ─ q·kᵀ ─ Softmax ─ ·v ─ Reshape [S, N, D]

which is replaced by three projections and `com.microsoft.MultiHeadAttention`. The floating-point operations are the
same, but S·h·N² scores are no longer moved through memory three times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from spectradino_core.export.gpu_operators import drop_unused

DOMAIN = "com.microsoft"


def fuse_attention(model: ModelProto) -> int:
    """Fuse every attention of the pattern above, in place, and return their number; leave other Softmax as it is."""
    graph = _Graph(model)
    fused = [match for node in model.graph.node if node.op_type == "Softmax" and (match := _match(graph, node))]
    removed = {id(node) for match in fused for node in match.nodes}
    at = {id(match.nodes[-1]): match for match in fused}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if id(node) in at:
            nodes += _replacement(model, graph, at[id(node)])
        elif id(node) not in removed:
            nodes.append(node)
    if not fused:
        return 0
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]  # refers to removed values
    import_domain(model)
    drop_unused(model)
    return len(fused)


def import_domain(model: ModelProto) -> None:
    """Declare that the graph uses ONNX Runtime's own operators."""
    if all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


class _Graph:
    """Producers and consumers of a graph's values."""

    def __init__(self, model: ModelProto) -> None:
        self.producer = {name: node for node in model.graph.node for name in node.output}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def value(self, name: str) -> np.ndarray | None:
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def only_consumer(self, name: str, kind: str) -> NodeProto | None:
        consumers = self.consumers.get(name, [])
        return consumers[0] if len(consumers) == 1 and consumers[0].op_type == kind else None


@dataclass(frozen=True)
class _Match:
    """Matched attention: its nodes (the last produces the result) and the operator's arguments."""

    nodes: list[NodeProto]
    source: str
    weight: str
    bias: str
    heads: int
    scale: float


def _match(graph: _Graph, softmax: NodeProto) -> _Match | None:
    scores = graph.producer.get(softmax.input[0])
    weighted = graph.only_consumer(softmax.output[0], "MatMul")
    if scores is None or scores.op_type != "MatMul" or weighted is None:
        return None
    nodes = [scores, softmax, weighted]
    scale, split = 1.0, None
    for place, name in enumerate((*scores.input, weighted.input[1])):  # q, k, v
        path = _to_split(graph, name)
        if path is None or _place(graph, path[0]) != place:
            return None
        steps, factor = path
        scale *= factor
        if split is not None and steps[0] is not split:
            return None
        split = steps[0]
        nodes += [step for step in steps if all(step is not node for node in nodes)]
    swap = graph.only_consumer(weighted.output[0], "Transpose")
    merge = None if swap is None else graph.only_consumer(swap.output[0], "Reshape")
    add = None if split is None else graph.producer.get(split.input[0])
    if split is None or swap is None or merge is None or add is None or add.op_type != "Add":
        return None
    matmul = next((graph.producer[name] for name in add.input if name in graph.producer), None)
    bias = next((name for name in add.input if name in graph.constants), None)
    shape = graph.value(split.input[1])
    if matmul is None or bias is None or shape is None or matmul.op_type != "MatMul":
        return None
    weight = graph.value(matmul.input[1])
    heads, width = int(shape[3]), int(shape[3] * shape[4])
    if weight is None or weight.shape != (width, 3 * width):
        return None
    return _Match([*nodes, swap, add, matmul, merge], matmul.input[0], matmul.input[1], bias, heads, scale)


def _to_split(graph: _Graph, name: str) -> tuple[list[NodeProto], float] | None:
    """Find the nodes from the reshape to [S, N, 3, h, D/h] to the value `name`, and the scale applied to it."""
    steps: list[NodeProto] = []
    factor = 1.0
    while (node := graph.producer.get(name)) is not None:
        steps.insert(0, node)
        if node.op_type == "Mul":
            value = graph.value(node.input[1])
            if value is None or value.size != 1:
                return None
            factor *= float(value.reshape(()))
        elif node.op_type == "Reshape":
            shape = graph.value(node.input[1])
            if shape is not None and len(shape) == 5 and shape[2] == 3:
                return steps, factor
        elif node.op_type not in ("Transpose", "Slice", "Squeeze"):
            return None
        name = node.input[0]
    return None


def _place(graph: _Graph, steps: list[NodeProto]) -> int | None:
    """Index of the slice taken by these nodes: q 0, k 1, v 2."""
    slices = [graph.value(node.input[1]) for node in steps if node.op_type == "Slice"]
    return int(slices[0].reshape(())) if len(slices) == 1 and slices[0] is not None else None


def _replacement(model: ModelProto, graph: _Graph, match: _Match) -> list[NodeProto]:
    weight = graph.value(match.weight)
    assert weight is not None
    result = match.nodes[-1].output[0]
    width = weight.shape[0]
    nodes, inputs = [], []
    for place, letter in enumerate("qkv"):
        part = f"{match.weight}_{result}_{letter}"
        columns = np.ascontiguousarray(weight[:, place * width : (place + 1) * width])
        model.graph.initializer.append(numpy_helper.from_array(columns, part))
        projected = f"{result}_{letter}"
        nodes.append(helper.make_node("MatMul", [match.source, part], [projected], name=projected))
        inputs.append(projected)
    fused = helper.make_node(
        "MultiHeadAttention",
        [*inputs, match.bias],
        [result],
        name=f"{result}_attention",
        domain=DOMAIN,
        num_heads=match.heads,
        scale=match.scale,
    )
    return [*nodes, fused]
