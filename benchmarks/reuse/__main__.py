"""What reuse of infrared frames gives: results and mAP50 over all RGB frames, by pairing policy and infrared rate.

    python -m benchmarks.reuse --out runs/reuse             # two night recordings of 8 s, 30/9 and 30/30 Hz
    python -m benchmarks.reuse --out runs/reuse --engine    # engine time of a reused frame beside a fresh pair
    python -m benchmarks.reuse --out runs/reuse --motion    # a turning camera, with and without compensation

Finished recordings and evaluations in the output folder are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reuse.engine import engine_table, random_model
from benchmarks.reuse.turning import turning_table
from spectradino_core.cli import main as spectradino
from spectradino_core.evaluation.page import markdown_table

SEEDS = (9_000_001, 9_000_002)
CASES = ((9, "one_to_one"), (9, "nearest"), (9, "latest"), (30, "one_to_one"), (30, "latest"))
"""Infrared rate [Hz] beside RGB at 30 Hz, and pairing policy."""


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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reuse", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/lwir_box.onnx"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/reuse"), help="default: %(default)s")
    parser.add_argument("--duration", type=float, default=8.0, help="seconds of each recording (default: %(default)s)")
    parser.add_argument("--motion", action="store_true", help="measure compensation of camera motion instead")
    parser.add_argument("--engine", action="store_true", help="measure engine time instead")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
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
    (options.out / ("engine.md" if options.engine else "turning.md" if options.motion else "pairing.md")).write_text(
        table, encoding="utf-8"
    )
    print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
