"""`spectradino pretrain --system omnivorous`: the Omnivorous recipe on plain DINOv2 or SpectraDINO."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

__all__ = ["add_arguments", "run"]

_OF_STAGES = ("stage", "stages", "val", "val_scenes", "ema", "learn_temperature", "infrared_alignment", "cache_teacher")


def add_arguments(command: Any) -> None:
    """Add the options of `pretrain` that only this system has."""
    group = command.add_argument_group("--system omnivorous")
    group.add_argument(
        "--base", default="plain", choices=("plain", "both"),
        help="plain: every band is an RGB image; both: on top of SpectraDINO's stems and adapters (--start)",
    )  # fmt: skip
    group.add_argument("--anchor", type=float, metavar="WEIGHT", help="weight of teacher anchoring (default: 10)")
    group.add_argument("--no-maps", action="store_true", help="skip the scenes' depth and segmentation maps")


def run(options: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        ValueError: an option of SpectraDINO's stages, or nothing to train on.
    """
    from dataclasses import replace

    from spectradino_core.data.manifest import ManifestSource
    from spectradino_core.data.scene_sets import SceneImages
    from spectradino_core.data.sources import MAPS, ImageSource
    from spectradino_core.data.views import ViewOptions
    from spectradino_core.training.omnivorous import omnivorous_recipe
    from spectradino_core.training.pretrain_omnivorous import OmnivorousOptions, pretrain_omnivorous

    if given := [name for name in _OF_STAGES if getattr(options, name, None)]:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"{names}: not for --system omnivorous but for SpectraDINO's stages; leave it out")
    changes = {name: getattr(options, name) for name in ("steps", "batch", "rate", "crop", "clip", "anchor")}
    recipe = omnivorous_recipe(options.variant)
    recipe = replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    sources: list[ImageSource] = [ManifestSource(path, options.root) for path in options.data]
    if options.scenes:
        sources.append(SceneImages(options.scenes, maps=() if options.no_maps else MAPS))
    if not sources:
        raise ValueError("nothing to train on: give --data MANIFEST, --scenes N or both")
    path = pretrain_omnivorous(
        recipe,
        sources,
        OmnivorousOptions(
            folder=options.out or Path("runs") / f"omnivorous-{options.variant}",
            start=options.start or options.teacher,
            base=options.base,
            device=options.device,
            amp=options.amp,
            workers=options.workers,
            views=ViewOptions(count=options.views),
            adaptive=options.adaptive,
            max_damaged=options.max_damaged,
            seed=options.seed,
            checkpoint_every=options.checkpoint_every or 500,
            log_every=options.log_every,
        ),
    )
    if os.environ.get("RANK", "0") == "0":
        print(f"{path}: backbone; training curves are in {path.parent / 'losses.png'}")
    return 0
