"""Engine time of an RGB frame with a reused infrared frame, as a fraction of that of a fresh pair."""

from __future__ import annotations

import logging
import statistics
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.page import markdown_table
from spectradino_core.export.onnx_model import export
from spectradino_core.models.perception import Perception
from spectradino_core.runtime.bundle import beside
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.parity import network_inputs
from spectradino_core.training.recipes import box_real

__all__ = ["engine_table", "random_model"]

THREADS = 2
FRAMES = 15


def random_model(variant: str, size: tuple[int, int], folder: Path) -> Path:
    """Export a model with random weights and the heads of the bundled one, with the network that reuses features."""
    path = folder / f"{variant}_{size[1]}x{size[0]}.onnx"
    if not beside(path, "reuse").is_file():
        torch.manual_seed(0)
        recipe = box_real()
        architecture = replace(recipe.architecture, variant=variant)
        info = recipe.info().with_(variant=variant, input_size=size)
        rgb, infrared = _images(size)
        pairs = [PairedSample(rgb, infrared)]
        model = Perception(architecture).eval()
        export(model, info, path, pairs, features=True)
        export(model, info, beside(path, "reuse"), pairs, streams="reuse")
    return path


def engine_table(models: dict[str, Path]) -> str:
    """Time both networks of each model in turns and return a Markdown table."""
    logging.getLogger("spectradino_core").setLevel(logging.WARNING)
    rows = []
    for name, path in models.items():
        both, reuse = OnnxEngine(path, "cpu", THREADS), OnnxEngine(beside(path, "reuse"), "cpu", THREADS)
        pair = next(network_inputs(*_images(both.info.input_size), both.info))
        both.run(*pair)
        arrays = dict(zip(signature(both.info), pair)) | {"ir_features": both.ir_features}
        reused = [arrays[key] for key in signature(reuse.info)]
        taken: dict[str, list[float]] = {"both": [], "reuse": []}
        for _ in range(FRAMES):
            for key, engine, given in (("both", both, pair), ("reuse", reuse, reused)):
                begun = perf_counter()
                engine.run(*given)
                taken[key].append(1e3 * (perf_counter() - begun))
        fresh, again = (statistics.median(taken[key][2:]) for key in ("both", "reuse"))
        kilobytes = 4 * float(np.prod(both.info.features)) / 1e3
        rows.append([name, fresh, again, f"{again / fresh:.2f}", f"{kilobytes:.0f}"])
    head = ["model", "fresh pair [ms]", "reused IR frame [ms]", "ratio", "features kept [kB]"]
    return markdown_table(head, rows)


def _images(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    return rgb, rng.integers(7000, 9000, (size[1], size[0])).astype(np.uint16)
