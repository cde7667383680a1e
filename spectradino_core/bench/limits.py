"""Limits of a CPU: the rates of matrix products by library and precision, timed like the cases they are compared with.

Letters: n x n factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spectradino_core.bench.tables import Row
from spectradino_core.bench.timing import Case, Timing
from spectradino_core.models.vit import ViT
from spectradino_core.runtime.openvino_engine import openvino_config, openvino_core
from spectradino_core.training.loop import has_bf16

PRODUCTS = (
    "torch fp32",
    *(("torch bf16",) if has_bf16(torch.device("cpu")) else ()),
    "onnx fp32",
    "onnx int8",
    *(("openvino fp32", "openvino bf16") if find_spec("openvino") else ()),
)
"""Libraries and precisions whose products are timed; torch emulates bf16 where a processor has none, for minutes."""
SIDE = 1024
CHAIN = 8
"""Products in a row, each with a constant right factor as in a layer of a network."""
REPEATS = 4
"""Of these in a run, so that it is not over before caches and clocks have settled from the case before it."""


def operations(model: nn.Module, *inputs: Any) -> float:
    """Count the FLOP of a pass; model and inputs may be on the meta device."""
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return float(counter.get_total_flops())


def twice_plain(variant: str, size: tuple[int, int]) -> float:
    """Count the FLOP of two passes of a plain ViT on an image of `size` (H, W)."""
    with torch.device("meta"):
        return 2 * operations(ViT(variant).eval(), torch.randn(1, 3, *size))


def product(name: str, folder: Path, side: int = SIDE) -> Case:
    """Prepare one of `PRODUCTS`, `REPEATS` runs of `CHAIN` products; it returns the last results.

    Graphs are cached in `folder`; `side` is n.
    """
    once = _products(name, folder, side)
    return lambda: [once() for _ in range(REPEATS)][-1]


def _products(name: str, folder: Path, side: int) -> Case:
    library, precision = name.split()
    if library == "torch":
        return _in_torch(torch.bfloat16 if precision == "bf16" else torch.float32, side)
    is_int8 = precision == "int8"
    path = _graph(folder / f"product_{'int8' if is_int8 else 'fp32'}_{side}.onnx", is_int8, side)
    rng = np.random.default_rng(0)
    left = rng.integers(0, 255, (side, side), np.uint8) if is_int8 else rng.random((side, side), np.float32)
    if library == "openvino":
        return in_openvino(path, precision, {"left": left})
    return partial(cpu_session(path).run, None, {"left": left})


def limit_rows(timings: Mapping[str, Timing], side: int = SIDE) -> list[Row]:
    """Return a row per product with its rate in GFLOP/s (int8: 10^9 operations a second)."""
    work = REPEATS * CHAIN * 2 * side**3
    rows: list[Row] = []
    for name, timing in timings.items():
        library, precision = name.split()
        row: Row = {"library": library, "precision": precision} | timing.columns()
        rows.append(row | {"gflop_per_s": work / timing.median_ms / 1e6})
    return rows


def best_rates(rows: list[Row]) -> dict[str, float]:
    """Return the highest rate in GFLOP/s by precision."""
    best: dict[str, float] = {}
    for row in rows:
        rate = row["gflop_per_s"]
        assert isinstance(rate, float)
        best[str(row["precision"])] = max(best.get(str(row["precision"]), 0.0), rate)
    return best


def cpu_session(path: Path, spinning: bool = False) -> Any:
    """Open a graph in ONNX Runtime on the CPU; `spinning` threads busy-wait within a run, but not between runs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    if spinning:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])


def in_openvino(path: Path, precision: str, inputs: dict[str, np.ndarray]) -> Case:
    """Compile a graph in OpenVINO for the CPU and return a run of it on `inputs`."""
    compiled = openvino_core().compile_model(str(path), "CPU", openvino_config("CPU", precision))
    request = compiled.create_infer_request()
    return lambda: list(request.infer(inputs, share_inputs=True).values())


def _in_torch(kind: torch.dtype, side: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    left, right, out = (torch.randn(side, side, generator=generator).to(kind) for _ in range(3))

    @torch.inference_mode()
    def run() -> None:
        for _ in range(CHAIN):
            torch.mm(left, right, out=out)

    return run


def _graph(path: Path, is_int8: bool, side: int) -> Path:
    """Write a graph of `CHAIN` products: a chain in fp32; int8, with int32 results, shares the left factor."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from spectradino_core.export.onnx_model import OPSET

    if path.is_file():
        return path
    rng = np.random.default_rng(1)
    nodes, constants, last = [], [], "left"
    for index in range(CHAIN):
        right, out = f"right_{index}", f"out_{index}"
        if is_int8:
            # 7 bits, as in converted models: products of 8 bits overflow on processors with AVX2 but without VNNI
            constants.append(numpy_helper.from_array(rng.integers(-63, 64, (side, side), np.int8), right))
            nodes.append(helper.make_node("MatMulInteger", ["left", right], [out]))
        else:
            values = rng.standard_normal((side, side), np.float32) / np.float32(side**0.5)  # keeps the variance
            constants.append(numpy_helper.from_array(values, right))
            nodes.append(helper.make_node("MatMul", [last, right], [out]))
            last = out
    kind = TensorProto.UINT8 if is_int8 else TensorProto.FLOAT
    results = [f"out_{index}" for index in range(CHAIN)] if is_int8 else [last]
    left = helper.make_tensor_value_info("left", kind, [side, side])
    kind = TensorProto.INT32 if is_int8 else kind
    outputs = [helper.make_tensor_value_info(one, kind, [side, side]) for one in results]
    graph = helper.make_graph(nodes, "products", [left], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path
