"""`spectradino pretrain`: the three SpectraDINO stages, or the Omnivorous recipe, on pairs; also under torchrun."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectradino_core.commands.shared_options import (
    add_run_options,
    given,
    is_main_process,
    option,
    without_none,
)
from spectradino_core.options import CONCEPTS, COUNT, FRACTION, NATURAL, NOT_NEGATIVE, POSITIVE, claim_folder, refuse

if TYPE_CHECKING:
    from spectradino_core.data.sources import ImageSource

_BY_STAGE = ("epochs", "batch", "lr", "clip", "ema")
"""Overrides of the recipe that may differ by stage."""
_OF_STAGES = (
    "stages epochs ema learn-temperature infrared-alignment rgb-distillation strategy grad-accum "
    "activation-checkpointing cache-teacher keep tensorboard"
)
_OF_OMNIVOROUS = "base anchor maps alpha-max tokens no-dense no-palette depth-range"
"""Options of this system alone."""


def add(commands: Any) -> None:
    command = commands.add_parser(
        "pretrain",
        help="extend a DINOv2 to IR bands on unlabelled pairs",
        description="Runs one stage (--stages 1) or several in a row (--stages 1,2,3); a stopped run is resumed. "
        "Use torchrun for several GPUs: see docs/training.md.",
    )
    option(command, "--variant", required=True)
    systems = ("spectradino", "omnivorous")
    option(command, "--system", "default: %(default)s", default="spectradino", choices=systems)
    option(command, "--stages", "one stage or several in a row (default: 1,2,3)", former="--stage")
    data = command.add_argument_group("data")
    option(data, "--manifest", former="--data", nargs="+")
    base = ", to which the manifests' paths are relative (default: the manifest's own)"
    option(data, "--data-root", base, former="--root")
    option(data, "--scenes", ", with all --bands", type=NATURAL, default=0)
    option(data, "--bands")
    option(data, "--val-manifest", former="--val", nargs="+")
    option(data, "--val-scenes", "number of held-out synthetic scenes", type=NATURAL, metavar="N")
    option(data, "--views", ", fixed (default: fresh ones)", type=NATURAL, default=0)
    option(data, "--max-damaged", "maximum unreadable fraction (%(default)s)", type=FRACTION, default=0.01)
    option(data, "--workers", " (default: %(default)s)", default=2)
    model = command.add_argument_group("model")
    teacher = " (file or Hugging Face folder), or a model of this project (default: random, for trials)"
    option(model, "--teacher", teacher)
    option(model, "--start", ", for the first stage: a backbone")
    out = " folder (default: runs/pretrain-VARIANT; omnivorous: runs/omnivorous-VARIANT)"
    option(model, "--out", out, metavar="DIR")
    recipe = command.add_argument_group(
        "overrides of the recipe", "Defaults by variant, with / between Stages I, II and III where they differ."
    )
    option(recipe, "--epochs", " of each stage; default", listed=_recipes("epochs"), **_by_stage(COUNT))
    option(recipe, "--steps", " of each stage (default: that of the epochs; omnivorous: 20000)")
    option(recipe, "--batch", ", over all processes; default", listed=_recipes("batch"), **_by_stage(COUNT))
    lr = "; of single stages: 1:2e-4,3:4e-5; default"
    option(recipe, "--lr", lr, listed=_recipes("lr"), former="--rate", **_by_stage(POSITIVE))
    option(recipe, "--crop", "; default", listed=_recipes("crop"))
    option(
        recipe, "--clip", "maximum gradient norm; 0: none; default", listed=_recipes("clip"), **_by_stage(NOT_NEGATIVE)
    )
    option(recipe, "--ema", "; default", listed=_recipes("ema"), **_by_stage(CONCEPTS["--ema"].type))
    text = "learn the temperature of the contrastive loss over all stages; it starts at, or else is fixed at"
    option(recipe, "--learn-temperature", text, listed=_recipes("temperature"), action="store_const", const=True)
    ours = command.add_argument_group("beyond the paper")
    option(ours, "--adaptive", "sample bands with a high loss more often", action="store_true")
    alignment = "align IR bands with each other (default: 0)"
    option(ours, "--infrared-alignment", alignment, type=NOT_NEGATIVE, metavar="WEIGHT")
    distillation = "keep the teacher's RGB features, by distilling them too (default: 0)"
    option(ours, "--rgb-distillation", distillation, type=NOT_NEGATIVE, metavar="WEIGHT")
    _add_omnivorous(command.add_argument_group("--system omnivorous"))
    run = command.add_argument_group("machine")
    option(run, "--strategy", "default: ddp; fsdp for variant g on several GPUs", choices=("ddp", "fsdp"))
    add_run_options(run, amp="bf16", checkpoint_every="an epoch; omnivorous: 500")
    option(run, "--cache-teacher", "run the teacher once per view (needs --views)", action="store_true")
    option(run, "--keep", "checkpoints to keep (default: 2)", type=COUNT, metavar="K")
    option(run, "--seed", " (default: %(default)s)", default=0)
    text = "resume although these options (without dashes) differ from the run's; recorded in recipe.json"
    option(run, "--override", text, nargs="+", default=[], metavar="OPTION")
    command.set_defaults(run=_run)


def _add_omnivorous(group: Any) -> None:
    option(
        group, "--base", "plain (default): every band is an RGB image; both: on top of SpectraDINO's stems and "
        "adapters (--start)", choices=("plain", "both"),
    )  # fmt: skip
    option(group, "--anchor", "weight of teacher anchoring (default: 10)", type=NOT_NEGATIVE, metavar="WEIGHT")
    alpha = "maximum fraction of RGB blended into maps and IR images, 0 to 1 (default: 0.5)"
    option(group, "--alpha-max", alpha, type=FRACTION, metavar="V")
    option(group, "--tokens", "patch tokens sampled per image (default: 64)", type=COUNT, metavar="N")
    option(group, "--no-dense", "align and anchor CLS only, not patch tokens", action="store_true")
    text = "keep maps (and IR images, unless --base both) grey instead of colouring them by the RGB image"
    option(group, "--no-palette", text, action="store_true")
    option(group, "--depth-range")
    option(group, "--maps", " of the scenes too (default: yes)", action=argparse.BooleanOptionalAction)


def _recipes(field: str) -> Callable[[], Sequence[str]]:
    """Return a function that gives a field's values in the recipes, for help."""

    def listed() -> Sequence[str]:
        from spectradino_core.training.omnivorous import OmnivorousRecipe
        from spectradino_core.training.stages import recipe_values

        omnivorous = getattr(OmnivorousRecipe, field, None)
        return [recipe_values(field) + ("" if omnivorous is None else f"; omnivorous {omnivorous:g}")]

    return listed


def _by_stage(kind: Any) -> dict[str, Any]:
    """Return the form of an option with one value ("2e-4") or values of single stages ("1:2e-4,3:4e-5")."""

    either = "give one value, or values of stages such as 1:VALUE,3:VALUE"

    def parse(text: str) -> Any:
        try:
            if ":" not in text:
                return kind(text)
            parts = [part.split(":") for part in text.split(",")]
            values = {int(stage): kind(value) for stage, value in parts}
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}; {either}") from None
        except ValueError:
            values = {}
        if not values or len(values) < len(parts) or not set(values) <= {1, 2, 3}:
            raise argparse.ArgumentTypeError(f"{text!r}: {either}")
        return values

    return {"type": parse, "metavar": "N" if kind is COUNT else "X"}


def _run(options: argparse.Namespace) -> int:
    if not options.manifest and not options.val_manifest:
        refuse(options, "data-root", "has no effect without --manifest")
    if options.steps is not None:
        refuse(options, "epochs", "excludes --steps")
    if options.system == "omnivorous":
        path = _omnivorous(options)
        curves = path.parent / "losses.png"
    else:
        path = _stages(options)
        curves = path.parent.parent / "losses.png"
    if is_main_process():
        print(f"{path}: backbone; training curves are in {curves}")
    return 0


def _stages(options: argparse.Namespace) -> Path:
    """Run SpectraDINO's stages and return the backbone."""
    from spectradino_core.data.sources import MAPS
    from spectradino_core.training.pretrain import PretrainOptions, pretrain
    from spectradino_core.training.stages import changed, of_stage, parse_stages, stage_recipe

    refuse(options, _OF_OMNIVOROUS, "is for --system omnivorous")
    if options.maps is False:
        raise ValueError("--no-maps is for --system omnivorous")
    if options.rgb_distillation:
        refuse(options, "cache-teacher", "caches CLS alone: --rgb-distillation needs patch tokens")
    stages = parse_stages(options.stages or "1,2,3")
    for name in _BY_STAGE:
        value = getattr(options, name)
        for stage in set(value) - set(stages) if isinstance(value, dict) else ():
            raise ValueError(f"--{name} names stage {stage}, which --stages does not run")
    weights = without_none(infrared=options.infrared_alignment, rgb=options.rgb_distillation)
    recipes = []
    for stage in stages:
        recipe = changed(
            stage_recipe(options.variant, stage),
            lr=of_stage(options.lr, stage), crop=options.crop, learn_temperature=options.learn_temperature,
            **{name: of_stage(getattr(options, name), stage) for name in _BY_STAGE if name != "lr"},
        )  # fmt: skip
        recipes.append(replace(recipe, weights=replace(recipe.weights, **weights)))
    sources, held_out = _sources(options, (), MAPS)
    folder = options.out or Path("runs") / f"pretrain-{options.variant}"
    claim_folder(folder, "stage1 stage2 stage3 losses.png", "stage?/recipe.json", b'"recipe"')
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return pretrain(
        recipes,
        sources,
        held_out,
        PretrainOptions(
            folder=folder,
            strategy=options.strategy or ("fsdp" if options.variant == "g" and several else "ddp"),
            grad_accum=options.grad_accum or 1,
            activation_checkpointing=options.activation_checkpointing,
            cache_teacher=options.cache_teacher,
            tensorboard=options.tensorboard,
            **given(options, "teacher start steps checkpoint_every keep"),
            **_run_settings(options),
        ),
    )


def _omnivorous(options: argparse.Namespace) -> Path:
    """Run the Omnivorous recipe on plain DINOv2 or SpectraDINO and return the backbone."""
    from spectradino_core.data.sources import MAPS
    from spectradino_core.training.omnivorous import OmnivorousOptions, omnivorous_recipe, pretrain_omnivorous

    for name in _BY_STAGE:
        if isinstance(getattr(options, name), dict):
            raise ValueError(f"--{name}: --system omnivorous has no stages, give one value")
    refuse(options, _OF_STAGES, "is for SpectraDINO's stages, not for --system omnivorous")
    if options.start is not None:
        refuse(options, "teacher", "has no effect with --start, which anchors the run")
    if not (options.scenes or options.val_scenes) and options.maps is not None:
        raise ValueError("--maps and --no-maps have no effect without --scenes or --val-scenes")
    changes = without_none(
        lr=options.lr,
        alpha_max=options.alpha_max,
        depth_range_m=options.depth_range,
        colourise=False if options.no_palette else None,
        dense=0.0 if options.no_dense else None,
    )
    changes |= given(options, "steps batch crop clip anchor tokens")
    folder = options.out or Path("runs") / f"omnivorous-{options.variant}"
    claim_folder(folder, "last.safetensors recipe.json log.jsonl losses.png checkpoints", "recipe.json", b'"recipe"')
    recipe = replace(omnivorous_recipe(options.variant), **changes)
    maps = () if options.maps is False else MAPS
    sources, held_out = _sources(options, maps, maps)
    return pretrain_omnivorous(
        recipe,
        sources,
        OmnivorousOptions(
            folder=folder,
            start=options.start or options.teacher,
            base=options.base or "plain",
            checkpoint_every=options.checkpoint_every or 500,
            **_run_settings(options),
        ),
        held_out,
    )


def _run_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of a run that both systems have."""
    from spectradino_core.data.views import ViewOptions

    return {
        "views": ViewOptions(count=options.views),
        "log_every": options.log_every or 20,
        "override": tuple(options.override),
        **given(options, "device amp workers adaptive max_damaged seed"),
    }


def _sources(
    options: argparse.Namespace, maps: Sequence[str], held_out_maps: Sequence[str]
) -> tuple[list[ImageSource], list[ImageSource]]:
    """Return the sources for training and for validation, of which scenes have the given maps."""
    from spectradino_core.data.manifest import ManifestSource
    from spectradino_core.data.scene_sets import SceneImages
    from spectradino_core.data.sources import infrared_keys
    from spectradino_core.modality import INFRARED, Modality

    keys = None if options.bands is None else infrared_keys(options.bands)
    bands = INFRARED if keys is None else [Modality.parse(key) for key in keys]

    def listed(paths: Sequence[Path] | None) -> list[ImageSource]:
        return [ManifestSource(path, options.data_root, bands=keys) for path in paths or ()]

    sources, held_out = listed(options.manifest), listed(options.val_manifest)
    if options.scenes:
        sources.append(SceneImages(options.scenes, bands=bands, maps=maps))
    if not sources:
        raise ValueError("nothing to train on: give --manifest FILE, --scenes N or both")
    if options.val_scenes:
        held_out.append(SceneImages.held_out(options.val_scenes, bands=bands, maps=held_out_maps))
    return sources, held_out
