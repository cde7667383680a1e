"""`spectradino finetune`: train heads and backbone on labelled pairs; also under torchrun."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectradino_core.commands.own_data import add_own_options, open_own_of, refuse_own_options
from spectradino_core.commands.sizes import parse_size

if TYPE_CHECKING:
    from spectradino_core.datasets import Benchmark
    from spectradino_core.datasets.own import OwnFolder
    from spectradino_core.models.perception import Architecture
    from spectradino_core.runtime.bundle import ModelInfo
    from spectradino_core.training.recipes import FinetuneRecipe

__all__ = ["add"]

_MODES = ("head", "adapters", "half", "full")
_OF_MODEL = ("task", "variant", "baseline", "head", "fusion", "fuse_at", "strides", "upernet_width", "input_size")
"""Options that define the recipe of a data set; a named recipe accepts only --backbone and --mode."""


def add(commands: Any) -> None:
    """Add the command to `commands`, the result of `ArgumentParser.add_subparsers`."""
    command = commands.add_parser(
        "finetune",
        help="train heads and backbone on labelled pairs",
        description="Trains on your own images and labels (--data DIR --start FILE, see docs/own_data.md), on a "
        "published data set (--dataset flir --root DIR --backbone FILE) or by a recipe (--recipe box). "
        "A stopped run is resumed. Use torchrun for several GPUs.",
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument("--dataset", help="a data set; 'spectradino data list' shows those available")
    what.add_argument("--recipe", help="a recipe of training/recipes.py, such as 'box'")
    data = command.add_argument_group("data")
    data.add_argument("--root", type=Path, help="with --dataset: the folder it was extracted to")
    data.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="your own images with COCO, VOC or YOLO labels; with --recipe: folder of its real data sets",
    )
    add_own_options(data)
    data.add_argument(
        "--mix",
        nargs="+",
        metavar="SET:WEIGHT",
        help="with --recipe: sources that replace the recipe's, such as msrs:3 camel:1 camvid_rgb:1 scenes:2: folders "
        "under --data by name or prefix, and synthetic scenes",
    )
    data.add_argument("--workers", type=int, default=1, help="data loading processes (default: %(default)s)")
    data.add_argument("--band-dropout", type=float, metavar="P", help="probability of hiding a band (default: 0.15)")
    data.add_argument("--no-augmentation", action="store_true", help="use pairs without augmentation")
    model = command.add_argument_group("model, with --data or --dataset (default: that of --start)")
    model.add_argument("--task", choices=("detection", "segmentation", "both"), help="default: all that have labels")
    model.add_argument("--variant", help="s, b, l, g, tiny or test (default: that of --backbone, else b)")
    model.add_argument(
        "--backbone",
        type=Path,
        help="backbone of 'spectradino pretrain', or DINOv2 weights: file or Hugging Face folder",
    )
    model.add_argument(
        "--baseline",
        action="store_true",
        help="plain DINOv2 with IR repeated to three channels; frozen by default",
    )
    model.add_argument(
        "--mode",
        choices=_MODES,
        help="parts to train; all but full need --start or --backbone (default: half; with --baseline: head)",
    )
    model.add_argument(
        "--head",
        metavar="KIND",
        help="dense or linear for boxes (default: dense); upernet, linear, linear4 or pyramid_linear for masks "
        "(default: upernet); for both tasks e.g. dense,upernet",
    )
    model.add_argument("--fusion", help="concat, cross_attention or gated (default: concat)")
    model.add_argument("--fuse-at", choices=("last", "taps"), help="default: taps for upernet and linear4, else last")
    model.add_argument(
        "--strides",
        help="strides of the pyramid: 3.5-28 (smallest objects, slowest), 7-28, or fast, i.e. 14-28 (default: 7-28)",
    )
    model.add_argument("--upernet-width", type=int, help="256 or 512, as the paper's peers (default: 256)")
    model.add_argument("--input-size", metavar="WxH", help="network input size, multiples of the patch size (14)")
    recipe = command.add_argument_group("overrides of the recipe")
    recipe.add_argument("--epochs", type=int, help="passes over the data set")
    recipe.add_argument("--steps", type=int, help="optimiser steps")
    recipe.add_argument("--batch", type=int, help="pairs per step, over all processes")
    recipe.add_argument("--rate", type=float, help="peak learning rate of the heads; others are scaled accordingly")
    recipe.add_argument("--rate-adapters", type=float, help="learning rate of adapters, stems and modality embedding")
    recipe.add_argument("--rate-blocks", type=float, help="learning rate of the backbone's blocks")
    recipe.add_argument("--layer-decay", type=float, metavar="FACTOR", help="learning rate ratio of adjacent blocks")
    recipe.add_argument("--ema", type=float, help="decay of the moving average of the weights; 0: none")
    recipe.add_argument("--seed", type=int, help="seed of weights and samples")
    run = command.add_argument_group("run")
    run.add_argument("--out", type=Path, help="run folder (default: runs/RECIPE); a stopped run is resumed")
    run.add_argument(
        "--start",
        type=Path,
        help="fine-tuned model to start from, such as models/lwir_box.safetensors; band, classes and heads may differ: "
        "matching weights are used",
    )
    run.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    run.add_argument("--amp", choices=("auto", "bf16", "fp16", "fp32"), help="default: bf16")
    run.add_argument("--parts", type=int, help="gradient accumulation steps per batch (default: 1)")
    run.add_argument("--activation-checkpointing", action="store_true", help="less memory for one more forward pass")
    run.add_argument("--checkpoint-every", type=int, metavar="STEPS", help="steps between checkpoints, with scores")
    run.add_argument("--log-every", type=int, metavar="STEPS", help="steps between log lines")
    run.add_argument("--tensorboard", action="store_true", help="also log to TensorBoard")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import os

    from spectradino_core.datasets.registry import find_benchmark
    from spectradino_core.training.finetune import finetune, labelled_training_data
    from spectradino_core.training.modes import refuse_random_blocks

    for name in ("epochs", "steps", "batch", "parts", "checkpoint_every", "log_every", "upernet_width"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
    own = _own(options)
    if options.recipe is not None:
        _refuse_model(options)
        recipe = _of_name(options.recipe)
    else:
        recipe = _of_dataset(options, find_benchmark(options.dataset) if own is None else own.benchmark)
    recipe = _changed(recipe, options)
    out = options.out or Path("runs") / recipe.name
    refuse_random_blocks(recipe.mode, options.start is not None or options.backbone is not None)
    if recipe.frozen and options.start is None:
        raise ValueError(
            f"recipe {recipe.name} freezes {', '.join(recipe.frozen)}, which are random without a model to start from: "
            "give --start, such as models/lwir_box.safetensors"
        )
    data = None
    if own is not None:
        data = replace(labelled_training_data(recipe, own.benchmark, own.root), about=own.provenance)
        if os.environ.get("RANK", "0") == "0":
            print("\n".join(own.described()))
    path = finetune(
        recipe,
        out,
        options.root if options.dataset else options.data,
        options.start,
        device=options.device,
        workers=options.workers,
        backbone=options.backbone,
        training_data=data,
        activation_checkpointing=options.activation_checkpointing,
    )
    if os.environ.get("RANK", "0") == "0":
        print(f"{path}: export it with 'spectradino export {path} model.onnx'")
    return 0


def _own(options: argparse.Namespace) -> OwnFolder | None:
    """Return the user's own folder if --data is given without --dataset or --recipe.

    Raises:
        ValueError: incompatible options, or nothing to train on.
    """
    if options.recipe is not None and options.root is not None:
        raise ValueError("--root is for --dataset; put a recipe's data sets under --data")
    if options.dataset is not None and options.data is not None:
        raise ValueError("--data is for own data or --recipe; give the data set's folder with --root")
    if options.mix and (options.recipe is None or options.data is None):
        raise ValueError("--mix is for --recipe, with its data sets under --data")
    if options.recipe is not None or options.dataset is not None:
        refuse_own_options(options, "and not for --recipe and --dataset")
        return None
    if options.data is None:
        raise ValueError("nothing to train on: give --data DIR (your own), --dataset NAME --root DIR, or --recipe NAME")
    if options.root is not None:
        raise ValueError("--root is for --dataset; --data is the folder itself")
    band = None
    if options.start is not None:
        from spectradino_core.models.perception_checkpoint import describe_checkpoint

        band = describe_checkpoint(options.start)[0].infrared
    return open_own_of(options, options.data, band)


def _refuse_model(options: argparse.Namespace) -> None:
    """Raise ValueError if an option would change the model, which a named recipe defines."""
    for name in _OF_MODEL:
        if getattr(options, name) not in (None, False):
            raise ValueError(
                f"--{name.replace('_', '-')} is for --dataset and --data: the recipe '{options.recipe}' has its own "
                "model"
            )


def _of_name(name: str) -> FinetuneRecipe:
    from spectradino_core.training.recipes import RECIPES

    if name not in RECIPES:
        raise ValueError(f"unknown recipe '{name}': choose one of {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()


def _of_dataset(options: argparse.Namespace, benchmark: Benchmark) -> FinetuneRecipe:
    from spectradino_core.models.perception_checkpoint import backbone_config, describe_checkpoint
    from spectradino_core.training.downstream import downstream_recipe

    variant, registers = options.variant or "b", 0
    start = None
    if options.start is not None:
        start = describe_checkpoint(options.start)
        variant, registers = options.variant or start[1].variant, start[1].registers
    if options.backbone is not None:
        config = backbone_config(options.backbone)
        if options.variant not in (None, config.name):
            raise ValueError(f"{options.backbone} holds a {config.title}; --variant asks for '{options.variant}'")
        variant, registers = config.name, config.registers
    heads = _heads(options, benchmark)
    recipe = downstream_recipe(
        benchmark,
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
    if start is not None:
        recipe = _like_start(recipe, *start, options, heads)
    if options.input_size is not None:
        recipe = replace(recipe, input_size=parse_size(options.input_size, recipe.architecture.vit.patch))
    return recipe


def _like_start(
    recipe: FinetuneRecipe, info: ModelInfo, start: Architecture, options: argparse.Namespace, heads: dict[str, str]
) -> FinetuneRecipe:
    """Return the recipe with the start model's architecture, except for what options ask for."""
    asked = {
        "variant": options.variant, "backbone": options.baseline or None, "fusion": options.fusion,
        "fuse_at": options.fuse_at, "strides": options.strides, "upernet_width": options.upernet_width,
        "detection": heads.get("detection"), "segmentation": heads.get("segmentation"),
    }  # fmt: skip
    wanted = recipe.architecture
    given = {name: getattr(wanted, name) for name, value in asked.items() if value is not None}
    architecture = replace(
        start, infrared=wanted.infrared, box_classes=wanted.box_classes, mask_classes=wanted.mask_classes, **given
    )
    thermal = info.thermal if info.infrared.key == wanted.infrared else recipe.thermal
    return replace(recipe, architecture=architecture, input_size=info.input_size, thermal=thermal)


def _heads(options: argparse.Namespace, benchmark: Benchmark) -> dict[str, str]:
    """Return the kinds of heads given by name."""
    from spectradino_core.models.registry import DETECTION, SEGMENTATION, choose

    if options.head is None:
        return {}
    names = [name.strip() for name in options.head.split(",")]
    tasks = benchmark.tasks
    if options.task in ("detection", "segmentation"):
        tasks = (options.task,)
    if len(names) != len(tasks):
        raise ValueError(f"--head {options.head}: name one head for each of {', '.join(tasks)}, in that order")
    tables = {"detection": DETECTION, "segmentation": SEGMENTATION}
    for task, name in zip(tasks, names, strict=True):
        choose(tables[task], f"{task} head", name)
    return dict(zip(tasks, names, strict=True))


def parse_mix(words: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Parse `msrs:3 scenes` to (name, weight) of each source; the default weight is 1.

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
    """Return the recipe with the overrides of the options."""
    from spectradino_core.data.augment import PLAIN

    loop = {
        "steps": options.steps, "ema": options.ema, "amp": options.amp, "parts": options.parts,
        "checkpoint_every": options.checkpoint_every, "log_every": options.log_every,
        "tensorboard": options.tensorboard or None,
    }  # fmt: skip
    recipe = replace(recipe, loop=replace(recipe.loop, **{k: v for k, v in loop.items() if v is not None}))
    if options.epochs is not None:
        if recipe.dataset is None or options.steps is not None:
            raise ValueError("--epochs is for --dataset, and excludes --steps")
        recipe = replace(recipe, epochs=options.epochs)
    elif options.steps is not None:
        warmup = min(recipe.loop.warmup, options.steps // 10)  # a short run warms up for at most a tenth of it
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
