"""Convert a graph from normalised to raw input images and back: see `runtime.network_inputs`.

    rgb uint8 [1, H, W, 3] ─ cast ─ transpose ─ · gain ─ - bias ─ · inside ─┐
    content int32 [2] ─ which pixels are inside the image ──────────┘       ├─ unchanged network
    ir float32 [1, 1, H, W] ─ · ir_gain ─ clip to [0, 1] ───────────────────┘

A single-stream network gets only its stream's steps. They are those of `runtime.preprocess` in the same order, so that
inputs are bitwise equal on a CPU. The cast comes first because TensorRT accepts uint8 inputs but does not compute with
them. A precision conversion removes these nodes, converts the network and restores them, so they stay in fp32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.runtime.preprocess import RGB_BIAS, RGB_GAIN

_PREFIX = "input/"
"""Name prefix of all nodes and constants created here."""
_IMAGES = {"rgb": _PREFIX + "rgb_normalised", "ir": _PREFIX + "ir_normalised"}
"""Values that the network reads instead of its inputs."""


def take_raw(model: ModelProto, info: ModelInfo) -> None:
    """Prepend the preprocessing steps to a network with normalised inputs, in place; ValueError if it has others."""
    _check(model.graph, info.with_(inputs="normalised"))
    width, height = info.input_size
    constants = {
        "rgb_gain": RGB_GAIN.reshape(1, 3, 1, 1),
        "rgb_bias": RGB_BIAS.reshape(1, 3, 1, 1),
        "columns": np.arange(width, dtype=np.int32).reshape(1, 1, 1, width),
        "rows": np.arange(height, dtype=np.int32).reshape(1, 1, height, 1),
        "zero": np.float32(0),
        "one": np.float32(1),
    }
    of_rgb = [
        _node("Cast", "rgb", "rgb_float", to=TensorProto.FLOAT),
        _node("Transpose", "rgb_float", "rgb_planes", perm=[0, 3, 1, 2]),
        _node("Mul", "rgb_planes rgb_gain", "rgb_scaled"),
        _node("Sub", "rgb_scaled rgb_bias", "rgb_centred"),
        _node("Split", "content", "width height", num_outputs=2),
        _node("Less", "columns width", "in_columns"),
        _node("Less", "rows height", "in_rows"),
        _node("And", "in_columns in_rows", "in_both"),
        _node("Cast", "in_both", "inside", to=TensorProto.FLOAT),
        _node("Mul", "rgb_centred inside", "rgb_normalised"),
    ]
    of_ir = [_node("Mul", "ir ir_gain", "ir_scaled"), _node("Clip", "ir_scaled zero one", "ir_normalised")]
    nodes = {"both": [*of_rgb, *of_ir], "rgb": of_rgb, "reuse": of_rgb, "ir": of_ir}[info.streams]
    read = {name for node in nodes for name in node.input}
    _rename(model.graph, _IMAGES)
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), _PREFIX + name)
        for name, value in constants.items()
        if _PREFIX + name in read
    )
    _declare(model.graph, info.with_(inputs="raw"))


def take_normalised(model: ModelProto, info: ModelInfo) -> None:
    """Remove the steps of `take_raw`, in place; ValueError if the graph has other inputs."""
    graph = model.graph
    _check(graph, info.with_(inputs="raw"))
    nodes = [node for node in graph.node if not node.name.startswith(_PREFIX)]
    constants = [tensor for tensor in graph.initializer if not tensor.name.startswith(_PREFIX)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    _rename(graph, {made: given for given, made in _IMAGES.items()})
    _declare(graph, info.with_(inputs="normalised"))


_GIVEN = ("rgb", "content", "ir", "ir_gain")


def _node(kind: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """Create a node; names of its values are prefixed unless they are graph inputs."""
    named = [name if name in _GIVEN else _PREFIX + name for name in inputs.split()]
    made = [_PREFIX + name for name in outputs.split()]
    return helper.make_node(kind, named, made, name=f"{made[0]}_{kind}", **attributes)


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def _declare(graph: GraphProto, info: ModelInfo) -> None:
    del graph.input[:]
    graph.input.extend(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), shape)
        for name, (kind, shape) in signature(info).items()
    )


def _check(graph: GraphProto, info: ModelInfo) -> None:
    expected = {name: [*shape] for name, (_, shape) in signature(info).items()}
    found = {given.name: [d.dim_value for d in given.type.tensor_type.shape.dim] for given in graph.input}
    if found != expected:
        raise ValueError(f"the graph takes {found}, not the {info.inputs} inputs {expected}")
