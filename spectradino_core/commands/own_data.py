"""Options for a user's own folder of images and labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectradino_core.datasets.own import OwnFolder
    from spectradino_core.modality import Modality

__all__ = ["add_own_options", "is_indexed", "open_own_of", "refuse_own_options"]

_OPTIONS = ("rgb", "thermal", "classes", "band")


def add_own_options(group: Any) -> None:
    """Add the options to `group`, an argument parser or a group of one."""
    group.add_argument("--rgb", metavar="FOLDER", help="own data: folder of the RGB images (default: found by name)")
    group.add_argument("--thermal", metavar="FOLDER", help="own data: folder of the IR images (default: found by name)")
    group.add_argument(
        "--band", choices=("lwir", "swir", "nir"), help="own data: band of the IR images (default: by folder name)"
    )
    group.add_argument("--classes", metavar="A,B", help="own data: classes to use, in this order (default: all)")


def open_own_of(options: argparse.Namespace, folder: Path, band: Modality | None = None) -> OwnFolder:
    """Open the user's own folder as the options describe it.

    Args:
        options: with those of `add_own_options`.
        folder: the user's folder.
        band: IR band if neither --band nor the folder name gives one; None: LWIR.

    Raises:
        LabelError: see `open_own`.
    """
    from spectradino_core.datasets.own import open_own
    from spectradino_core.modality import Modality

    classes = None
    if options.classes is not None:
        classes = [name.strip() for name in options.classes.split(",") if name.strip()]
        if not classes:
            raise ValueError("--classes names no class: give e.g. person,car")
    return open_own(folder, options.band, options.rgb, options.thermal, classes, band or Modality.LWIR)


def refuse_own_options(options: argparse.Namespace, why: str) -> None:
    """Raise ValueError, with the reason `why`, if an option for own data was given."""
    for name in _OPTIONS:
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} is for own data, {why}")


def is_indexed(folder: Path, split: str) -> bool:
    """Return whether a folder has this project's own layout (see `paired_folder`)."""
    return (folder / f"index_{split}.json").is_file()
