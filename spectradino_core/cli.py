"""The command line: `spectradino data | pretrain | finetune | evaluate | export | info`.

Each command imports what it needs when it runs, so that `spectradino info` works on a robot without torch.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from spectradino_core.commands import data, evaluate_retrieval, pretrain

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 it could not, 2 wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "evaluate" in words[:3] and words[words.index("evaluate") + 1 :][:1] == ["retrieval"]:
        at = words.index("evaluate")
        words[at : at + 2] = [evaluate_retrieval.NAME]
    options = _parser().parse_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")  # other libraries are talkative
    logging.getLogger("spectradino_core").setLevel(options.log_level.upper())
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError, RuntimeError) as error:
        if options.log_level == "debug":
            raise
        print(f"spectradino {options.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spectradino", description="One backbone for colour and infrared.")
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning"), help="default: %(default)s"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    data.add(commands)
    pretrain.add(commands)
    evaluate_retrieval.add(commands)

    command = commands.add_parser("finetune", help="train heads and backbone on labelled pairs")
    command.add_argument("--recipe", required=True, help="a recipe of training/recipes.py, such as 'box'")
    command.add_argument(
        "--data", type=Path, help="folder that holds the recipe's real data sets; without: scenes only"
    )
    command.add_argument("--out", type=Path, help="run folder (default: runs/RECIPE); a run that stopped is taken up")
    command.add_argument("--start", type=Path, help="checkpoint to start from, also one for another infrared band")
    command.add_argument("--steps", type=int, help="optimiser steps in place of the recipe's")
    command.add_argument("--seed", type=int, help="seed in place of the recipe's")
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    command.add_argument("--workers", type=int, default=1, help="processes that make batches (default: %(default)s)")
    command.set_defaults(run=_finetune)

    command = commands.add_parser("export", help="a checkpoint to a model file for the robot (ONNX)")
    command.add_argument("checkpoint", type=Path, help="model.safetensors of a fine-tuning run")
    command.add_argument("model", type=Path, help="the .onnx file to write")
    command.add_argument("--name", help="name in place of the recipe's")
    command.add_argument("--score-threshold", type=float, help="score threshold to store in place of the recipe's")
    command.add_argument("--nms-iou", type=float, help="overlap of non-maximum suppression to store, likewise")
    command.add_argument("--data", type=Path, help="folder of paired images: parity is measured on its val split too")
    command.set_defaults(run=_export)

    command = commands.add_parser("evaluate", help="AP50 and mIoU of a model file or checkpoint, fused and single-band")
    command.add_argument("model", type=Path, help=".onnx or .safetensors")
    command.add_argument("--data", type=Path, help="folder of paired images with boxes (its val split)")
    command.add_argument("--scenes", type=int, default=0, metavar="N", help="N unseen synthetic scenes")
    command.add_argument("--time-of-day", choices=("day", "dusk", "night"), help="of the scenes; default: mixed")
    command.add_argument("--out", type=Path, help="JSON file for the figures")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or tensorrt (default: %(default)s)")
    command.set_defaults(run=_evaluate)

    command = commands.add_parser("info", help="what a model file or checkpoint says of itself")
    command.add_argument("model", type=Path)
    command.set_defaults(run=_info)
    return parser


def _finetune(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from spectradino_core.training.finetune import finetune
    from spectradino_core.training.recipes import RECIPES

    if options.recipe not in RECIPES:
        raise ValueError(f"unknown recipe '{options.recipe}': choose one of {', '.join(sorted(RECIPES))}")
    recipe = RECIPES[options.recipe]()
    if options.steps is not None:
        if options.steps < 1:
            raise ValueError("--steps must be at least 1")
        recipe = replace(recipe, loop=replace(recipe.loop, steps=options.steps))
    if options.seed is not None:
        recipe = replace(recipe, seed=options.seed)
    folder = options.out or Path("runs") / recipe.name
    path = finetune(recipe, folder, options.data, options.start, device=options.device, workers=options.workers)
    print(f"{path}: export it with 'spectradino export {path} model.onnx'")
    return 0


def _export(options: argparse.Namespace) -> int:
    from spectradino_core.data.mixture import FIRST_TEST_SEED
    from spectradino_core.evaluation.perception import FolderSet, SceneSet
    from spectradino_core.export import export
    from spectradino_core.perception_checkpoint import load_perception

    model, info = load_perception(options.checkpoint)
    changes = {"name": options.name, "score_threshold": options.score_threshold, "nms_iou": options.nms_iou}
    info = info.with_(**{key: value for key, value in changes.items() if value is not None})
    pairs = list(SceneSet(range(FIRST_TEST_SEED, FIRST_TEST_SEED + 8), info.infrared, (640, 512)))
    if options.data is not None:
        pairs += FolderSet(options.data, "val", info.infrared)
    parity = export(model, info, options.model, pairs)
    print(f"{options.model}: {options.model.stat().st_size / 1e6:.1f} MB, largest differences from PyTorch: {parity}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from spectradino_core.data.mixture import FIRST_TEST_SEED
    from spectradino_core.evaluation.perception import FolderSet, SceneSet, score_samples
    from spectradino_core.runtime.percepts import Mode
    from spectradino_core.runtime.pipeline import Pipeline

    pipeline = Pipeline.open(options.model, device=options.device)
    info = pipeline.info
    sets: dict[str, SceneSet | FolderSet] = {}
    if options.data is not None:
        sets[f"{options.data.name} val"] = FolderSet(options.data, "val", info.infrared)
    if options.scenes:
        seeds = range(FIRST_TEST_SEED, FIRST_TEST_SEED + options.scenes)
        name = f"{options.scenes} {options.time_of_day or 'mixed'} scenes"
        sets[name] = SceneSet(seeds, info.infrared, (640, 512), options.time_of_day)
    if not sets:
        raise ValueError("nothing to evaluate on: give --data FOLDER, --scenes N or both")
    results = {
        name: [score_samples(pipeline, samples, mode) for mode in (Mode.FUSED, Mode.RGB_ONLY, Mode.IR_ONLY)]
        for name, samples in sets.items()
    }
    for name, rows in results.items():
        print(f"\n{name} ({rows[0]['pairs']} pairs), {info.name}")
        print(f"| streams | {' | '.join(f'AP50 {c}' for c in info.box_classes)} | mAP50 | mIoU |")
        print("|---" * (len(info.box_classes) + 3) + "|")
        for row in rows:
            figures = [*row["ap50"].values(), row["map50"], row["miou"]]
            print(f"| {row['mode']} | {' | '.join('-' if math.isnan(f) else f'{100 * f:.1f}' for f in figures)} |")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"model": info.name, "results": results}, indent=2) + "\n", encoding="utf-8")
    return 0


def _info(options: argparse.Namespace) -> int:
    from spectradino_core.runtime.engines import open_engine

    engine = open_engine(options.model, device="cpu")
    print(json.dumps(json.loads(engine.info.to_json()), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
