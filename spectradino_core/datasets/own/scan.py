"""Search of a user's folder for images and label files, with camera, split and name from their paths.

Folder names show the camera (`rgb`, `visible_images`, `thermal`, `lwir`, ..) and the split (`train`, `val`, `valid`,
`test`), at any depth and in any order; other folders are part of an image's name. Images of the two cameras with the
same name are a pair. If no name shows the camera, grey images are taken for infrared.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from spectradino_core.data.images import IMAGE_ENDINGS, in_colour
from spectradino_core.data.labels import LabelError
from spectradino_core.data.labels.files import plain_stem, read_text
from spectradino_core.datasets.files import evenly_spread
from spectradino_core.files import folder_fault
from spectradino_core.modality import Modality

RGB, INFRARED = "rgb", "infrared"
SPLITS = ("train", "val", "test")

_SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
_RGB_WORDS = frozenset({"rgb", "color", "colour", "visible", "vis", "visual"})
_BANDS: dict[str, Modality | None] = {
    "nir": Modality.NIR, "swir": Modality.SWIR, "ir": None, "infrared": None, "lwir": Modality.LWIR,
    "thermal": Modality.LWIR, "fir": Modality.LWIR, "mwir": Modality.LWIR, "tir": Modality.LWIR,
}  # fmt: skip
_CONTAINERS = frozenset({
    "images", "image", "imgs", "img", "jpegimages", "labels", "label", "annotations", "annotation", "anns", "xml",
    "txt", "yolo", "coco", "voc", "obj", "data", "boxes", "bboxes",
})  # fmt: skip
_MASK_WORDS = frozenset({
    "mask", "masks", "segmentation", "segmentationclass", "segmentationobject", "semantic", "label", "labels",
    "annotation", "annotations", "gt",
})  # fmt: skip
_IMAGE_WORDS = frozenset({"images", "image", "imgs", "img", "jpegimages"})
_LABELS = (".json", ".xml", ".txt", ".yaml", ".yml", ".names")
_WORD = re.compile(r"[a-z]+|\d+")
_MAX_DEPTH, _MAX_FILES = 8, 2_000_000
_COLOUR_SAMPLES = 8


@dataclass(frozen=True)
class File:
    """An image or label file.

    Attributes:
        relative: path relative to the root, with forward slashes.
        split, camera: one of `SPLITS`, and RGB or INFRARED; None: not in the path.
        name: the other folders and the stem, with Roboflow's renaming undone.
        folders: those other folders in lower case, also if the name was shortened; they relate labels to images.
    """

    path: Path
    relative: str
    split: str | None
    camera: str | None
    name: str
    folders: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2]


@dataclass
class Scan:
    """Contents of a folder.

    Attributes:
        images: all images, with camera and split.
        labels: possible label files by ending.
        band: infrared band by folder names; None: unknown.
        remarks: assumptions and skipped files, as messages.
    """

    images: list[File] = field(default_factory=list)
    labels: dict[str, list[File]] = field(default_factory=lambda: defaultdict(list))
    band: Modality | None = None
    remarks: list[str] = field(default_factory=list)


def scan(root: Path, rgb: str | None = None, infrared: str | None = None) -> Scan:
    """Search a folder; symbolic links in it are followed.

    `rgb` and `infrared` are folders of the two cameras, if their names do not show the camera.

    Raises:
        LabelError: no such folder, it holds no images, or the camera of some images is ambiguous.
    """
    if fault := folder_fault(root):
        raise LabelError(fault)
    found, masks = Scan(), 0
    bands: set[Modality] = set()
    for path, parts in _walk(root):
        ending = path.suffix.lower()
        if ending not in IMAGE_ENDINGS + _LABELS:
            continue
        file, band, is_mask = _described(path, parts, ending in IMAGE_ENDINGS, rgb, infrared)
        if ending not in IMAGE_ENDINGS:
            found.labels[".yaml" if ending == ".yml" else ending].append(file)
            continue
        if is_mask:
            masks += 1
            continue
        found.images.append(file)
        if band is not None:
            bands.add(band)
    if masks:
        found.remarks.append(
            f"{masks} images in folders of labels or masks are skipped: own folders are read for boxes"
        )
    if not found.images:
        raise LabelError(f"{root}: holds no images ({', '.join(IMAGE_ENDINGS)}) in it or its folders")
    for name, camera in ((rgb, RGB), (infrared, INFRARED)):
        if name is not None and not any(file.camera == camera for file in found.images):
            raise LabelError(f"{root}: no folder named {name!r} holds images")
    if len(bands) > 1:
        names = " and ".join(sorted(band.name for band in bands))
        raise LabelError(f"{root}: holds images of {names}; a model takes one infrared band: name its folder")
    found.band = next(iter(bands), None)
    _assign_cameras(root, found)
    found.images = _distinct(_two_folders(found.images))
    _split_by_lists(found)
    return found


def _walk(root: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """List files in order with their folders below the root; visits no folder twice, in spite of links."""
    found: list[tuple[Path, tuple[str, ...]]] = []
    seen: set[tuple[int, int]] = set()
    todo: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    while todo:
        folder, parts = todo.pop(0)
        try:
            state = folder.stat()
            if (state.st_dev, state.st_ino) in seen or len(parts) > _MAX_DEPTH:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as entries:
                names = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            raise LabelError(f"{folder}: can't be listed ({error.strerror})") from None
        found += [(folder / name, parts) for name, is_folder in names if not is_folder]
        todo += [(folder / name, (*parts, name)) for name, is_folder in names if is_folder]
        if len(found) > _MAX_FILES:
            raise LabelError(f"{root}: more than {_MAX_FILES} files; give the data set's own folder")
    return found


def _described(
    path: Path, parts: Sequence[str], is_image: bool, rgb: str | None, infrared: str | None
) -> tuple[File, Modality | None, bool]:
    split = camera = band = None
    rest: list[str] = []
    is_mask = False
    given_folders = {name.strip("/").casefold(): which for name, which in ((rgb, RGB), (infrared, INFRARED)) if name}
    for i, part in enumerate(parts):
        words = _WORD.findall(part.casefold())
        explicit = given_folders.get(part.casefold()) or given_folders.get("/".join(parts[: i + 1]).casefold())
        bands = [_BANDS[word] for word in words if word in _BANDS]
        if explicit:
            camera, band = explicit, bands[0] if bands and explicit == INFRARED else None
            continue
        is_named_rgb = rgb is None and any(word in _RGB_WORDS for word in words)
        is_named_infrared = infrared is None and bool(bands)
        if is_named_rgb != is_named_infrared:  # "rgb_thermal_pairs" shows neither; deeper folders take precedence
            camera, band = (RGB, None) if is_named_rgb else (INFRARED, bands[0])
        split = next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), split)
        # Images in a folder of labels are masks, which would pass for infrared images because they are grey.
        is_mask = is_mask or (not _MASK_WORDS.isdisjoint(words) and _IMAGE_WORDS.isdisjoint(words))
        # Other words of a folder's name, such as the day of "thermal_day", are part of the item's name.
        known = (
            _SPLIT_WORDS.keys()
            | _CONTAINERS
            | (_RGB_WORDS | _BANDS.keys() if is_named_rgb != is_named_infrared else set())
        )
        kept = [word for word in words if word not in known]
        rest += [part] if len(kept) == len(words) else ["_".join(kept)] if kept else []
    if not is_image:  # instances_thermal_train.json
        for word in _WORD.findall(path.stem.casefold()) if path.suffix.lower() == ".json" else ():
            split = split or _SPLIT_WORDS.get(word)
            camera = camera or (RGB if word in _RGB_WORDS else INFRARED if word in _BANDS else None)
    name = "/".join((*rest, plain_stem(path.name)))
    folders = tuple(part.casefold() for part in rest)
    return File(path, "/".join((*parts, path.name)), split, camera, name, folders), band, is_mask


def _assign_cameras(root: Path, found: Scan) -> None:
    """Assign a camera by colour to images whose folders do not show it."""
    groups: dict[str, list[File]] = defaultdict(list)
    for file in found.images:
        if file.camera is None:
            groups[file.name.rpartition("/")[0]].append(file)
    if not groups:
        return
    cameras: dict[str, str] = {}
    for group, files in groups.items():
        sampled = evenly_spread(files, _COLOUR_SAMPLES)
        coloured = sum(in_colour(file.path) for file in sampled)
        cameras[group] = RGB if 2 * coloured >= len(sampled) else INFRARED
        shown = group or files[0].relative.rpartition("/")[0] or root.name
        kind = "RGB, because they are in colour" if cameras[group] == RGB else "infrared, because they are grey"
        found.remarks.append(f"the images in {shown!r} are taken for {kind}; --rgb and --ir name folders otherwise")
    stems = {group: {file.stem for file in files} for group, files in groups.items()}
    pair = [group for group in groups if any(stems[group] & stems[other] for other in groups if other != group)]
    if len(pair) == 2 and cameras[pair[0]] == cameras[pair[1]] and len(groups) == 2 and all(pair):
        raise LabelError(
            f"{root}: {pair[0]!r} and {pair[1]!r} hold images of equal names, and it is not known which are infrared: "
            f"give --rgb {pair[0]} --ir {pair[1]}, or the other way round"
        )
    paired = len(groups) == 2 and len(set(cameras.values())) == 2

    def assigned(file: File) -> File:
        if file.camera is not None:
            return file
        camera = cameras[file.name.rpartition("/")[0]]
        return replace(file, camera=camera, name=file.stem if paired else file.name)

    found.images = [assigned(file) for file in found.images]


def _two_folders(images: list[File]) -> list[File]:
    """Remove the folder from images' names if each camera of the split has only one folder."""
    folders: dict[tuple[str | None, str | None], set[str]] = defaultdict(set)
    for file in images:
        folders[file.split, file.camera].add(file.name.rpartition("/")[0])

    plain = {split for split, _ in folders if all(len(folders.get((split, one), ())) == 1 for one in (RGB, INFRARED))}
    return [replace(file, name=file.stem) if file.split in plain else file for file in images]


def _distinct(images: list[File]) -> list[File]:
    """Make names unique per split and camera: copies of an image made by Roboflow keep its names for them."""
    count = Counter((file.split, file.camera, file.name) for file in images)
    return [
        file
        if count[file.split, file.camera, file.name] == 1
        else replace(file, name=file.name.removesuffix(file.stem) + file.path.stem)
        for file in images
    ]


def _split_by_lists(found: Scan) -> None:
    """Assign splits by `train.txt`, `val.txt` and `test.txt`, lists of images, if no folder shows a split."""
    if any(file.split for file in found.images):
        return
    splits: dict[str, str] = {}
    for file in found.labels[".txt"]:
        split = _SPLIT_WORDS.get(file.path.stem.casefold())
        if split is None:
            continue
        lines = read_text(file.path, "list of names", Counter()).splitlines()
        splits |= {plain_stem(line.replace("\\", "/").split()[0]): split for line in lines if line.strip()}
    if splits:
        found.images = [replace(file, split=splits.get(plain_stem(file.path.name))) for file in found.images]
