"""Manifests from data sets as they are published: one small reader a layout.

| layout | where pairs are looked for | status |
|---|---|---|
| `folder` | `index_<split>.json`, or `<split>/<modality>/<id>.<ext>` with equal ids | ours |
| `ms2` | `sync_data/<sequence>/{rgb,nir,thr}/img_left/<frame>.png` | published |
| `rasmd` | sibling folders `rgb` and `swir` at any depth, names equal but for a prefix | as work on it has it |
| `ir500k` | sibling folders `RGB` and `TIR` at any depth, equal file names | as code that reads it has it |

MS2 has one stereo rig a band: its bands are synchronised but not registered, so patches correspond only roughly (CLS
does). Register it first where that matters, and use the layout `folder`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectradino_core.data.manifest import ManifestItem
from spectradino_core.data.paired_folder import PairedFolderError, read_index
from spectradino_core.data.sources import MODALITY_KEYS, Moment
from spectradino_core.files import listing
from spectradino_core.text import printable

__all__ = ["LAYOUTS", "LayoutError", "find_pairs"]

_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_MOST_UNPAIRED = 0.05

ALIASES = {"vis": "rgb", "visible": "rgb", "thr": "lwir", "thermal": "lwir", "tir": "lwir", "swir1": "swir"}
"""Other names of the modalities. Landsat's swir1 (1.55 to 1.75 um) is what an InGaAs camera sees; swir2 is left out."""

_SIBLINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "rasmd": {"rgb": ("rgb", "visible", "vis"), "swir": ("swir", "ir")},
    "ir500k": {"rgb": ("rgb", "visible", "vis"), "lwir": ("tir", "ir", "thermal", "infrared", "lwir")},
}
"""By layout, the folder names of each modality in lower case, the likeliest first."""


class LayoutError(ValueError):
    """A root is not the data set it was said to be, or only part of it; the message says what was looked for."""


def find_pairs(layout: str, root: Path, split: str = "train", pattern: str | None = None) -> list[ManifestItem]:
    """The items of a data set on disk, sorted.

    Args:
        layout: key of `LAYOUTS`.
        root: the folder it was extracted to.
        split: for `folder`.
        pattern: regular expression with the groups `sequence` and, if need be, `frame` (digits), searched in the colour
            image's path without its ending, for layouts that don't tell them: `(?P<sequence>FLIR)_(?P<frame>\\d+)`.

    Raises:
        LayoutError: unknown layout, nothing found, or more than a twentieth of the images lack their partner.
    """
    if layout not in LAYOUTS:
        raise LayoutError(f"unknown layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise LayoutError(f"{root}: no such folder")
    items = LAYOUTS[layout](root, split)
    if pattern is not None:
        items = [_with_moment(item, _compiled(pattern)) for item in items]
    return sorted(items, key=lambda item: item.paths["rgb"])


# ------------------------------------------------------------------------------------------------------------- readers


def _folder(root: Path, split: str) -> list[ManifestItem]:
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
            f"there is {listing(root / split if (root / split).is_dir() else root)}"
        )
    return _paired(root, folders, root.name, None)


def _ms2(root: Path, split: str) -> list[ManifestItem]:
    base = root / "sync_data" if (root / "sync_data").is_dir() else root
    items: list[ManifestItem] = []
    for sequence in sorted(folder for folder in base.iterdir() if folder.is_dir()):
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
            f"there is {listing(base)}"
        )
    return items


def _siblings(layout: str) -> Callable[[Path, str], list[ManifestItem]]:
    names = _SIBLINGS[layout]

    def read(root: Path, split: str) -> list[ManifestItem]:
        items: list[ManifestItem] = []
        for parent in _folders(root):
            children = {child.name.lower(): child for child in parent.iterdir() if child.is_dir()}
            found = {
                key: next((children[name] for name in choices if name in children), None)
                for key, choices in names.items()
            }
            present = {key: folder for key, folder in found.items() if folder is not None and _has_images(folder)}
            if len(present) == len(names):
                where = parent.relative_to(root).as_posix()
                name_of = _frame_name if layout == "rasmd" else str
                items += _paired(root, present, layout, where if where != "." else layout, name_of)
        if not items:
            wanted = " beside ".join(" or ".join(choices) for choices in names.values())
            raise LayoutError(
                f"{root}: looked for folders of images named {wanted} (any case, any depth); there is {listing(root)}"
            )
        return items

    return read


LAYOUTS: dict[str, Callable[[Path, str], list[ManifestItem]]] = {
    "folder": _folder,
    "ms2": _ms2,
    "rasmd": _siblings("rasmd"),
    "ir500k": _siblings("ir500k"),
}
"""Readers by name: (root, split) to items."""


# ------------------------------------------------------------------------------------------------------------- helpers


def _of_index(root: Path, index: Path) -> list[ManifestItem]:
    try:
        data = read_index(index)
    except PairedFolderError as error:
        raise LayoutError(str(error)) from None
    source = str(data.get("set") or root.name)
    items, missing = [], []
    for place, entry in enumerate(data["items"]):
        try:
            item = _of_entry(entry, source)
        except (ValueError, TypeError, AttributeError) as error:
            raise LayoutError(f"{index}, item {place}: {error}") from None
        gone = [text for text in item.paths.values() if not (root / text).is_file()]
        if gone:
            missing.append(gone[0])
        else:
            items.append(item)
    _check_missing(root, len(items), missing)
    return items


def _of_entry(entry: Mapping[str, Any], source: str) -> ManifestItem:
    line: dict[str, Any] = {"source": source}
    for key, value in entry.items():
        name = ALIASES.get(key, key)
        if name in MODALITY_KEYS and isinstance(value, str):
            line.setdefault(name, value)
    if entry.get("scene") is not None:
        line["class"] = entry["scene"]
    if entry.get("sequence") is not None:
        line |= {key: entry[key] for key in ("sequence", "frame") if entry.get(key) is not None}
    return ManifestItem.from_json(line)


def _paired(
    root: Path,
    folders: Mapping[str, Path],
    source: str,
    sequence: str | None,
    name_of: Callable[[str], str] = str,
) -> list[ManifestItem]:
    """Items of files whose stems have equal names. The colour image must be there; of the others, at least one."""
    files = {key: {name_of(path.stem): path for path in _images(folder)} for key, folder in folders.items()}
    stems = sorted(set().union(*files.values()))
    items, missing = [], []
    for place, stem in enumerate(stems):
        paths = {key: of[stem].relative_to(root).as_posix() for key, of in files.items() if stem in of}
        if len(paths) < len(files):
            missing.append(
                next(f"{folders[key].relative_to(root)}/{stem}" for key in folders if stem not in files[key])
            )
        if "rgb" in paths and len(paths) > 1:
            frame = int(stem) if stem.isdigit() else place
            items.append(ManifestItem(paths, None if sequence is None else Moment(sequence, frame), source))
    _check_missing(root, len(stems) - len(missing), missing)
    return items


def _frame_name(stem: str) -> str:
    """rgb_aligned_000012 and swir_original_000012 are both 000012; other names stay as they are."""
    return re.sub(r"^(rgb_aligned|swir_original)_", "", stem)


def _check_missing(root: Path, whole: int, missing: Sequence[str]) -> None:
    total = whole + len(missing)
    if not total:
        raise LayoutError(f"{root}: the folders are there, but hold no images ({', '.join(_IMAGES)})")
    if len(missing) > _MOST_UNPAIRED * total:
        example = printable(missing[0])
        raise LayoutError(
            f"{root}: {len(missing)} of {total} items lack an image, for example {example}; the data set seems only "
            "partly extracted"
        )


def _with_moment(item: ManifestItem, pattern: re.Pattern[str]) -> ManifestItem:
    match = pattern.search(item.paths["rgb"].rpartition(".")[0])
    if match is None:
        raise LayoutError(f"the pattern {pattern.pattern!r} does not fit {item.paths['rgb']}")
    groups = match.groupdict()
    try:
        frame = int(groups["frame"]) if groups.get("frame") is not None else None
    except ValueError:
        raise LayoutError(f"the group frame of {pattern.pattern!r} is {groups['frame']!r}, not a number") from None
    return ManifestItem(item.paths, Moment(groups["sequence"], frame), item.source, item.label, item.depth_per_metre)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise LayoutError(f"the pattern {pattern!r} is no regular expression ({error})") from None
    if "sequence" not in compiled.groupindex:
        raise LayoutError(f"the pattern {pattern!r} lacks a group (?P<sequence>..)")
    return compiled


def _folders(root: Path) -> Iterator[Path]:
    for where, below, _ in os.walk(root):
        below.sort()
        yield Path(where)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGES)


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in _IMAGES for path in folder.iterdir())
