"""Options of a user's own folder of images and labels, for the commands that take one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectradino_core.data.own import OwnFolder
    from spectradino_core.modality import Modality

__all__ = ["add_own_options", "is_indexed", "open_own_of", "refuse_own_options"]

_OPTIONS = ("rgb", "thermal", "classes", "band")


def add_own_options(group: Any) -> None:
    """Declares them.

    Args:
        group: an argument parser, or a group of one.
    """
    group.add_argument("--rgb", metavar="FOLDER", help="own data: the RGB images' folder, if its name doesn't say so")
    group.add_argument("--thermal", metavar="FOLDER", help="own data: the infrared images' folder, likewise")
    group.add_argument(
        "--band", choices=("lwir", "swir", "nir"), help="own data: of the infrared images (default: as folders say)"
    )
    group.add_argument(
        "--classes", metavar="A,B", help="own data: only these of its classes, in this order (default: all)"
    )


def open_own_of(options: argparse.Namespace, folder: Path, band: Modality | None = None) -> OwnFolder:
    """The folder, as the options describe it.

    Args:
        options: with those of `add_own_options`.
        folder: the user's folder.
        band: the infrared band where neither --band nor the folder says it; None: LWIR.

    Raises:
        LabelError: see `open_own`.
    """
    from spectradino_core.data.own import open_own
    from spectradino_core.modality import Modality

    classes = None
    if options.classes is not None:
        classes = [name.strip() for name in options.classes.split(",") if name.strip()]
        if not classes:
            raise ValueError("--classes names no class: give them as person,car")
    return open_own(folder, options.band, options.rgb, options.thermal, classes, band or Modality.LWIR)


def refuse_own_options(options: argparse.Namespace, why: str) -> None:
    """
    Raises:
        ValueError: one of the options was given where there is no own data.
    """
    for name in _OPTIONS:
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} is for own data, {why}")


def is_indexed(folder: Path, split: str) -> bool:
    """Whether a folder has this project's own layout (see `paired_folder`)."""
    return (folder / f"index_{split}.json").is_file()
