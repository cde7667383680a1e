"""`spectradino finetune`: train heads and backbone on labelled pairs; also under torchrun."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectradino_core.commands.shared_options import (
    add_own_options,
    add_run_options,
    given,
    is_main_process,
    open_own_of,
    option,
    parse_size,
    published,
    refuse_own_options,
    without_none,
)
from spectradino_core.options import COUNT, FRACTION, NOT_NEGATIVE, Number, claim_folder, refuse

if TYPE_CHECKING:
    from spectradino_core.datasets import Benchmark
    from spectradino_core.datasets.own import OwnFolder
    from spectradino_core.models.perception import Architecture
    from spectradino_core.runtime.bundle import ModelInfo
    from spectradino_core.training.recipes import FinetuneRecipe

_OF_MODEL = "task variant baseline head fusion fuse-at strides upernet-width"
"""Options that define the architecture of a data set's recipe; a named recipe has its own."""


def add(commands: Any) -> None:
    command = commands.add_parser(
        "finetune",
        help="train heads and backbone on labelled pairs",
        description="Trains on your own images and labels (--data DIR --start FILE, see docs/own_data.md), on a "
        "published data set (--dataset flir --data DIR --backbone FILE) or by a recipe (--recipe box). "
        "A stopped run is resumed. Use torchrun for several GPUs.",
    )
    what = command.add_mutually_exclusive_group()
    option(what, "--dataset")
    option(what, "--recipe", listed=_recipes)
    data = command.add_argument_group("data")
    folder = ": own images with COCO, VOC or YOLO labels, or where --dataset was extracted to"
    option(data, "--data", folder, former="--root")
    add_own_options(data)
    option(data, "--data-root", ", of --recipe")
    option(
        data, "--mix", "with --recipe: sources that replace the recipe's, such as msrs:3 mine:1 scenes:2: folders in "
        "--data-root by name or prefix, own data among them, and synthetic scenes", nargs="+", metavar="SET:WEIGHT",
    )  # fmt: skip
    option(data, "--workers", " (default: %(default)s)", default=1)
    option(
        data,
        "--band-dropout",
        "probability of hiding a band (default: 0.15)",
        type=Number(float, 0.0, 0.5),
        metavar="P",
    )
    option(data, "--no-augmentation", "use pairs without augmentation", action="store_true")
    model = command.add_argument_group("model, with --data or --dataset (default: that of --start)")
    tasks = ("detection", "segmentation", "both")
    option(model, "--task", "default: all that have labels", choices=tasks)
    option(model, "--variant", " (default: that of --backbone, else b)")
    weights = "backbone of 'spectradino pretrain', or DINOv2 or DINOv3 weights: file or Hugging Face folder"
    option(model, "--backbone", weights, type=Path, metavar="FILE")
    option(model, "--baseline", "; frozen by default")
    mode = "parts to train; all but full need --start or --backbone (default: half; with --baseline: head)"
    option(model, "--mode", mode, choices=("head", "adapters", "half", "full"))
    option(
        model, "--head", "head for boxes (default: dense) or masks (default: upernet), for both tasks e.g. "
        "dense,upernet; one of", listed=_head_names, metavar="KIND",
    )  # fmt: skip
    option(model, "--fusion", "fusion (default: concat), one of", listed=_fusion_names)
    option(model, "--fuse-at", "default: taps for upernet and linear4, else last", choices=("last", "taps"))
    option(
        model, "--strides", "strides of the pyramid: 3.5-28 (smallest objects, slowest), 7-28, or fast, i.e. 14-28 "
        "(default: 7-28); pixels of DINOv2, from whose patch they are scaled for DINOv3",
    )  # fmt: skip
    option(model, "--upernet-width", "256 or 512, as the paper's peers (default: 256)", type=COUNT)
    recipe = command.add_argument_group(
        "overrides of the recipe", "Defaults are those of data sets; a --recipe has its own."
    )
    option(recipe, "--input-size", " (default with --start: its own); default", listed=_settings("input_size"))
    option(recipe, "--epochs", "; default", listed=_settings("epochs"))
    option(recipe, "--steps", " (default: that of the epochs)")
    option(recipe, "--batch", ", over all processes; default", listed=_settings("batch"))
    heads = " of the heads; others are scaled accordingly; default"
    option(recipe, "--lr", heads, former="--rate", listed=_learning_rates("head"))
    for group, parts in (("adapters", "adapters, stems and modality embedding"), ("blocks", "the backbone's blocks")):
        text = f"learning rate of {parts}; default"
        option(
            recipe,
            f"--lr-{group}",
            text,
            former=f"--rate-{group}",
            listed=_learning_rates(group),
            type=NOT_NEGATIVE,
            metavar="LR",
        )
    option(
        recipe, "--layer-decay", "learning rate ratio of adjacent blocks (default: 1)", type=FRACTION, metavar="FACTOR"
    )
    option(recipe, "--ema", " (default: 0.999)")
    option(recipe, "--seed", " of weights and samples (default: 0)")
    run = command.add_argument_group("run")
    option(run, "--out", " folder (default: runs/RECIPE); a stopped run is resumed", metavar="DIR")
    option(
        run, "--start", ", fine-tuned, such as models/lwir_box.safetensors; band, classes and heads may differ: "
        "matching weights are used",
    )  # fmt: skip
    add_run_options(run, amp=None, checkpoint_every="an epoch, or a tenth of the run if that is longer")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from spectradino_core.models.registry import choose
    from spectradino_core.training.finetune import finetune, labelled_training_data
    from spectradino_core.training.modes import refuse_random_blocks
    from spectradino_core.training.recipes import RECIPES

    own = _open_own_folder(options)
    if options.recipe is not None:
        refuse(options, _OF_MODEL, f"is for --dataset and --data: the recipe '{options.recipe}' has its own model")
        recipe = choose(dict(sorted(RECIPES.items())), "recipe", options.recipe)()
    else:
        recipe = _of_dataset(options, published(options) if own is None else own.benchmark)
    recipe = _changed(recipe, options)
    _refuse_without_effect(options, recipe)
    out = options.out or Path("runs") / recipe.name
    claim_folder(out, "model.safetensors recipe.json log.jsonl losses.png checkpoints", "recipe.json", b'"recipe"')
    refuse_random_blocks(recipe.mode, options.start is not None or options.backbone is not None)
    if recipe.frozen and options.start is None:
        raise ValueError(
            f"recipe {recipe.name} freezes {', '.join(recipe.frozen)}, which are random without a model to start from: "
            "give --start, such as models/lwir_box.safetensors"
        )
    data = None
    if own is not None:
        data = replace(labelled_training_data(recipe, own.benchmark, own.root), about=own.provenance)
        if is_main_process():
            print("\n".join(own.described()))
    path = finetune(
        recipe,
        out,
        options.data if options.recipe is None else options.data_root,
        options.start,
        device=options.device,
        workers=options.workers,
        backbone=options.backbone,
        training_data=data,
        activation_checkpointing=options.activation_checkpointing,
    )
    if is_main_process():
        print(f"{path}: export it with 'spectradino export --model {path} --out model.onnx'")
    return 0


def _open_own_folder(options: argparse.Namespace) -> OwnFolder | None:
    """Return the user's own folder if --data is given without --dataset or --recipe.

    Raises:
        ValueError: incompatible options, or nothing to train on.
    """
    if options.recipe is not None:
        if options.data is not None:
            print(f"{options.prog}: warning: --data with --recipe is deprecated, use --data-root", file=sys.stderr)
            options.data_root, options.data = options.data_root or options.data, None
        if options.data_root is None:
            refuse(options, "mix", "needs the folder that holds its data sets: give --data-root")
    else:
        refuse(options, "data-root mix", "is for --recipe")
    if options.recipe is not None or options.dataset is not None:
        refuse_own_options(options, "and not for --recipe and --dataset")
        return None
    if options.data is None:
        raise ValueError("nothing to train on: give --data DIR (your own), --dataset NAME --data DIR, or --recipe NAME")
    band = None
    if options.start is not None:
        from spectradino_core.models.perception_checkpoint import describe_checkpoint

        band = describe_checkpoint(options.start)[0].infrared
    return open_own_of(options, options.data, band)


def _refuse_without_effect(options: argparse.Namespace, recipe: FinetuneRecipe) -> None:
    """Raise ValueError if an option has no effect on this recipe."""
    made = recipe.architecture
    if not made.box_classes:
        refuse(options, "strides", "has no effect without a detection head")
    if not made.mask_classes or made.segmentation != "upernet":
        refuse(options, "upernet-width", "has no effect without an UPerNet head")
    if recipe.mode in ("head", "adapters"):
        refuse(options, "lr-blocks layer-decay", f"has no effect in mode {recipe.mode}, which trains no blocks")
    if recipe.mode == "head":
        refuse(options, "lr-adapters", "has no effect in mode head, which trains no adapters")
    if options.recipe is not None and not recipe.mix and not recipe.real:
        refuse(options, "data-root", f"has no effect on recipe {recipe.name}, which renders its data")


def _settings(field: str) -> Callable[[], Sequence[str]]:
    """Return a function that gives a setting by data set, for help."""

    def listed() -> Sequence[str]:
        from spectradino_core.training.downstream import settings_by_name

        values = {name: getattr(setting, field) for name, setting in settings_by_name().items()}
        return [
            f"{name} {value if isinstance(value, int) else 'x'.join(map(str, value))}" for name, value in values.items()
        ]

    return listed


def _learning_rates(group: str) -> Callable[[], Sequence[str]]:
    """Return a function that gives the learning rates of a group of parameters, for help."""

    def listed() -> Sequence[str]:
        from spectradino_core.training.downstream import LEARNING_RATES

        return [f"{LEARNING_RATES['pretrained'][group]:g}", f"tiny and test {LEARNING_RATES['small'][group]:g}"]

    return listed


def _head_names() -> Sequence[str]:
    from spectradino_core.models.registry import DETECTION, SEGMENTATION

    return tuple(dict.fromkeys((*DETECTION, *SEGMENTATION)))


def _fusion_names() -> Sequence[str]:
    from spectradino_core.models.registry import FUSIONS

    return tuple(FUSIONS)


def _recipes() -> Sequence[str]:
    from spectradino_core.training.recipes import RECIPES

    return tuple(RECIPES)


def _of_dataset(options: argparse.Namespace, benchmark: Benchmark) -> FinetuneRecipe:
    from spectradino_core.models.perception_checkpoint import backbone_config, describe_checkpoint
    from spectradino_core.training.downstream import downstream_recipe

    variant = options.variant or "b"
    registers: int | None = None
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
        registers=registers,
        **given(options, "fusion fuse_at strides upernet_width"),
        **heads,
    )
    if start is not None:
        recipe = _match_start(recipe, *start, options, heads)
    return recipe


def _match_start(
    recipe: FinetuneRecipe, info: ModelInfo, start: Architecture, options: argparse.Namespace, heads: dict[str, Any]
) -> FinetuneRecipe:
    """Return the recipe with the start model's architecture, except for what options ask for."""
    wanted = recipe.architecture
    requested = ["infrared", "box_classes", "mask_classes", *heads]
    requested += [*given(options, "variant fusion fuse_at strides upernet_width")]
    requested += ["backbone"] if options.baseline else []
    architecture = replace(start, **{name: getattr(wanted, name) for name in requested})
    thermal = info.thermal if info.infrared.key == wanted.infrared else recipe.thermal
    return replace(recipe, architecture=architecture, input_size=info.input_size, thermal=thermal)


def _heads(options: argparse.Namespace, benchmark: Benchmark) -> dict[str, Any]:
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


def parse_mix(entries: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Parse `msrs:3 scenes` to (name, weight) of each source; the default weight is 1.

    Raises:
        ValueError: a weight is not a positive number.
    """
    mix = []
    for word in entries:
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

    if options.epochs is not None and (recipe.dataset is None or options.steps is not None):
        raise ValueError("--epochs is for --dataset, and excludes --steps")
    lr = dict(recipe.lr)
    if options.lr is not None:
        lr = {group: rate * options.lr / recipe.lr["head"] for group, rate in lr.items()}
    lr |= without_none(adapters=options.lr_adapters, blocks=options.lr_blocks)
    loop = replace(
        recipe.loop,
        **given(options, "steps ema amp checkpoint_every log_every"),
        **without_none(grad_accum=options.grad_accum, tensorboard=options.tensorboard or None),
    )
    if options.steps is not None:  # a short run warms up for at most a tenth of it
        recipe, loop = replace(recipe, epochs=None), replace(loop, warmup=min(loop.warmup, options.steps // 10))
    if options.input_size is not None:
        recipe = recipe.with_input_size(parse_size(options.input_size, recipe.architecture.vit.patch))
    augmentation = PLAIN if options.no_augmentation else recipe.augmentation
    return replace(
        recipe,
        loop=loop,
        lr=lr,
        augmentation=replace(augmentation, **given(options, "band_dropout")),
        mix=parse_mix(options.mix) if options.mix else recipe.mix,
        **given(options, "epochs layer_decay mode batch seed"),
    )
