"""Ground truth from a COCO JSON file: boxes by the stamp of each image.

The file is COCO's own (`images`, `annotations`, `categories`); what COCO lacks is when an image was taken. In order of
preference an image says so by

- `"stamp_ns"`: the header stamp in whole nanoseconds;
- `"stamp"`: `{"sec": .., "nanosec": ..}` as in a ROS message;
- `"file_name"`, without folders and suffix: `<sec>.<nanosec>` (nine digits after the point are nanoseconds, fewer or
  more a decimal fraction of a second), `<sec>_<nanosec>` (nine digits), or nanoseconds alone (16 to 19 digits).

Boxes are `[x, y, width, height]` in the pixels of the colour image; `width` and `height` of the image, where given, are
checked against the bag's. An image without annotations is known to hold nothing. `"iscrowd"` or `"ignore"`: see
`TrueFrame.crowd`. A mask may be given as `"sem_seg_file_name"`, an 8-bit image below the JSON file's folder; the names
of its values are the file's `"mask_classes"` (or the model's own), 255 is unlabelled.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from spectradino_core.bags.ground_truth import ClassNames, GroundTruth, GroundTruthError, TrueFrame, mask_table
from spectradino_core.data.images import ImageFileError, read_image
from spectradino_core.files import FileError, read_json
from spectradino_core.runtime.bundle import ModelInfo

__all__ = ["read_coco", "stamp_of_image"]

_SECONDS = re.compile(r"(\d{1,12})\.(\d{1,12})")
_UNDERLINED = re.compile(r"(\d{1,12})_(\d{9})")
_NANOSECONDS = re.compile(r"\d{16,19}")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".ppm"}


def read_coco(path: str | Path, info: ModelInfo) -> GroundTruth:
    """The true frames of a COCO file.

    Args:
        path: the file.
        info: whose classes the names are matched to.

    Raises:
        GroundTruthError: the file is missing or no COCO JSON, an image has no stamp, an annotation no image, no
            category or no box; the message names it.
    """
    path = Path(path)
    data = _read(path)
    boxes_of = ClassNames(info.box_classes)
    try:
        masks_of = _MaskNames(path, data, info)
        names = {_whole(c["id"]): str(c["name"]) for c in data["categories"]}
        images = {_whole(image["id"]): image for image in data["images"]}
        annotations: dict[int, list[Mapping[str, Any]]] = {place: [] for place in images}
        for annotation in data["annotations"]:
            annotations[_known(annotation, "image_id", annotations, path)].append(annotation)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, GroundTruthError):
            raise
        raise GroundTruthError(
            f"{path}: not COCO annotations, which hold images, annotations and categories "
            f"({type(error).__name__}: {error})"
        ) from None
    if not images:
        raise GroundTruthError(f"{path}: it lists no images, so there is nothing to score by")
    crowds, frames = 0, []
    for place, image in images.items():
        size = _size(image)
        corners, labels, crowd = [], [], []
        for annotation in annotations[place]:
            name = names[_known(annotation, "category_id", names, path)]
            label = boxes_of(name)
            if label is None:
                continue
            corners.append(_corners(annotation, size, path))
            labels.append(label)
            crowd.append(bool(annotation.get("iscrowd") or annotation.get("ignore")))
        crowds += sum(crowd)
        frames.append(
            TrueFrame(
                _checked_stamp(image, path),
                np.array(corners, np.float64).reshape(-1, 4),
                np.array(labels, np.int64),
                np.array(crowd, bool),
                masks_of.reader(image, size),
                size,
            )
        )
    unknown = boxes_of.unknown + masks_of.names.unknown
    known = boxes_of.known(names.values())
    return GroundTruth(frames, path.name, known, masks_of.known, unknown, crowds)


def _checked_stamp(image: Mapping[str, Any], source: Path) -> int:
    stamp = stamp_of_image(image, source)
    if not 0 <= stamp < 1 << 63:
        raise GroundTruthError(
            f"{source}: image {image.get('id')} has the stamp {stamp} ns, which no clock shows: nanoseconds since 1970 "
            "are below 2^63"
        )
    return stamp


def stamp_of_image(image: Mapping[str, Any], source: str | Path) -> int:
    """An image entry's stamp in nanoseconds, see the module's head.

    Raises:
        GroundTruthError: it has none; the message shows the forms.
    """
    stamp = image.get("stamp_ns")
    if type(stamp) is int:
        return stamp
    stamp = image.get("stamp")
    if isinstance(stamp, Mapping) and all(type(stamp.get(key)) is int for key in ("sec", "nanosec")):
        return stamp["sec"] * 1_000_000_000 + stamp["nanosec"]
    name = PurePosixPath(str(image.get("file_name", "")).replace("\\", "/"))
    stem = name.stem if name.suffix.lower() in _SUFFIXES else name.name
    if found := _SECONDS.fullmatch(stem):
        return int(found[1]) * 1_000_000_000 + round(int(found[2].ljust(9, "0")) * 10.0 ** min(0, 9 - len(found[2])))
    if found := _UNDERLINED.fullmatch(stem):
        return int(found[1]) * 1_000_000_000 + int(found[2])
    if _NANOSECONDS.fullmatch(stem):
        return int(stem)
    raise GroundTruthError(
        f"{source}: image {image.get('id')} ({str(image.get('file_name', 'no file_name'))!r}) does not say when it was "
        'taken: give it "stamp_ns" (the colour frame\'s header stamp in nanoseconds), or a file_name such as '
        "1700000000.012345678.png"
    )


def _read(path: Path) -> dict[str, Any]:
    if not os.path.lexists(path):
        raise GroundTruthError(
            f"{path}: there are no such labels; --labels takes a COCO JSON file, or a folder of them"
        )
    try:
        data = read_json(path, "label file")
    except FileError as error:
        raise GroundTruthError(str(error)) from None
    if not isinstance(data, dict):
        raise GroundTruthError(f"{path}: not COCO annotations: an object with images, annotations and categories")
    return data


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _known(annotation: Any, key: str, known: Mapping[int, Any], path: Path) -> int:
    value = annotation.get(key) if isinstance(annotation, Mapping) else None
    if type(value) is not int or value not in known:
        which = annotation.get("id") if isinstance(annotation, Mapping) else annotation
        raise GroundTruthError(f"{path}: annotation {which} has {key} {value!r}, which the file does not list")
    return value


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    size = image.get("width"), image.get("height")
    if all(type(side) is int and side > 0 for side in size):
        return size  # type: ignore[return-value]
    return None


def _corners(annotation: Mapping[str, Any], size: tuple[int, int] | None, path: Path) -> list[float]:
    try:
        x, y, width, height = (float(v) for v in annotation["bbox"])
    except (KeyError, TypeError, ValueError):
        raise GroundTruthError(f"{path}: annotation {annotation.get('id')} has no bbox [x, y, width, height]") from None
    corners = [x, y, x + width, y + height]
    if size is not None:
        corners = [min(max(v, 0.0), float(side)) for v, side in zip(corners, (*size, *size))]
    if not (all(map(math.isfinite, corners)) and corners[2] > corners[0] and corners[3] > corners[1]):
        where = "" if size is None else f", or one outside its {size[0]}x{size[1]} image"
        raise GroundTruthError(
            f"{path}: annotation {annotation.get('id')} has an empty box{where}: {annotation['bbox']}"
        )
    return corners


class _MaskNames:
    """Mask files of images, their values brought to the model's mask classes."""

    def __init__(self, path: Path, data: Mapping[str, Any], info: ModelInfo) -> None:
        self._path, self._root = path, path.parent
        self.names = ClassNames(info.mask_classes)
        self.known: tuple[str, ...] = ()
        stored = data.get("mask_classes")
        stored = tuple(map(str, stored)) if isinstance(stored, list) else info.mask_classes
        given = any("sem_seg_file_name" in image for image in data["images"])
        if given and info.mask_classes:
            self._table = mask_table(stored, self.names)
            self.known = self.names.known(stored)

    def reader(self, image: Mapping[str, Any], size: tuple[int, int] | None) -> Callable[[], np.ndarray] | None:
        text = image.get("sem_seg_file_name")
        if text is None or not self.known:
            return None
        if "\0" in str(text):
            raise GroundTruthError(f"{self._path}: image {image.get('id')} names a mask with a zero byte")
        path = self._root / str(text)
        if not path.resolve().is_relative_to(self._root.resolve()):
            raise GroundTruthError(f"{self._path}: image {image.get('id')} names the mask {text!r}, outside its folder")
        if not path.is_file():
            raise GroundTruthError(
                f"{path}: image {image.get('id')} of {self._path.name} names this mask: no such file"
            )
        return partial(self._read, path, size)

    def _read(self, path: Path, size: tuple[int, int] | None) -> np.ndarray:
        try:
            mask = read_image(path, cv2.IMREAD_UNCHANGED)
        except ImageFileError as error:
            raise GroundTruthError(str(error)) from None
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise GroundTruthError(f"{path}: a mask is one 8-bit channel, got {mask.dtype} {mask.shape}")
        if size is not None and mask.shape != (size[1], size[0]):
            raise GroundTruthError(
                f"{path}: {mask.shape[1]}x{mask.shape[0]} pixels, {self._path.name} says {size[0]}x{size[1]}"
            )
        return self._table[mask]
