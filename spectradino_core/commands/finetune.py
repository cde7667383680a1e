"""`spectradino finetune`: heads, and as much of the backbone as is wanted, on labelled pairs; also under torchrun."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectradino_core.commands.sizes import parse_size

if TYPE_CHECKING:
    from spectradino_core.training.recipes import FinetuneRecipe

__all__ = ["add"]

_MODES = ("head", "adapters", "half", "full")
_OF_MODEL = ("task", "variant", "baseline", "head", "fusion", "fuse_at", "strides", "upernet_width", "input_size")
"""Options that only a data set's recipe is made from; a recipe by name takes --backbone and --mode."""


def add(commands: Any) -> None:
    """Declares the command.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
    """
    command = commands.add_parser(
        "finetune",
        help="train heads and backbone on labelled pairs",
        description="On a data set (--dataset flir --root DIR --backbone FILE) or by a recipe (--recipe box). "
        "A run that stopped is taken up where it was. Start it with torchrun for several GPUs.",
    )
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", help="a data set; 'spectradino data check' lists those there are")
    what.add_argument("--recipe", help="a recipe of training/recipes.py, such as 'box'")
    data = command.add_argument_group("data")
    data.add_argument("--root", type=Path, help="with --dataset: the folder it was extracted to")
    data.add_argument("--data", type=Path, help="with --recipe: folder of its real data sets; without: scenes only")
    data.add_argument(
        "--mix",
        nargs="+",
        metavar="SET:WEIGHT",
        help="with --recipe: sources in place of the recipe's, such as msrs:3 camel:1 camvid_rgb:1 scenes:2: folders "
        "under --data by their names or what these begin with, and rendered scenes",
    )
    data.add_argument("--workers", type=int, default=1, help="processes that make batches (default: %(default)s)")
    data.add_argument("--band-dropout", type=float, metavar="P", help="how often each band is hidden (default: 0.15)")
    data.add_argument("--no-augmentation", action="store_true", help="pairs as they are")
    model = command.add_argument_group("model, with --dataset")
    model.add_argument("--task", choices=("detection", "segmentation", "both"), help="default: all it has labels for")
    model.add_argument("--variant", help="s, b, l, g, tiny or test (default: that of --backbone, else b)")
    model.add_argument("--backbone", type=Path, help="backbone of 'spectradino pretrain', or DINOv2's weights")
    model.add_argument(
        "--baseline",
        action="store_true",
        help="plain DINOv2, infrared repeated to three channels; frozen by default",
    )
    model.add_argument("--mode", choices=_MODES, help="what is trained (default: half; with --baseline: head)")
    model.add_argument(
        "--head",
        metavar="KIND",
        help="dense or linear for boxes (default: dense); upernet, linear, linear4 or pyramid_linear for masks "
        "(default: upernet); for both tasks both, such as dense,upernet",
    )
    model.add_argument("--fusion", help="concat, cross_attention or gated (default: concat)")
    model.add_argument("--fuse-at", choices=("last", "taps"), help="default: taps for upernet and linear4, else last")
    model.add_argument(
        "--strides",
        help="of the pyramid: 3.5-28 (smallest objects, slowest), 7-28, or fast, which is 14-28 (default: 7-28)",
    )
    model.add_argument("--upernet-width", type=int, help="256 or 512, as the paper's peers (default: 256)")
    model.add_argument("--input-size", metavar="WxH", help="of the network's input, multiples of 14")
    recipe = command.add_argument_group("in place of the recipe's")
    recipe.add_argument("--epochs", type=int, help="passes over the data set")
    recipe.add_argument("--steps", type=int, help="optimiser steps")
    recipe.add_argument("--batch", type=int, help="pairs per step, over all processes")
    recipe.add_argument("--rate", type=float, help="peak learning rate of the heads; the others' follow in proportion")
    recipe.add_argument("--rate-adapters", type=float, help="of adapters, stems and modality embedding")
    recipe.add_argument("--rate-blocks", type=float, help="of the backbone's blocks")
    recipe.add_argument("--layer-decay", type=float, metavar="FACTOR", help="each block's rate over that of the next")
    recipe.add_argument("--ema", type=float, help="decay of a moving average of the weights; 0: none")
    recipe.add_argument("--seed", type=int, help="of weights and samples")
    run = command.add_argument_group("run")
    run.add_argument("--out", type=Path, help="run folder (default: runs/RECIPE); a run that stopped is taken up")
    run.add_argument(
        "--start", type=Path, help="fine-tuned model to start from, also one for another band or with a head more"
    )
    run.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    run.add_argument("--amp", choices=("auto", "bf16", "fp16", "fp32"), help="default: bf16")
    run.add_argument("--parts", type=int, help="gradient accumulation: N parts of each batch (default: 1)")
    run.add_argument("--activation-checkpointing", action="store_true", help="less memory for one more forward pass")
    run.add_argument("--checkpoint-every", type=int, metavar="STEPS", help="steps between checkpoints, with scores")
    run.add_argument("--log-every", type=int, metavar="STEPS", help="steps between log lines")
    run.add_argument("--tensorboard", action="store_true", help="log to TensorBoard too")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import os

    from spectradino_core.training.finetune import finetune

    for name in ("epochs", "steps", "batch", "parts", "checkpoint_every", "log_every", "upernet_width"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
    if options.recipe is not None and options.root is not None:
        raise ValueError("--root is for --dataset; a recipe's data sets lie under --data")
    if options.dataset is not None and options.data is not None:
        raise ValueError("--data is for --recipe; give the data set's folder with --root")
    if options.mix and (options.recipe is None or options.data is None):
        raise ValueError("--mix is for --recipe, with its sets under --data")
    if options.recipe is not None:
        _refuse_model(options)
    recipe = _changed(_of_dataset(options) if options.dataset else _of_name(options.recipe), options)
    path = finetune(
        recipe,
        options.out or Path("runs") / recipe.name,
        options.root if options.dataset else options.data,
        options.start,
        device=options.device,
        workers=options.workers,
        backbone=options.backbone,
        activation_checkpointing=options.activation_checkpointing,
    )
    if os.environ.get("RANK", "0") == "0":
        print(f"{path}: export it with 'spectradino export {path} model.onnx'")
    return 0


def _refuse_model(options: argparse.Namespace) -> None:
    """
    Raises:
        ValueError: an option would change the model, which a recipe of its own has already.
    """
    for name in _OF_MODEL:
        if getattr(options, name) not in (None, False):
            raise ValueError(
                f"--{name.replace('_', '-')} is for --dataset: the recipe '{options.recipe}' has its own model"
            )


def _of_name(name: str) -> FinetuneRecipe:
    from spectradino_core.training.recipes import RECIPES

    if name not in RECIPES:
        raise ValueError(f"unknown recipe '{name}': choose one of {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()


def _of_dataset(options: argparse.Namespace) -> FinetuneRecipe:
    from spectradino_core.perception_checkpoint import backbone_config
    from spectradino_core.training.downstream import downstream_recipe

    variant, registers = options.variant or "b", 0
    if options.backbone is not None:
        config = backbone_config(options.backbone)
        if options.variant not in (None, config.name):
            raise ValueError(f"{options.backbone} holds a {config.title}; --variant asks for '{options.variant}'")
        variant, registers = config.name, config.registers
    heads = _heads(options)
    recipe = downstream_recipe(
        options.dataset,
        options.task,
        variant,
        mode=options.mode or ("head" if options.baseline else "half"),
        backbone="dinov2_repeat" if options.baseline else "spectradino",
        fusion=options.fusion or "concat",
        fuse_at=options.fuse_at,
        strides=options.strides or "7-28",
        registers=registers,
        upernet_width=options.upernet_width,
        detection=heads.get("detection", "dense"),
        segmentation=heads.get("segmentation", "upernet"),
    )
    if options.input_size is not None:
        recipe = replace(recipe, input_size=parse_size(options.input_size, 14))
    return recipe


def _heads(options: argparse.Namespace) -> dict[str, str]:
    """The kinds of heads that were asked for by name."""
    from spectradino_core.data.benchmarks.registry import find_benchmark
    from spectradino_core.heads.registry import DETECTION, SEGMENTATION, choose

    if options.head is None:
        return {}
    names = [name.strip() for name in options.head.split(",")]
    tasks = find_benchmark(options.dataset).tasks
    if options.task in ("detection", "segmentation"):
        tasks = (options.task,)
    if len(names) != len(tasks):
        raise ValueError(f"--head {options.head}: name one head for each of {', '.join(tasks)}, in that order")
    tables = {"detection": DETECTION, "segmentation": SEGMENTATION}
    for task, name in zip(tasks, names, strict=True):
        choose(tables[task], f"{task} head", name)
    return dict(zip(tasks, names, strict=True))


def parse_mix(words: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """`msrs:3 scenes` as (name, weight) of each source; without a weight it is 1.

    Raises:
        ValueError: a weight is not a positive number.
    """
    mix = []
    for word in words:
        name, text = word.rsplit(":", 1) if ":" in word else (word, "1")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not name or not 0 < weight < math.inf:
            raise ValueError(f"--mix {word}: give SET:WEIGHT with a weight above 0, such as msrs:3")
        mix.append((name, weight))
    return tuple(mix)


def _changed(recipe: FinetuneRecipe, options: argparse.Namespace) -> FinetuneRecipe:
    """The recipe with what was given in place of its own."""
    from spectradino_core.data.augment import PLAIN

    loop = {
        "steps": options.steps, "ema": options.ema, "amp": options.amp, "parts": options.parts,
        "checkpoint_every": options.checkpoint_every, "log_every": options.log_every,
        "tensorboard": options.tensorboard or None,
    }  # fmt: skip
    recipe = replace(recipe, loop=replace(recipe.loop, **{k: v for k, v in loop.items() if v is not None}))
    if options.epochs is not None:
        if recipe.dataset is None or options.steps is not None:
            raise ValueError("--epochs is for --dataset, and not beside --steps")
        recipe = replace(recipe, epochs=options.epochs)
    elif options.steps is not None:
        warmup = min(recipe.loop.warmup, options.steps // 10)  # a short run warms up for a tenth of it at most
        recipe = replace(recipe, epochs=None, loop=replace(recipe.loop, warmup=warmup))
    if options.mix:
        recipe = replace(recipe, mix=parse_mix(options.mix))
    rates = dict(recipe.rates)
    if options.rate is not None:
        rates = {group: rate * options.rate / recipe.rates["head"] for group, rate in rates.items()}
    given = {"adapters": options.rate_adapters, "blocks": options.rate_blocks}
    rates |= {group: rate for group, rate in given.items() if rate is not None}
    augmentation = PLAIN if options.no_augmentation else recipe.augmentation
    if options.band_dropout is not None:
        augmentation = replace(augmentation, band_dropout=options.band_dropout)
    if options.layer_decay is not None:
        recipe = replace(recipe, layer_decay=options.layer_decay)
    if options.mode is not None and recipe.mode != options.mode:
        recipe = replace(recipe, mode=options.mode)
    return replace(
        recipe,
        rates=rates,
        augmentation=augmentation,
        batch=recipe.batch if options.batch is None else options.batch,
        seed=recipe.seed if options.seed is None else options.seed,
    )
