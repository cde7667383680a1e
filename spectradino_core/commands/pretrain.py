"""`spectradino pretrain`: the three SpectraDINO stages (or Omnivorous) on pairs; also under torchrun."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spectradino_core.commands import omnivorous
from spectradino_core.commands.training_options import add_run_options
from spectradino_core.options import add_former, add_option, list_names, refuse

__all__ = ["add"]

_SCENE_SIZE = (320, 256)
_BY_STAGE = ("epochs", "batch", "lr", "clip", "ema")
"""Overrides of the recipe that may differ by stage."""


def add(commands: Any) -> None:
    """Add the command to `commands`, the result of `ArgumentParser.add_subparsers`."""
    command = commands.add_parser(
        "pretrain",
        help="extend a DINOv2 to IR bands on unlabelled pairs",
        description="Runs one stage (--stages 1) or several in a row (--stages 1,2,3); a stopped run is resumed. "
        "Use torchrun for several GPUs: see docs/training.md.",
    )
    add_option(command, "--variant", required=True)
    command.add_argument(
        "--system", default="spectradino", choices=("spectradino", "omnivorous"), help="default: %(default)s"
    )
    stages = command.add_argument("--stages", help="one stage or several in a row (default: 1,2,3)")
    add_former(command, stages, "--stage")
    data = command.add_argument_group("data")
    manifest = add_option(data, "--manifest", nargs="+")
    base = add_option(data, "--data-root", ", to which the manifests' paths are relative (default: the manifest's own)")
    add_option(data, "--scenes", ", with all --bands", default=0)
    add_option(data, "--bands")
    held_out = add_option(data, "--val-manifest", nargs="+")
    data.add_argument("--val-scenes", type=int, metavar="N", help="number of held-out synthetic scenes")
    add_option(data, "--views", ", fixed (default: fresh ones)", default=0)
    data.add_argument("--max-damaged", type=float, default=0.01, help="maximum unreadable fraction (%(default)s)")
    add_option(data, "--workers", " (default: %(default)s)", default=2)
    add_former(data, manifest, "--data")
    add_former(data, base, "--root")
    add_former(data, held_out, "--val")
    model = command.add_argument_group("model")
    add_option(
        model, "--teacher", " (file or Hugging Face folder), or a model of this project (default: random, for trials)"
    )
    add_option(model, "--start", ", for the first stage: a backbone")
    add_option(
        model, "--out", " folder (default: runs/pretrain-VARIANT; omnivorous: runs/omnivorous-VARIANT)", metavar="DIR"
    )
    recipe = command.add_argument_group(
        "overrides of the recipe", "Defaults by variant, with / between Stages I, II and III where they differ."
    )
    add_option(recipe, "--epochs", " of each stage; default", listed=_recipes("epochs"), **_by_stage(int))
    add_option(recipe, "--steps", " of each stage (default: that of the epochs; omnivorous: 20000)")
    add_option(recipe, "--batch", ", over all processes; default", listed=_recipes("batch"), **_by_stage(int))
    lr = add_option(
        recipe, "--lr", "; of single stages: 1:2e-4,3:4e-5; default", listed=_recipes("rate"), **_by_stage(float)
    )
    add_former(recipe, lr, "--rate")
    add_option(recipe, "--crop", "; default", listed=_recipes("crop"))
    clip = recipe.add_argument("--clip", help="maximum gradient norm; 0: none; default", **_by_stage(float))
    list_names(clip, _recipes("clip"))
    add_option(recipe, "--ema", "; default", listed=_recipes("ema"), **_by_stage(float))
    learned = recipe.add_argument(
        "--learn-temperature", action="store_const", const=True,
        help="learn the temperature of the contrastive loss over all stages; it starts at, or else is fixed at",
    )  # fmt: skip
    list_names(learned, _recipes("temperature"))
    ours = command.add_argument_group("beyond the paper")
    ours.add_argument("--adaptive", action="store_true", help="sample bands with a high loss more often")
    ours.add_argument(
        "--infrared-alignment", type=float, metavar="WEIGHT", help="align IR bands with each other (default: 0)"
    )
    ours.add_argument(
        "--rgb-distillation", type=float, metavar="WEIGHT",
        help="keep the teacher's RGB features, by distilling them too (default: 0)",
    )  # fmt: skip
    omnivorous.add_arguments(command)
    run = command.add_argument_group("machine")
    run.add_argument("--strategy", choices=("ddp", "fsdp"), help="default: ddp; fsdp for variant g on several GPUs")
    add_run_options(run, amp="bf16", checkpoint_every="an epoch; omnivorous: 500")
    run.add_argument("--cache-teacher", action="store_true", help="run the teacher once per view (needs --views)")
    run.add_argument("--keep", type=int, metavar="K", help="checkpoints to keep (default: 2)")
    add_option(run, "--seed", " (default: %(default)s)", default=0)
    run.add_argument(
        "--override", nargs="+", default=[], metavar="OPTION",
        help="resume although these options (without dashes) differ from the run's; recorded in recipe.json",
    )  # fmt: skip
    command.set_defaults(run=_run)


def _recipes(field: str) -> Callable[[], Sequence[str]]:
    """Return a function that gives a field's values in the recipes, for help."""

    def listed() -> Sequence[str]:
        from spectradino_core.training.omnivorous import OmnivorousRecipe
        from spectradino_core.training.stages import recipe_values

        omnivorous = getattr(OmnivorousRecipe, field, None)
        return [recipe_values(field) + ("" if omnivorous is None else f"; omnivorous {omnivorous:g}")]

    return listed


def _by_stage(kind: Callable[[str], Any]) -> dict[str, Any]:
    """Return the form of an option with one value ("2e-4") or values of single stages ("1:2e-4,3:4e-5")."""

    def parse(text: str) -> Any:
        try:
            if ":" not in text:
                return kind(text)
            parts = [part.split(":") for part in text.split(",")]
            values = {int(stage): kind(value) for stage, value in parts}
        except ValueError:
            values = {}
        if not values or len(values) < len(parts) or not set(values) <= {1, 2, 3}:
            raise argparse.ArgumentTypeError(f"{text!r}: give one value, or values of stages such as 1:VALUE,3:VALUE")
        return values

    return {"type": parse, "metavar": "N" if kind is int else "X"}


def _run(options: argparse.Namespace) -> int:
    import os
    from dataclasses import replace

    from spectradino_core.data.manifest import ManifestSource
    from spectradino_core.data.scene_sets import SceneImages
    from spectradino_core.data.sources import ImageSource, infrared_keys
    from spectradino_core.data.views import ViewOptions
    from spectradino_core.modality import INFRARED, Modality
    from spectradino_core.training.pretrain import PretrainOptions, pretrain
    from spectradino_core.training.stages import changed, of_stage, parse_stages, stage_recipe

    if not options.manifest and not options.val_manifest:
        refuse(options, "data-root", "has no effect without --manifest")
    if options.steps is not None:
        refuse(options, "epochs", "excludes --steps")
    if options.system == "omnivorous":
        for name in _BY_STAGE:
            if isinstance(getattr(options, name), dict):
                raise ValueError(f"--{name}: --system omnivorous has no stages, give one value")
        return omnivorous.run(options)
    refuse(options, omnivorous.OWN, "is for --system omnivorous")
    if options.maps is False:
        raise ValueError("--no-maps is for --system omnivorous")
    for name in ("epochs", "steps", "batch", "crop", "grad_accum", "checkpoint_every"):
        value = getattr(options, name)
        if any(
            one < 1 for one in (value.values() if isinstance(value, dict) else [value] if value is not None else [])
        ):
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
    if options.rgb_distillation:
        refuse(options, "cache-teacher", "caches CLS alone: --rgb-distillation needs patch tokens")
    recipes = []
    stages = parse_stages(options.stages or "1,2,3")
    for name in _BY_STAGE:
        value = getattr(options, name)
        for stage in set(value) - set(stages) if isinstance(value, dict) else ():
            raise ValueError(f"--{name} names stage {stage}, which --stages does not run")
    for stage in stages:
        recipe = changed(
            stage_recipe(options.variant, stage),
            rate=of_stage(options.lr, stage), crop=options.crop, learn_temperature=options.learn_temperature,
            **{name: of_stage(getattr(options, name), stage) for name in _BY_STAGE if name != "lr"},
        )  # fmt: skip
        if options.infrared_alignment is not None:
            recipe = replace(recipe, weights=replace(recipe.weights, infrared=options.infrared_alignment))
        if options.rgb_distillation is not None:
            recipe = replace(recipe, weights=replace(recipe.weights, rgb=options.rgb_distillation))
        recipes.append(recipe)
    bands = None if options.bands is None else infrared_keys(options.bands)
    sources: list[ImageSource] = [
        ManifestSource(path, options.data_root, bands=bands) for path in options.manifest or ()
    ]
    held_out: list[ImageSource] = [
        ManifestSource(path, options.data_root, bands=bands) for path in options.val_manifest or ()
    ]
    of_scenes = INFRARED if bands is None else [Modality.parse(key) for key in bands]
    if options.scenes:
        sources.append(SceneImages(options.scenes, _SCENE_SIZE, of_scenes, maps=()))
    if options.val_scenes:
        held_out.append(SceneImages.held_out(options.val_scenes, _SCENE_SIZE, of_scenes))
    if not sources:
        raise ValueError("nothing to train on: give --manifest FILE, --scenes N or both")
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
            parts=options.grad_accum or 1,
            activation_checkpointing=options.activation_checkpointing,
            amp=options.amp,
            workers=options.workers,
            views=ViewOptions(count=options.views),
            cache_teacher=options.cache_teacher,
            adaptive=options.adaptive,
            max_damaged=options.max_damaged,
            seed=options.seed,
            checkpoint_every=options.checkpoint_every,
            log_every=options.log_every or 20,
            keep=2 if options.keep is None else options.keep,
            tensorboard=options.tensorboard,
            override=tuple(options.override),
        ),
    )
    if os.environ.get("RANK", "0") == "0":
        print(f"{path}: backbone; training curves are in {path.parent.parent / 'losses.png'}")
    return 0
