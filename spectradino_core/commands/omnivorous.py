"""`spectradino pretrain --system omnivorous`: the Omnivorous recipe on plain DINOv2 or SpectraDINO."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from spectradino_core.options import add_option, refuse

__all__ = ["OWN", "add_arguments", "run"]

OWN = "base anchor maps alpha-max tokens no-dense no-palette depth-range"
"""Options of this system alone."""

_OF_STAGES = (
    "stages epochs ema learn-temperature infrared-alignment rgb-distillation strategy grad-accum "
    "activation-checkpointing cache-teacher keep tensorboard"
)


def add_arguments(command: Any) -> None:
    """Add the options of `pretrain` that only this system has."""
    group = command.add_argument_group("--system omnivorous")
    group.add_argument(
        "--base", choices=("plain", "both"),
        help="plain (default): every band is an RGB image; both: on top of SpectraDINO's stems and adapters (--start)",
    )  # fmt: skip
    group.add_argument("--anchor", type=float, metavar="WEIGHT", help="weight of teacher anchoring (default: 10)")
    group.add_argument(
        "--alpha-max", type=float, metavar="V",
        help="maximum fraction of RGB blended into maps and IR images, 0 to 1 (default: 0.5)",
    )  # fmt: skip
    group.add_argument("--tokens", type=int, metavar="N", help="patch tokens sampled per image (default: 64)")
    group.add_argument("--no-dense", action="store_true", help="align and anchor CLS only, not patch tokens")
    group.add_argument(
        "--no-palette", action="store_true",
        help="keep maps (and IR images, unless --base both) grey instead of colouring them by the RGB image",
    )  # fmt: skip
    add_option(group, "--depth-range")
    add_option(group, "--maps", " of the scenes too (default: yes)", action=argparse.BooleanOptionalAction)


def run(options: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        ValueError: an option of SpectraDINO's stages, or nothing to train on.
    """
    from dataclasses import replace

    from spectradino_core.data.manifest import ManifestSource
    from spectradino_core.data.scene_sets import SceneImages
    from spectradino_core.data.sources import MAPS, ImageSource, infrared_keys
    from spectradino_core.data.views import ViewOptions
    from spectradino_core.modality import INFRARED, Modality
    from spectradino_core.training.omnivorous import OmnivorousOptions, omnivorous_recipe, pretrain_omnivorous

    refuse(options, _OF_STAGES, "is for SpectraDINO's stages, not for --system omnivorous")
    if options.start is not None:
        refuse(options, "teacher", "has no effect with --start, which anchors the run")
    if not (options.scenes or options.val_scenes) and options.maps is not None:
        raise ValueError("--maps and --no-maps have no effect without --scenes or --val-scenes")
    changes = {name: getattr(options, name) for name in ("steps", "batch", "crop", "clip", "anchor")}
    changes |= {"rate": options.lr, "largest_alpha": options.alpha_max, "tokens": options.tokens}
    changes["depth_range_m"] = options.depth_range
    changes |= {"colourise": False if options.no_palette else None, "dense": 0.0 if options.no_dense else None}
    recipe = omnivorous_recipe(options.variant)
    recipe = replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    bands = None if options.bands is None else infrared_keys(options.bands)
    sources: list[ImageSource] = [
        ManifestSource(path, options.data_root, bands=bands) for path in options.manifest or ()
    ]
    of_scenes = INFRARED if bands is None else [Modality.parse(key) for key in bands]
    maps = () if options.maps is False else MAPS
    if options.scenes:
        sources.append(SceneImages(options.scenes, bands=of_scenes, maps=maps))
    if not sources:
        raise ValueError("nothing to train on: give --manifest FILE, --scenes N or both")
    validation: list[ImageSource] = [
        ManifestSource(path, options.data_root, bands=bands) for path in options.val_manifest or ()
    ]
    if options.val_scenes:
        validation.append(SceneImages.held_out(options.val_scenes, bands=of_scenes, maps=maps))
    path = pretrain_omnivorous(
        recipe,
        sources,
        OmnivorousOptions(
            folder=options.out or Path("runs") / f"omnivorous-{options.variant}",
            start=options.start or options.teacher,
            base=options.base or "plain",
            device=options.device,
            amp=options.amp,
            workers=options.workers,
            views=ViewOptions(count=options.views),
            adaptive=options.adaptive,
            max_damaged=options.max_damaged,
            seed=options.seed,
            checkpoint_every=options.checkpoint_every or 500,
            log_every=options.log_every or 20,
            override=tuple(options.override),
        ),
        validation,
    )
    if os.environ.get("RANK", "0") == "0":
        print(f"{path}: backbone; training curves are in {path.parent / 'losses.png'}")
    return 0
