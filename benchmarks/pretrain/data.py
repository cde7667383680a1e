"""Pairs of the experiments, gathered in one folder: copies of the shared data set, and synthetic scenes."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from spectradino_core.data.make_manifest import make_manifest, write_scenes
from spectradino_core.data.manifest import read_manifest, write_manifest

__all__ = ["JUDGED", "Pairs", "find_data", "gather"]

TRAINED = {"roadscene": "roadscene_rgb_lwir", "epfl": "epfl_rgb_nir", "sentinel2": "s2_rgb_nir_swir"}
"""What is trained on, by the name its manifest gets."""
JUDGED = ("roadscene", "epfl")
"""Whose val splits are judged: Sentinel-2's has three items."""
_PATTERNS = {"roadscene": r"(?P<sequence>FLIR\w*?)_(?P<frame>\d+)"}
"""RoadScene is frames of a video."""


@dataclass(frozen=True)
class Pairs:
    """Manifests whose paths are all relative to one folder.

    Attributes:
        root: that folder.
        train: training pairs.
        judged: val splits.
    """

    root: Path
    train: list[Path]
    judged: list[Path]


def find_data(given: Path | None) -> Path:
    """Return the folder of the shared data set: as given, or from the environment, or beside the repository.

    Raises:
        ValueError: it is in none of these places.
    """
    named = os.environ.get("SPECTRADINO_DATA")
    here = Path(__file__).resolve().parents[3] / "shared" / "data"
    for folder in (given, Path(named) if named else None, here):
        if folder is not None and (folder / TRAINED["roadscene"]).is_dir():
            return folder
    raise ValueError("no data set of real pairs: give its folder (--data) or set SPECTRADINO_DATA")


def gather(data: Path, folder: Path, scenes: int) -> Pairs:
    """Copy the sets to `folder`, render scenes into it and write the manifests; existing files are kept.

    One folder, because `spectradino pretrain` has one root for all manifests that do not lie in their own.

    Args:
        data: the shared data set.
        folder: git-ignored; the images may not be redistributed.
        scenes: number of training scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, judged = [], []
    for name, title in TRAINED.items():
        if not (folder / title).is_dir():
            part = folder / f".{title}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(data / title, part)
            part.rename(folder / title)
        for split, into in (("train", train), ("val", judged)):
            if split == "val" and name not in JUDGED:
                continue
            path = folder / f"{name}_{split}.jsonl"
            if not path.is_file():
                make_manifest("folder", folder / title, path, split, _PATTERNS.get(name), folder)
            into.append(path)
    streets = folder / f"scenes_{scenes}.jsonl"
    if not streets.is_file():
        items = read_manifest(write_scenes(folder / streets.stem, scenes))
        moved = [replace(i, paths={key: f"{streets.stem}/{path}" for key, path in i.paths.items()}) for i in items]
        write_manifest(moved, streets)
    return Pairs(folder, [*train, streets], judged)
