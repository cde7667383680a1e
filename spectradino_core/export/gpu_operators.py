"""Replace operators without GPU support: bilinear `Resize`, and `Cast` from integers to uint8.

ONNX Runtime before 1.25 has no CUDA kernel for a linear `Resize`, so each frame's logits would be copied to the host
and back. Bilinear interpolation is linear and separable, so at fixed sizes it is two products with constant matrices:

    y [.., H, W] = rows [H, h] · x [.., h, w] · columns [w, W]

TensorRT casts to uint8 only from floating point, which is exact for class ids.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

UPSAMPLING = "upsampling/"
"""Name prefix of all nodes created here; conversions keep their precision."""


def replace_for_gpus(model: ModelProto) -> int:
    """Replace both kinds of operators in place; return the number of `Resize` operators replaced.

    A `Resize` is replaced if it is linear with half-pixel centres, without antialiasing, and changes only the last two
    of four constant sizes.
    """
    shapes = _shapes(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    count = 0
    for node in model.graph.node:
        sizes = _resize_sizes(node, shapes, constants)
        if sizes is not None:
            nodes += _as_products(model, node, *sizes)
            count += 1
        elif _casts_integers_to_bytes(node, model):
            middle = f"{UPSAMPLING}{node.output[0]}_float"
            nodes.append(
                helper.make_node("Cast", [node.input[0]], [middle], name=f"{middle}_Cast", to=TensorProto.FLOAT)
            )
            node.input[0] = middle
            nodes.append(node)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if count:
        drop_unused(model)
    return count


def bilinear_matrix(size: int, target: int) -> np.ndarray:
    """Return the weights of bilinear interpolation from `size` to `target` samples, float32 [target, size].

    Pixel centres are at halves and borders are clamped; each row sums to 1.
    """
    position = np.clip((np.arange(target) + 0.5) * (size / target) - 0.5, 0, size - 1)
    low = np.minimum(np.floor(position).astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = (position - low).astype(np.float32)
    matrix = np.zeros((target, size), np.float32)
    rows = np.arange(target)
    np.add.at(matrix, (rows, low), 1 - weight)
    np.add.at(matrix, (rows, high), weight)
    return matrix


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}


def _resize_sizes(
    node: NodeProto, shapes: dict[str, list[int]], constants: dict[str, TensorProto]
) -> tuple[list[int], list[int]] | None:
    """Return sizes (h, w) and (H, W) of a `Resize` that can be replaced; None for other nodes."""
    if node.op_type != "Resize":
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    plain = (
        attributes.get("mode") == b"linear"
        and attributes.get("coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
        and not any(attributes.get(name) for name in ("antialias", "exclude_outside", "axes"))
    )
    if not plain:
        return None
    before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
    if len(node.input) > 3 and node.input[3] in constants:
        after = [int(v) for v in numpy_helper.to_array(constants[node.input[3]])]
    if len(before) != 4 or len(after) != 4 or before[:2] != after[:2] or not all((*before, *after)):
        return None
    return before[2:], after[2:]


def _as_products(model: ModelProto, node: NodeProto, before: list[int], after: list[int]) -> list[NodeProto]:
    stem = UPSAMPLING + node.output[0]
    rows, columns, middle = f"{stem}_rows", f"{stem}_columns", f"{stem}_columns_product"
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(bilinear_matrix(before[0], after[0]), rows),
            numpy_helper.from_array(np.ascontiguousarray(bilinear_matrix(before[1], after[1]).T), columns),
        ]
    )
    return [
        helper.make_node("MatMul", [node.input[0], columns], [middle], name=f"{stem}_columns_MatMul"),
        helper.make_node("MatMul", [rows, middle], [node.output[0]], name=f"{stem}_rows_MatMul"),
    ]


def _casts_integers_to_bytes(node: NodeProto, model: ModelProto) -> bool:
    if node.op_type != "Cast" or helper.get_node_attr_value(node, "to") != TensorProto.UINT8:
        return False
    return any(maker.op_type == "ArgMax" and node.input[0] in maker.output for maker in model.graph.node)


def drop_unused(model: ModelProto) -> None:
    """Remove the constants that no node and no output takes."""
    taken = {name for node in model.graph.node for name in node.input} | {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in taken]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
