"""Model file with known results: it detects red objects in the RGB frame and bright objects in the IR frame.

A real ONNX graph with the signature of an exported model, run by the real engine, for tests of the node, the pipeline
and the demo that check pixel positions. For each stream it returns one box, the extent of all pixels above a threshold,
and a mask with 1 where the RGB frame is red and 2 where the IR frame is bright.

An RGB frame whose top left pixel is pure green makes the graph fail at run time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from spectradino_core.export.raw_inputs import take_raw
from spectradino_core.modality import Modality
from spectradino_core.runtime.bundle import METADATA_KEY, ModelInfo
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.thermal import ThermalContract

__all__ = ["HOT_SCORE", "RED_SCORE", "blob_info", "make_blob_model"]

RED_SCORE = 0.8
HOT_SCORE = 0.9
"""Scores of a red blob (class 0) and of a hot one (class 1)."""

_INFINITE = np.iinfo(np.int64).max


def blob_info(input_size: tuple[int, int] = (644, 476), **changes) -> ModelInfo:
    """Return the description of the blob model; `changes` are other fields of ModelInfo."""
    return ModelInfo(
        name="blob",
        variant="tiny",
        bands=(Modality.RGB, Modality.LWIR),
        box_classes=("red", "hot"),
        mask_classes=("background", "red", "hot"),
        palette=((0, 0, 0), (255, 0, 0), (255, 255, 255)),
        input_size=input_size,
        thermal=ThermalContract(),
        score_threshold=0.5,
    ).with_(**changes)


def make_blob_model(path: str | Path, input_size: tuple[int, int] = (644, 476), work: int = 0, **changes) -> Path:
    """Writes the blob model.

    Args:
        path: the file to write.
        input_size: (width, height) of the network's input, multiples of 14.
        work: products of two 1000 x 1000 matrices made for nothing on each frame, for a model that is slow.
        changes: other fields of ModelInfo; without them it takes raw inputs, as exported models do. With `streams` it
            sees one camera alone, and nothing where the other is; or, with "reuse", the infrared image as features,
            which it gives where `features` is set.
    """
    info = blob_info(input_size, **{"inputs": "raw"} | changes)
    width, height = input_size
    graph = _Graph()
    # Channel planes of the RGB frame, still normalised: red minus blue is above 2 only where there is much red.
    arrays = signature(info.with_(inputs="normalised"))
    nothing = {"rgb": np.zeros((1, 3, height, width)), "ir": np.zeros((1, 1, height, width)), "present": np.eye(2)}
    streams = ["rgb", "ir"]
    nothing["present"] = nothing["present"][streams.index(info.streams)] if info.streams in streams else np.ones(2)
    seen = {name: name if name in arrays else graph.constant(np.float32(nothing[name])) for name in nothing}
    if info.streams == "reuse":
        seen["ir"] = graph.op("Reshape", "ir_features", graph.ints(1, 1, height, width))
    red, green, blue = (graph.slice(seen["rgb"], start, start + 1, axis=1) for start in range(3))
    red_map = graph.greater(graph.op("Sub", red, blue), 2.0)
    hot_map = graph.greater(seen["ir"], 0.5)

    boxes, scores = [], []
    for index, (plane, score) in enumerate(((red_map, RED_SCORE), (hot_map, HOT_SCORE))):
        as_float = graph.op("Cast", plane, to=TensorProto.FLOAT)
        any_pixel = graph.op("Reshape", graph.op("ReduceMax", as_float, keepdims=0), graph.ints(1))
        along_x = graph.op("Reshape", graph.op("ReduceMax", as_float, graph.ints(2), keepdims=0), graph.ints(width))
        along_y = graph.op("Reshape", graph.op("ReduceMax", as_float, graph.ints(3), keepdims=0), graph.ints(height))
        corners = [
            graph.op("ArgMax", along_x, axis=0, keepdims=1),
            graph.op("ArgMax", along_y, axis=0, keepdims=1),
            graph.op("Add", graph.op("ArgMax", along_x, axis=0, keepdims=1, select_last_index=1), graph.ints(1)),
            graph.op("Add", graph.op("ArgMax", along_y, axis=0, keepdims=1, select_last_index=1), graph.ints(1)),
        ]
        box = graph.op("Cast", graph.op("Concat", *corners, axis=0), to=TensorProto.FLOAT)
        boxes.append(graph.op("Reshape", box, graph.ints(1, 4)))
        there = graph.op("Mul", any_pixel, graph.slice(seen["present"], index, index + 1, axis=0))
        one_hot = np.zeros((1, 2), np.float32)
        one_hot[0, index] = score
        scores.append(graph.op("Mul", graph.op("Reshape", there, graph.ints(1, 1)), graph.constant(one_hot)))

    # The first pixel's green minus its red is above 3 only where it is pure green: then an index out of range is taken.
    corner = [graph.slice(graph.slice(plane, 0, 1, axis=2), 0, 1, axis=3) for plane in (green, red)]
    poisoned = graph.op("Cast", graph.greater(graph.op("Sub", *corner), 3.0), to=TensorProto.INT64)
    bad_index = graph.op("Mul", poisoned, graph.ints(1000))
    one = graph.op("Gather", graph.constant(np.ones(1, np.float32)), graph.op("Reshape", bad_index, graph.ints(1)))
    for _ in range(work):  # of the input, or the optimiser would compute it once and for all
        matrix = graph.op("Mul", graph.constant(np.full((1000, 1000), 1e-3, np.float32)), one)
        product = graph.op("ReduceMax", graph.op("MatMul", matrix, matrix), keepdims=0)
        one = graph.op(
            "Mul", one, graph.op("Cast", graph.op("Cast", product, to=TensorProto.BOOL), to=TensorProto.FLOAT)
        )

    graph.op("Concat", *boxes, axis=0, output="boxes")
    graph.op("Mul", graph.op("Concat", *scores, axis=0), one, output="scores")
    labels = graph.op("Where", hot_map, graph.constant(np.float32(2)), graph.op("Cast", red_map, to=TensorProto.FLOAT))
    flat = graph.op("Reshape", labels, graph.ints(height, width))
    graph.op("Cast", flat, to=TensorProto.UINT8, output="mask")

    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [2, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [2, 2]),
        helper.make_tensor_value_info("mask", TensorProto.UINT8, [height, width]),
    ]
    if info.features and info.streams == "both":
        graph.op("Reshape", seen["ir"], graph.ints(*info.features), output="ir_features")
        outputs.append(helper.make_tensor_value_info("ir_features", TensorProto.FLOAT, info.features))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "blob",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (_, shape) in arrays.items()],
            outputs,
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    if info.inputs == "raw":
        take_raw(model, info)
    helper.set_model_props(model, {METADATA_KEY: info.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return Path(path)


class _Graph:
    """Nodes and constants with generated names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes) -> str:
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def greater(self, tensor: str, threshold: float) -> str:
        return self.op("Greater", tensor, self.constant(np.float32(threshold)))

    def slice(self, tensor: str, start: int, stop: int, axis: int) -> str:
        return self.op("Slice", tensor, self.ints(start), self.ints(min(stop, _INFINITE)), self.ints(axis))
