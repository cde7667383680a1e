"""Weights in 8 bits for CPUs that multiply bytes fast (AVX-512 VNNI, AVX-VNNI, ARM dot product).

Weights are quantised once, a scale per output channel; activations by their range, tensor by tensor, as they come: that
needs no calibration data and cannot clip. Attention's scores, norms, stems and convolutions stay in fp32, and so do the
adapters: for batched matrix products ONNX Runtime has no scales per channel, and they are 4 % of the work.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto

__all__ = ["quantise_weights"]


def quantise_weights(model: ModelProto) -> tuple[ModelProto, int]:
    """A copy of a graph whose matrix products with constant weights [D, E] run in 8 bits, and how many those are.

    Raises:
        ValueError: there is no such product in the graph.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    shapes = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    chosen = [node.name for node in model.graph.node if node.op_type == "MatMul" and shapes.get(node.input[1], 0) == 2]
    if not chosen:
        raise ValueError("the graph has no matrix product with constant weights: nothing to quantise")
    root = logging.getLogger()
    level, root.level = root.level, logging.ERROR  # it recommends a shape inference that a static graph does not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantised.onnx"
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=chosen,
                per_channel=True,
                weight_type=QuantType.QInt8,
                # shape inference does not know what comes out of fused attention
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
            return onnx.load(str(path)), len(chosen)
    finally:
        root.level = level
