"""What reuse of infrared frames gives: results and mAP50 over all RGB frames, by pairing policy and infrared rate.

    python -m benchmarks.reuse --out runs/reuse             # two night recordings of 8 s, 30/9 and 30/30 Hz
    python -m benchmarks.reuse --out runs/reuse --engine    # engine time of a reused frame beside a fresh pair
    python -m benchmarks.reuse --out runs/reuse --motion    # a turning camera, with and without compensation

Finished recordings and evaluations in the output folder are kept.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from benchmarks.experiment import parser_of, run_main
from benchmarks.reuse.turning import turning_table
from spectradino_core.cli import main as spectradino
from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.page import markdown_table
from spectradino_core.export.onnx_model import export
from spectradino_core.models.perception import Perception
from spectradino_core.options import POSITIVE
from spectradino_core.runtime.bundle import companion_path
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.parity import network_inputs
from spectradino_core.training.recipes import box_real

SEEDS = (9_000_001, 9_000_002)
CASES = ((9, "one_to_one"), (9, "nearest"), (9, "latest"), (30, "one_to_one"), (30, "latest"))
"""Infrared rate [Hz] beside RGB at 30 Hz, and pairing policy."""
THREADS = 2
FRAMES = 15


def random_model(variant: str, size: tuple[int, int], folder: Path) -> Path:
    """Export a model with random weights and the heads of the bundled one, with the network that reuses features."""
    path = folder / f"{variant}_{size[1]}x{size[0]}.onnx"
    if not companion_path(path, "reuse").is_file():
        torch.manual_seed(0)
        recipe = box_real()
        architecture = replace(recipe.architecture, variant=variant)
        info = recipe.info().with_(variant=variant, input_size=size)
        rgb, infrared = _images(size)
        pairs = [PairedSample(rgb, infrared)]
        model = Perception(architecture).eval()
        export(model, info, path, pairs, features=True)
        export(model, info, companion_path(path, "reuse"), pairs, streams="reuse")
    return path


def engine_table(models: dict[str, Path]) -> str:
    """Time both networks of each model in turns and return a Markdown table."""
    logging.getLogger("spectradino_core").setLevel(logging.WARNING)
    rows = []
    for name, path in models.items():
        both, reuse = OnnxEngine(path, "cpu", THREADS), OnnxEngine(companion_path(path, "reuse"), "cpu", THREADS)
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


def recording(folder: Path, seed: int, ir_rate: int, duration_s: float) -> Path:
    """Render a night recording."""
    bag = folder / f"{seed}_{ir_rate}hz.mcap"
    if not bag.is_file():
        words = f"--duration {duration_s:g} --time-of-day night --seed {seed} --ir-rate {ir_rate}".split()
        spectradino(["bag", "make", "--from", "scenes", "--out", str(bag), *words])
    return bag


def evaluated(bag: Path, model: Path, pairing: str, folder: Path) -> dict:
    """Evaluate a recording and return its `result.json`."""
    out = folder / f"{bag.stem}_{pairing}"
    words = ["--model", str(model), "--out", str(out), "--pairing", pairing]
    if spectradino(["bag", "evaluate", str(bag), *words]):
        raise SystemExit(f"bag evaluate failed on {bag}")
    return json.loads((out / "result.json").read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("reuse", __doc__, Path("runs/reuse"))
    parser.add_argument("--model", type=Path, default=Path("models/lwir_box.onnx"), help="default: %(default)s")
    parser.add_argument(
        "--duration", type=POSITIVE, default=8.0, help="seconds of each recording (default: %(default)s)"
    )
    parser.add_argument("--motion", action="store_true", help="measure compensation of camera motion instead")
    parser.add_argument("--engine", action="store_true", help="measure engine time instead")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    name = "engine" if options.engine else "turning" if options.motion else "pairing"
    if options.engine:
        small = random_model("s", (490, 392), options.out)
        table = engine_table({options.model.stem: options.model, "S at 392x490": small})
    elif options.motion:
        table = turning_table(options.model, SEEDS, options.duration)
    else:
        rows = []
        for seed in SEEDS:
            for ir_rate, pairing in CASES:
                bag = recording(options.out, seed, ir_rate, options.duration)
                total = evaluated(bag, options.model, pairing, options.out)["total"]
                scores, error = total["scores"], total["pairing"]["absolute_error_ms"]
                rows.append(
                    [
                        f"{seed}", f"30/{ir_rate}", pairing,
                        100 * scores["frames"]["answered"] / scores["frames"]["scored"],
                        100 * scores["all"]["map50"], error["p50"], error["p95"], total["pairing"]["wait_ms"]["p95"],
                    ]
                )  # fmt: skip
        head = ["recording", "Hz", "pairing", "frames with a result [%]", "mAP50 over all frames"]
        head += ["age of the IR frame, median [ms]", "p95 [ms]", "wait, p95 [ms]"]
        table = markdown_table(head, rows)
    (options.out / f"{name}.md").write_text(table, encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    run_main(main)
