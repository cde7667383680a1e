"""Options for a user's own folder of images and labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectradino_core.modality import INFRARED
from spectradino_core.options import add_former, add_option, refuse

if TYPE_CHECKING:
    from spectradino_core.datasets import Benchmark
    from spectradino_core.datasets.own import OwnFolder
    from spectradino_core.modality import Modality

__all__ = ["BANDS", "add_own_options", "is_indexed", "open_own_of", "published", "refuse_own_options"]

BANDS = tuple(band.key for band in reversed(INFRARED))
_OPTIONS = "rgb ir classes band"


def add_own_options(group: Any, band: str = " of own data (default: by folder name)") -> argparse.Action:
    """Add the options to `group`, an argument parser or a group of one; `band` continues the help of --band.

    Returns:
        The option --band.
    """
    add_option(group, "--rgb", " (default: found by name)")
    ir = add_option(group, "--ir", " (default: found by name)")
    add_former(group, ir, "--thermal")
    add_option(group, "--classes", ", in this order (default: all)")
    return add_option(group, "--band", band, choices=BANDS)


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

    if options.classes == ():
        raise ValueError("--classes names no class: give e.g. person,car")
    return open_own(folder, options.band, options.rgb, options.ir, options.classes, band or Modality.LWIR)


def refuse_own_options(options: argparse.Namespace, why: str, words: str = _OPTIONS) -> None:
    """Raise ValueError, with the reason `why`, if an option for own data (of `words`) was given."""
    refuse(options, words, f"is for own data, {why}")


def published(options: argparse.Namespace) -> Benchmark:
    """Return the data set that --dataset names.

    Raises:
        ValueError: there is none of that name, or options that have no effect on it.
    """
    from spectradino_core.datasets import find_benchmark

    one = find_benchmark(options.dataset)
    refuse_own_options(options, "which is --data without --dataset")
    if not one.needs_root:
        refuse(options, "data", f"has no effect on {one.name}, which is rendered; own data needs a command of its own")
    return one


def is_indexed(folder: Path, split: str) -> bool:
    """Return whether a folder has this project's own layout (see `paired_folder`)."""
    return (folder / f"index_{split}.json").is_file()
