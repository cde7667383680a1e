"""Readers of published data set layouts, one per layout, that list the pairs for a manifest.

| layout | location of the pairs | source |
|---|---|---|
| `folder` | `index_<split>.json`, or `<split>/<modality>/<id>.<ext>` with equal ids | ours |
| `ms2` | `sync_data/<sequence>/{rgb,nir,thr}/img_left/<frame>.png` | published |
| `rasmd` | sibling folders `rgb` and `swir` at any depth, names equal except for a prefix | work that uses it |
| `ir500k` | sibling folders `RGB` and `TIR` at any depth, equal file names | code that reads it |
| `nyuv2` | `<split>/<scene>/rgb_<n>.jpg`, `sync_depth_<n>.png` in millimetres | the usual extraction of NYUv2 |
| `ade20k` | `images/<split>/<id>.jpg` and `annotations/<split>/<id>.png`, 0 unlabelled | published (scene parsing) |
| `imagenet` | `<split>/<class>/<id>.JPEG`, one folder per class, RGB alone | published, torchvision's ImageFolder |

MS2 has one stereo rig per band: its bands are synchronised but not registered; `make_manifest` registers them by the
calibration of each sequence (see `ms2.py`).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from spectradino_core.data.images import IMAGE_ENDINGS
from spectradino_core.data.manifest import ManifestItem
from spectradino_core.data.ms2 import sequences_of
from spectradino_core.data.paired_folder import PairedFolderError, read_index
from spectradino_core.data.sources import MODALITY_KEYS, FramePosition
from spectradino_core.files import errors_as, folder_fault, listing
from spectradino_core.text import printable

log = logging.getLogger(__name__)

_MAX_UNPAIRED = 0.05

ALIASES = {"vis": "rgb", "visible": "rgb", "thr": "lwir", "thermal": "lwir", "tir": "lwir", "swir1": "swir"}
"""Other names of the modalities. Landsat's swir1 (1.55 to 1.75 um) is the band of an InGaAs camera; swir2 is not."""

_SIBLINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "rasmd": {"rgb": ("rgb", "visible", "vis"), "swir": ("swir", "ir")},
    "ir500k": {"rgb": ("rgb", "visible", "vis"), "lwir": ("tir", "ir", "thermal", "infrared", "lwir")},
}
"""Folder names of each modality by layout, in lower case, the most likely first."""


class LayoutError(ValueError):
    """A root does not have the given layout, or is incomplete; the message gives the expected files."""


def find_pairs(layout: str, root: Path, split: str | None = None, pattern: str | None = None) -> list[ManifestItem]:
    """List the items of a data set on disk, sorted.

    Args:
        layout: key of `LAYOUTS`.
        root: folder of the extracted data set.
        split: None: all sequences of `ms2`, otherwise the training split.
        pattern: regular expression with the group `sequence` and optionally `frame` (digits), searched in the RGB
            image's path without extension, for layouts without sequences: `(?P<sequence>FLIR)_(?P<frame>\\d+)`.

    Raises:
        LayoutError: unknown layout, nothing found, or more than 5 % of the items lack an image.
    """
    if layout not in LAYOUTS:
        raise LayoutError(f"unknown layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    if fault := folder_fault(root):
        raise LayoutError(fault)
    items = LAYOUTS[layout](root, split)
    if pattern is not None:
        compiled = _compiled(pattern)
        items = [_with_position(item, compiled) for item in items]
    return sorted(items, key=lambda item: item.paths["rgb"])


def _folder(root: Path, split: str | None) -> list[ManifestItem]:
    split = split or "train"
    index = root / f"index_{split}.json"
    if os.path.lexists(index):
        return _of_index(root, index)
    folders: dict[str, Path] = {}
    if (root / split).is_dir():
        for folder in sorted((root / split).iterdir()):
            key = ALIASES.get(folder.name.lower(), folder.name.lower())
            if folder.is_dir() and key in MODALITY_KEYS:
                folders.setdefault(key, folder)
    if "rgb" not in folders or len(folders) < 2:
        raise LayoutError(
            f"{root}: looked for {index.name}, and for folders {split}/rgb and {split}/<nir, swir, lwir, ..>; "
            f"found {listing(root / split if (root / split).is_dir() else root)}"
        )
    return _paired(root, folders, root.name, None)


def _ms2(root: Path, split: str | None) -> list[ManifestItem]:
    base = root / "sync_data" if (root / "sync_data").is_dir() else root
    sequences = sorted(folder for folder in base.iterdir() if folder.is_dir())
    if split is not None:
        names = sequences_of(root, split)
        sequences = [folder for folder in sequences if folder.name in names]
        if absent := sorted(set(names) - {folder.name for folder in sequences}):
            log.warning(
                "%s lacks %d of %d sequences of %s: %s", base, len(absent), len(names), split, ", ".join(absent)
            )
    items: list[ManifestItem] = []
    for sequence in sequences:
        folders = {key: sequence / name / "img_left" for key, name in (("rgb", "rgb"), ("nir", "nir"), ("lwir", "thr"))}
        present = {key: folder for key, folder in folders.items() if folder.is_dir()}
        if "rgb" in present and len(present) > 1:
            items += _paired(root, present, "ms2", sequence.name)
        elif present:
            missing = ", ".join(str(f.relative_to(root)) for f in folders.values() if not f.is_dir())
            raise LayoutError(f"{root}: sequence {sequence.name} lacks {missing}; extract all of its archives")
    if not items:
        raise LayoutError(
            f"{root}: looked for sync_data/<sequence>/rgb/img_left and nir/img_left or thr/img_left; "
            f"found {listing(base)}"
        )
    return items


def _siblings(layout: str, root: Path, split: str | None) -> list[ManifestItem]:
    names = _SIBLINGS[layout]
    items: list[ManifestItem] = []
    for parent in sorted(Path(where) for where, *_ in os.walk(root)):
        children = {child.name.lower(): child for child in parent.iterdir() if child.is_dir()}
        found = {
            key: next((children[name] for name in choices if name in children), None) for key, choices in names.items()
        }
        present = {key: folder for key, folder in found.items() if folder is not None and _images(folder)}
        if len(present) == len(names):
            where = parent.relative_to(root).as_posix()
            name_of = _frame_name if layout == "rasmd" else str
            items += _paired(root, present, layout, where if where != "." else layout, name_of)
    if not items:
        wanted = " beside ".join(" or ".join(choices) for choices in names.values())
        raise LayoutError(
            f"{root}: looked for folders of images named {wanted} (any case, any depth); found {listing(root)}"
        )
    return items


def _nyuv2(root: Path, split: str | None) -> list[ManifestItem]:
    folder = root / (split or "train")
    items, missing = [], []
    for path in sorted(folder.glob("*/rgb_*")):
        number = path.stem.removeprefix("rgb_")
        depth = path.with_name(f"sync_depth_{number}.png")
        if not depth.is_file():
            missing.append(depth.relative_to(root).as_posix())
            continue
        position = FramePosition(path.parent.name, int(number) if number.isdigit() else None)
        paths = {"rgb": path.relative_to(root).as_posix(), "depth": depth.relative_to(root).as_posix()}
        items.append(ManifestItem(paths, position, "nyuv2", depth_per_metre=1000.0))
    if not items and not missing:
        raise LayoutError(f"{root}: looked for {folder.name}/<scene>/rgb_<n>.jpg; found {listing(root)}")
    _check_missing(root, len(items), missing)
    return items


def _ade20k(root: Path, split: str | None) -> list[ManifestItem]:
    base = root / "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() else root
    split = split or "training"
    folders = {"rgb": base / "images" / split, "segmentation": base / "annotations" / split}
    if not all(folder.is_dir() for folder in folders.values()):
        wanted = " and ".join(folder.relative_to(root).as_posix() for folder in folders.values())
        raise LayoutError(f"{root}: looked for {wanted}; found {listing(base)}")
    return [replace(item, unlabelled=0) for item in _paired(root, folders, "ade20k", None)]


def _imagenet(root: Path, split: str | None) -> list[ManifestItem]:
    folder = root / (split or "train")
    items = [
        ManifestItem({"rgb": path.relative_to(root).as_posix()}, None, "imagenet", one.name)
        for one in sorted(folder.glob("*"))
        if one.is_dir()
        for path in _images(one)
    ]
    if not items:
        raise LayoutError(f"{root}: looked for {folder.name}/<class>/<images>; found {listing(root)}")
    return items


LAYOUTS: dict[str, Callable[[Path, str | None], list[ManifestItem]]] = {
    "folder": _folder,
    "ms2": _ms2,
    "rasmd": partial(_siblings, "rasmd"),
    "ir500k": partial(_siblings, "ir500k"),
    "nyuv2": _nyuv2,
    "ade20k": _ade20k,
    "imagenet": _imagenet,
}
"""Readers by name; each maps (root, split) to items."""


def _of_index(root: Path, index: Path) -> list[ManifestItem]:
    with errors_as(LayoutError, PairedFolderError):
        data = read_index(index)
    source = str(data.get("set") or root.name)
    items, missing = [], []
    for number, entry in enumerate(data["items"]):
        try:
            item = _of_entry(entry, source)
        except (ValueError, TypeError, AttributeError) as error:
            raise LayoutError(f"{index}, item {number}: {error}") from None
        gone = [text for text in item.paths.values() if not (root / text).is_file()]
        if gone:
            missing.append(gone[0])
        else:
            items.append(item)
    _check_missing(root, len(items), missing)
    return items


def _of_entry(entry: Mapping[str, Any], source: str) -> ManifestItem:
    line: dict[str, Any] = {"source": source, "class": entry.get("scene"), "sequence": entry.get("sequence")}
    for key, value in entry.items():
        name = ALIASES.get(key, key)
        if name in MODALITY_KEYS and isinstance(value, str):
            line.setdefault(name, value)
    if line["sequence"] is not None:
        line["frame"] = entry.get("frame")
    return ManifestItem.from_json(line)


def _paired(
    root: Path, folders: Mapping[str, Path], source: str, sequence: str | None, name_of: Callable[[str], str] = str
) -> list[ManifestItem]:
    """Return items of files with equal stems that have the RGB image and at least one other."""
    files = {key: {name_of(path.stem): path for path in _images(folder)} for key, folder in folders.items()}
    stems = sorted(set().union(*files.values()))
    items, missing = [], []
    for index, stem in enumerate(stems):
        paths = {key: of[stem].relative_to(root).as_posix() for key, of in files.items() if stem in of}
        lacking = [folder for key, folder in folders.items() if key not in paths]
        if lacking:
            missing.append(f"{lacking[0].relative_to(root)}/{stem}")
        if "rgb" in paths and len(paths) > 1:
            frame = int(stem) if stem.isdigit() else index
            items.append(ManifestItem(paths, None if sequence is None else FramePosition(sequence, frame), source))
    _check_missing(root, len(stems) - len(missing), missing)
    return items


def _frame_name(stem: str) -> str:
    """Return 000012 for rgb_aligned_000012 and swir_original_000012; other names are unchanged."""
    return re.sub(r"^(rgb_aligned|swir_original)_", "", stem)


def _check_missing(root: Path, complete: int, missing: Sequence[str]) -> None:
    total = complete + len(missing)
    if not total:
        raise LayoutError(f"{root}: the folders exist, but hold no images ({', '.join(IMAGE_ENDINGS)})")
    if len(missing) > _MAX_UNPAIRED * total:
        example = printable(missing[0])
        raise LayoutError(
            f"{root}: {len(missing)} of {total} items lack an image, for example {example}; the data set seems only "
            "partly extracted: extract all of its archives"
        )


def _with_position(item: ManifestItem, pattern: re.Pattern[str]) -> ManifestItem:
    match = pattern.search(item.paths["rgb"].rpartition(".")[0])
    if match is None:
        raise LayoutError(f"the pattern {pattern.pattern!r} does not match {item.paths['rgb']}")
    groups = match.groupdict()
    try:
        frame = int(groups["frame"]) if groups.get("frame") is not None else None
    except ValueError:
        raise LayoutError(f"the group frame of {pattern.pattern!r} is {groups['frame']!r}, not a number") from None
    return replace(item, position=FramePosition(groups["sequence"], frame))


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise LayoutError(f"the pattern {pattern!r} is not a regular expression ({error})") from None
    if "sequence" not in compiled.groupindex:
        raise LayoutError(f"the pattern {pattern!r} lacks a group (?P<sequence>..)")
    return compiled


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
