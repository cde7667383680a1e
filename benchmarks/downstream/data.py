"""Pairs for pretraining, in one folder: RoadScene and synthetic scenes, RGB and LWIR."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from spectradino_core.data.make_manifest import make_manifest, write_scenes
from spectradino_core.data.manifest import read_manifest, write_manifest
from spectradino_core.modality import Modality

__all__ = ["Pairs", "gather"]

ROADSCENE = "roadscene_rgb_lwir"
_FRAMES = r"(?P<sequence>FLIR\w*?)_(?P<frame>\d+)"
"""RoadScene is frames of a video."""


@dataclass(frozen=True)
class Pairs:
    """Manifests whose paths are relative to one folder.

    Attributes:
        root: that folder.
        train: pairs for pretraining.
        judged: RoadScene's val split.
        roadscene: the data set itself, with its boxes.
    """

    root: Path
    train: list[Path]
    judged: Path
    roadscene: Path


def gather(data: Path, folder: Path, streets: int) -> Pairs:
    """Copy RoadScene to `folder`, render scenes into it and write the manifests; existing files are kept.

    Args:
        data: the shared data set.
        folder: git-ignored; the images may not be redistributed.
        streets: number of scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / ROADSCENE
    if not home.is_dir():
        part = folder / f".{ROADSCENE}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(data / ROADSCENE, part)
        part.rename(home)
    manifests = {split: folder / f"roadscene_{split}.jsonl" for split in ("train", "val")}
    for split, path in manifests.items():
        if not path.is_file():
            make_manifest("folder", home, path, split, _FRAMES, folder)
    rendered = folder / f"streets_{streets}.jsonl"
    if not rendered.is_file():
        items = read_manifest(write_scenes(folder / rendered.stem, streets, bands=(Modality.LWIR,), maps=()))
        moved = [replace(i, paths={key: f"{rendered.stem}/{path}" for key, path in i.paths.items()}) for i in items]
        write_manifest(moved, rendered)
    return Pairs(folder, [manifests["train"], rendered], manifests["val"], home)
