"""The bundled LWIR model in a given time: measure the speed, choose the number of steps, train, and export.

    python -m benchmarks.train_lwir --data DIR --minutes 10 --device cuda --batch 64 --workers 14  # GPU
    python -m benchmarks.train_lwir --data DIR --minutes 600                      # CPU, overnight

The recipe is `box_real`. A larger batch raises its learning rates by the square root of the ratio. A short trial of
both input sizes gives the time of a step; the schedule then ends within the minutes, whatever the machine. Stopped and
started again with the same `--out`, it resumes with the steps that were chosen first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.experiment import parser_of, run_main
from spectradino_core.options import COUNT, NATURAL, POSITIVE
from spectradino_core.training.finetune import finetune
from spectradino_core.training.recipes import FinetuneRecipe, box_real

_TRIAL = 24
"""Steps of the trial; the first rows of its log hold what happens once, such as reading the data."""
_ROOM = 0.85
"""Fraction of the time that steps may take: the rest is for rendering, scores at checkpoints and the export."""


def recipe_for(batch: int, pool: int) -> FinetuneRecipe:
    """Return `box_real` at another batch size and number of synthetic scenes."""
    recipe = box_real()
    gain = (batch / recipe.batch) ** 0.5
    lr = {group: rate * gain for group, rate in recipe.lr.items()}
    return replace(recipe, batch=batch, lr=lr, scene_pool=pool)


def steps_for(minutes: float, log: Path) -> int:
    """Return how many steps fit into the time, by the log of a trial."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    rates = [(row["step"], row["step"] / row["steps_per_s"]) for row in rows if row.get("steps_per_s")]
    (first, early), (last, late) = rates[0], rates[-1]
    return max(_TRIAL, int(_ROOM * 60 * minutes * (last - first) / max(late - early, 1e-3)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("train_lwir", __doc__, Path("runs/train_lwir"))
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--minutes", type=POSITIVE, required=True, help="time that the whole may take")
    parser.add_argument("--start", type=Path, default=Path("models/lwir_box.safetensors"), help="default: %(default)s")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--batch", type=COUNT, default=8, help="images per step (default: %(default)s)")
    parser.add_argument("--workers", type=NATURAL, default=1, help="processes that make batches (default: %(default)s)")
    parser.add_argument("--scene-pool", type=COUNT, default=600, help="scenes, which every worker renders for itself")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    recipe = recipe_for(options.batch, options.scene_pool)
    given = (options.data, options.start, options.device, options.workers)
    chosen = options.out / "steps.json"
    if not chosen.is_file():
        trial = replace(recipe.loop, steps=_TRIAL, warmup=4, log_every=4, checkpoint_every=_TRIAL)
        finetune(replace(recipe, loop=trial), options.out / "trial", *given)
        steps = steps_for(options.minutes, options.out / "trial" / "log.jsonl")
        chosen.write_text(json.dumps({"steps": steps, "minutes": options.minutes}) + "\n", encoding="utf-8")
    steps = int(json.loads(chosen.read_text(encoding="utf-8"))["steps"])
    loop = replace(
        recipe.loop,
        steps=steps,
        warmup=min(recipe.loop.warmup, steps // 10),
        checkpoint_every=max(1, steps // 8),
        ema=min(recipe.loop.ema, 1 - 4 / max(steps, 8)),
    )
    path = finetune(replace(recipe, loop=loop), options.out, *given)
    export = f"spectradino export --model {path} --out {options.out / 'lwir_box.onnx'}"
    print(f"{path}: {steps} steps of {options.batch}. Next: {export}")
    return 0


if __name__ == "__main__":
    run_main(main)
