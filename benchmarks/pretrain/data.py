"""Pairs of the experiments, gathered in one folder: copies of the shared data set, and synthetic scenes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.data.make_manifest import make_manifest, write_scenes
from spectradino_core.data.manifest import ManifestItem, read_manifest, write_manifest

TRAINED = {
    "roadscene": "roadscene_rgb_lwir",
    "msrs": "msrs_rgb_lwir",
    "m3svd": "m3svd_rgb_lwir",
    "epfl": "epfl_rgb_nir",
    "road": "road_rgb_swir",
    "sentinel2": "s2_rgb_nir_swir",
}
"""Pairs to train on, by the name their manifest gets."""
EVALUATED = ("roadscene", "msrs", "m3svd", "epfl", "road")
"""Sets whose val splits are evaluated; that of Sentinel-2 has three items."""
RGB_ONLY = {"camvid": "camvid_rgb", "coco": "coco_street_rgb"}
"""Images that only the teacher sees."""
LABELLED = "msrs_rgb_lwir"
"""Pairs with boxes that detectors are trained on."""
PATTERNS = {
    "roadscene": r"(?P<sequence>FLIR\w*?)_(?P<frame>\d+)",
    "m3svd": r"(?P<sequence>\d{4}_\d{4})_(?P<frame>\d+)",
}
"""These are frames of videos."""


@dataclass(frozen=True)
class Pairs:
    """Manifests whose paths are all relative to one folder.

    Attributes:
        root: that folder.
        train: training pairs.
        evaluated: val splits.
        rgb: RGB images without a partner.
        labelled: folders of labelled pairs by their number of training pairs, see `labelled_folder`.
    """

    root: Path
    train: list[Path]
    evaluated: list[Path]
    rgb: list[Path]
    labelled: dict[int, Path]


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


def gather(data: Path, folder: Path, scenes: int, labelled: Sequence[int]) -> Pairs:
    """Copy the sets to `folder`, render scenes into it and write the manifests; existing files are kept.

    One folder, because `spectradino pretrain` has one root for all manifests that do not lie in their own. It is
    git-ignored: the images may not be redistributed.

    Args:
        data: the shared data set.
        scenes: number of training scenes.
        labelled: numbers of labelled pairs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, evaluated, rgb = [], [], []
    for name, title in (TRAINED | RGB_ONLY).items():
        copied(data / title, folder / title)
        for split, into in (("train", train), ("val", evaluated)):
            if split == "val" and name not in EVALUATED:
                continue
            path = folder / f"{name}_{split}.jsonl"
            if name in RGB_ONLY:
                into = rgb
                if not path.is_file():
                    index = json.loads((folder / title / f"index_{split}.json").read_text(encoding="utf-8"))
                    # A manifest's item needs a partner or a class.
                    items = [ManifestItem({"rgb": f"{title}/{item['rgb']}"}, label=name) for item in index["items"]]
                    write_manifest(items, path)
            elif not path.is_file():
                make_manifest("folder", folder / title, path, split, PATTERNS.get(name), folder)
            into.append(path)
    train.append(rendered(folder / f"scenes_{scenes}.jsonl", scenes))
    few = {count: labelled_folder(folder / LABELLED, folder / f"labelled_{count}", count) for count in labelled}
    return Pairs(folder, train, evaluated, rgb, few)


def copied(data: Path, folder: Path) -> Path:
    """Copy a folder, unless there is a copy already."""
    if not folder.is_dir():
        part = _part_of(folder)
        shutil.copytree(data, part)
        part.rename(folder)
    return folder


def rendered(manifest: Path, count: int, **options: Any) -> Path:
    """Render scenes into the folder named like the manifest, with `options` of `write_scenes`, unless it exists."""
    if not manifest.is_file():
        items = read_manifest(write_scenes(manifest.with_suffix(""), count, **options))
        moved = [replace(i, paths={key: f"{manifest.stem}/{path}" for key, path in i.paths.items()}) for i in items]
        write_manifest(moved, manifest)
    return manifest


def _part_of(folder: Path) -> Path:
    """Return where a folder is prepared; what an interrupted run left there is removed."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    return part


def labelled_folder(data: Path, folder: Path, count: int) -> Path:
    """Return a folder of own data with `count` of a set's labelled training pairs, evenly spread, and all of its val
    pairs; an existing one is kept.

    Raises:
        ValueError: the set has fewer pairs.
    """
    if folder.is_dir():
        return folder
    part = _part_of(folder)
    for split in ("train", "val"):
        index = json.loads((data / f"index_{split}.json").read_text(encoding="utf-8"))["items"]
        labels = json.loads((data / f"instances_{split}.json").read_text(encoding="utf-8"))
        if split == "train":
            if count > len(index):
                raise ValueError(f"{data} has {len(index)} training pairs, {count} are asked for")
            index = [index[round(place)] for place in np.linspace(0, len(index) - 1, count)]
        for item in index:
            for key in ("rgb", "lwir"):
                to = part / key / split / Path(item[key]).name
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(data / item[key], to)
        names = {Path(item["rgb"]).name for item in index}
        kept = [dict(image, file_name=Path(image["file_name"]).name) for image in labels["images"]]
        kept = [image for image in kept if image["file_name"] in names]
        ids = {image["id"] for image in kept}
        chosen = [box for box in labels["annotations"] if box["image_id"] in ids]
        content = {"images": kept, "annotations": chosen, "categories": labels["categories"]}
        (part / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    part.rename(folder)
    return folder
