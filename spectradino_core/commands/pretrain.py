"""`spectradino pretrain`: the three SpectraDINO stages (or Omnivorous) on pairs; also under torchrun."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spectradino_core.commands import omnivorous

__all__ = ["add"]

_SCENE_SIZE = (320, 256)


def add(commands: Any) -> None:
    """Add the command to `commands`, the result of `ArgumentParser.add_subparsers`."""
    command = commands.add_parser(
        "pretrain",
        help="extend a DINOv2 to IR bands on unlabelled pairs",
        description="Runs one stage (--stage 1) or several in a row (--stages 1,2,3); a stopped run is resumed. "
        "Use torchrun for several GPUs: see docs/training.md.",
    )
    command.add_argument("--variant", required=True, help="s, b, l, g; tiny and test are for trials")
    command.add_argument(
        "--system", default="spectradino", choices=("spectradino", "omnivorous"), help="default: %(default)s"
    )
    which = command.add_mutually_exclusive_group()
    which.add_argument("--stage", help="the stage to run: 1, 2 or 3")
    which.add_argument("--stages", help="stages in a row (default: 1,2,3)")
    data = command.add_argument_group("data")
    data.add_argument("--data", type=Path, nargs="+", default=[], metavar="MANIFEST", help="JSONL manifests of pairs")
    data.add_argument("--root", type=Path, help="folder that paths are relative to (default: the manifest's own)")
    data.add_argument("--scenes", type=int, default=0, metavar="N", help="N synthetic scenes, with all bands")
    data.add_argument("--val", type=Path, nargs="+", default=[], metavar="MANIFEST", help="held-out pairs")
    data.add_argument("--val-scenes", type=int, default=0, metavar="N", help="N unseen synthetic scenes, held out")
    data.add_argument("--views", type=int, default=0, metavar="N", help="fixed views per item (default: fresh ones)")
    data.add_argument("--max-damaged", type=float, default=0.01, help="maximum unreadable fraction (%(default)s)")
    data.add_argument("--workers", type=int, default=2, help="data loading processes (default: %(default)s)")
    model = command.add_argument_group("model")
    model.add_argument(
        "--teacher",
        type=Path,
        help="DINOv2 weights (file or Hugging Face folder), or a model of this project; default: random, for trials",
    )
    model.add_argument("--start", type=Path, help="backbone to start the first stage from")
    model.add_argument("--out", type=Path, help="run folder (default: runs/pretrain-VARIANT)")
    recipe = command.add_argument_group("overrides of the recipe")
    recipe.add_argument("--epochs", type=int, help="epochs of each stage")
    recipe.add_argument("--steps", type=int, help="optimiser steps of each stage")
    recipe.add_argument("--batch", type=int, help="pairs per step, over all processes")
    recipe.add_argument("--rate", type=float, help="peak learning rate")
    recipe.add_argument("--crop", type=int, help="side of the views, pixels")
    recipe.add_argument("--clip", type=float, help="maximum gradient norm; 0: none")
    recipe.add_argument("--ema", type=float, help="decay of the moving average of the weights; 0: none")
    recipe.add_argument("--learn-temperature", action="store_const", const=True, help="of the contrastive loss")
    ours = command.add_argument_group("beyond the paper")
    ours.add_argument("--adaptive", action="store_true", help="sample bands with a high loss more often")
    ours.add_argument("--infrared-alignment", type=float, metavar="WEIGHT", help="align IR bands with each other")
    omnivorous.add_arguments(command)
    run = command.add_argument_group("machine")
    run.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    run.add_argument("--amp", default="bf16", choices=("bf16", "fp16", "fp32"), help="default: %(default)s")
    run.add_argument("--strategy", choices=("ddp", "fsdp"), help="default: ddp; fsdp for variant g on several GPUs")
    run.add_argument("--parts", type=int, default=1, metavar="N", help="gradient accumulation steps per batch")
    run.add_argument("--activation-checkpointing", action="store_true", help="less memory for one more forward pass")
    run.add_argument("--cache-teacher", action="store_true", help="run the teacher once per view (needs --views)")
    run.add_argument("--checkpoint-every", type=int, metavar="STEPS", help="default: once an epoch")
    run.add_argument("--log-every", type=int, default=20, metavar="STEPS", help="default: %(default)s")
    run.add_argument("--keep", type=int, default=2, metavar="K", help="checkpoints to keep (default: %(default)s)")
    run.add_argument("--tensorboard", action="store_true", help="also log to TensorBoard")
    run.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import os
    from dataclasses import replace

    from spectradino_core.data.manifest import ManifestSource
    from spectradino_core.data.scene_sets import SceneImages
    from spectradino_core.data.sources import ImageSource
    from spectradino_core.data.views import ViewOptions
    from spectradino_core.training.pretrain import PretrainOptions, pretrain
    from spectradino_core.training.stages import changed, parse_stages, stage_recipe

    if options.system == "omnivorous":
        return omnivorous.run(options)
    for name in ("epochs", "steps", "batch", "crop", "checkpoint_every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
    recipes = []
    for stage in parse_stages(options.stage or options.stages or "1,2,3"):
        recipe = changed(
            stage_recipe(options.variant, stage),
            epochs=options.epochs, batch=options.batch, rate=options.rate, crop=options.crop, clip=options.clip,
            ema=options.ema, learn_temperature=options.learn_temperature,
        )  # fmt: skip
        if options.infrared_alignment is not None:
            recipe = replace(recipe, weights=replace(recipe.weights, infrared=options.infrared_alignment))
        recipes.append(recipe)
    sources: list[ImageSource] = [ManifestSource(path, options.root) for path in options.data]
    held_out: list[ImageSource] = [ManifestSource(path, options.root) for path in options.val]
    if options.scenes:
        sources.append(SceneImages(options.scenes, _SCENE_SIZE, maps=()))
    if options.val_scenes:
        held_out.append(SceneImages.held_out(options.val_scenes, _SCENE_SIZE))
    if not sources:
        raise ValueError("nothing to train on: give --data MANIFEST, --scenes N or both")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    path = pretrain(
        recipes,
        sources,
        held_out,
        PretrainOptions(
            folder=options.out or Path("runs") / f"pretrain-{options.variant}",
            teacher=options.teacher,
            start=options.start,
            steps=options.steps,
            device=options.device,
            strategy=options.strategy or ("fsdp" if options.variant == "g" and several else "ddp"),
            parts=options.parts,
            activation_checkpointing=options.activation_checkpointing,
            amp=options.amp,
            workers=options.workers,
            views=ViewOptions(count=options.views),
            cache_teacher=options.cache_teacher,
            adaptive=options.adaptive,
            max_damaged=options.max_damaged,
            seed=options.seed,
            checkpoint_every=options.checkpoint_every,
            log_every=options.log_every,
            keep=options.keep,
            tensorboard=options.tensorboard,
        ),
    )
    if os.environ.get("RANK", "0") == "0":
        print(f"{path}: backbone; training curves are in {path.parent.parent / 'losses.png'}")
    return 0
