"""Detector benchmark: the same detector with different pyramid strides, in ONNX Runtime on the CPU.

Weights are random, so accuracy is not measured; use `evaluate` for the benefit of the finest level.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from spectradino_core.bench.limits import operations
from spectradino_core.bench.tables import Row
from spectradino_core.bench.timing import Case, peak_memory_mb, take_turns
from spectradino_core.data.scene_sets import ScenePairs
from spectradino_core.export.onnx_model import export
from spectradino_core.modality import Modality
from spectradino_core.models.perception import Perception
from spectradino_core.runtime.engine import warm_up
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.training.downstream import downstream_recipe

REFERENCE = "7-28"
"""Default of `finetune`."""
STRIDES = (REFERENCE, "fast")


def detector_rows(variant: str, size: tuple[int, int], folder: Path, rounds: int, memory: bool = True) -> list[Row]:
    """Measure one row per preset: anchor points, operations, time, ratio to `REFERENCE`, peak memory.

    Arguments are those of `backbone.backbone_rows`.
    """
    given: dict[str, Any] = {"variant": variant, "height": size[0], "width": size[1], "folder": str(folder)}
    timings = take_turns({name: case(strides=name, **given) for name in STRIDES}, rounds)
    rows: list[Row] = []
    for name, timing in timings.items():
        anchors, work = _work(variant, name, size)
        row: Row = {"variant": variant, "height": size[0], "width": size[1], "strides": name}
        row |= {"cells": anchors, "gflop": work / 1e9} | timing.columns()
        row["ratio"] = timing.median_ms / timings[REFERENCE].median_ms
        rows.append(row)
    for row in rows:
        row["peak_mb"] = peak_memory_mb(__name__, given | {"strides": row["strides"]}) if memory else "-"
    return rows


def case(strides: str, variant: str, height: int, width: int, folder: str) -> Case:
    """Prepare the exported detector, to run on blank images."""
    path = Path(folder) / f"detector_{variant}_{height}x{width}_{strides}.onnx"
    if not path.is_file():
        recipe = downstream_recipe("scenes", "detection", variant, strides=strides)
        torch.manual_seed(0)
        model = Perception(recipe.architecture)
        pair = ScenePairs.held_out("report", 1, model.infrared, (width, height))[0]
        export(model, replace(recipe, input_size=(width, height)).info(), path, [pair])
    return partial(warm_up, OnnxEngine(path, device="cpu"))


def _work(variant: str, strides: str, size: tuple[int, int]) -> tuple[int, float]:
    """Count the detector's anchor points and the FLOP per pair, on meta tensors."""
    with torch.device("meta"), torch.no_grad():
        model = Perception(downstream_recipe("scenes", "detection", variant, strides=strides).architecture).eval()
        images = {Modality.RGB: torch.randn(1, 3, *size), model.infrared: torch.rand(1, 1, *size)}
        logits = model(images).logits
        assert logits is not None  # the architecture has a detection head
        return logits.shape[1], operations(model, images)
