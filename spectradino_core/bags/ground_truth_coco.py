"""Ground truth from a COCO JSON file: boxes by the stamp of each image.

The format is COCO (`images`, `annotations`, `categories`) plus the time of each image, in order of preference:

- `"stamp_ns"`: the header stamp in whole nanoseconds;
- `"stamp"`: `{"sec": .., "nanosec": ..}` as in a ROS message;
- `"file_name"`, without folders and suffix: `<sec>.<nanosec>` (nine digits after the point are nanoseconds, fewer or
  more a decimal fraction of a second), `<sec>_<nanosec>` (nine digits), or nanoseconds alone (16 to 19 digits); a
  Roboflow export writes the point as a dash and adds a hash, which is undone.

Boxes are `[x, y, width, height]` in pixels of the RGB image; `width` and `height` of the image, where given, are
checked against the bag's. An image without annotations is known to be empty. `"iscrowd"` or `"ignore"`: see
`TrueFrame.crowd`. `"sem_seg_file_name"` names a mask, an 8-bit image below the JSON file's folder; its values are named
by the file's `"mask_classes"` (or the model's own), 255 is unlabelled. `data.labels` lists what else is tolerated.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from spectradino_core.bags.ground_truth import GroundTruth, GroundTruthError, TrueFrame, mask_table
from spectradino_core.data.images import ImageFileError
from spectradino_core.data.labels import ClassNames, LabelError, boxes_of
from spectradino_core.data.labels import coco as labels_coco
from spectradino_core.data.labels.coco import CocoFile, CocoImage
from spectradino_core.data.labels.files import inside, is_roboflow, plain_stem
from spectradino_core.data.labels.masks import read_mask
from spectradino_core.files import errors_as
from spectradino_core.runtime.bundle import ModelInfo

_SECONDS = re.compile(r"(\d{1,12})\.(\d{1,12})")
_DASHED = re.compile(r"(\d{9,12})-(\d{1,12})")
_UNDERLINED = re.compile(r"(\d{1,12})_(\d{9})")
_NANOSECONDS = re.compile(r"\d{16,19}")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".ppm"}


def read_coco(path: str | Path, info: ModelInfo) -> GroundTruth:
    """Read the labelled frames of a COCO file; names are matched to the model's classes.

    Raises:
        GroundTruthError: the file is missing or not COCO JSON, an image has no stamp, or an annotation no image,
            category or box; the message names it.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise GroundTruthError(f"{path} does not exist: --labels takes a COCO JSON file, or a folder of them")
    with errors_as(GroundTruthError, LabelError):
        return _truth(labels_coco.read_coco(path), info)


def mask_files(path: Path) -> list[str]:
    """Return the masks that a COCO file names, below its folder; empty if the file cannot be read."""
    try:
        images = labels_coco.read_coco(path).images
    except LabelError:
        return []  # `read_coco` reports the problem
    named = {str(name) for image in images if (name := image.entry.get("sem_seg_file_name")) is not None}
    return sorted(name.replace("\\", "/") for name in named)


def _truth(file: CocoFile, info: ModelInfo) -> GroundTruth:
    if not file.images:
        raise GroundTruthError(f"{file.path} lists no images, so there is no ground truth: give another file")
    names, notes = ClassNames(info.box_classes), Counter(file.notes)
    masks_of = _MaskNames(file, info, notes)
    frames = []
    for image in file.images:
        boxes = boxes_of(image.labels, names, image.size)
        names.unknown.update(boxes.unknown)
        notes.update(boxes.notes)
        stamp_ns, mask = _checked_stamp(image.entry, file.path), masks_of.reader(image)
        frames.append(TrueFrame(stamp_ns, boxes.corners, boxes.classes, boxes.crowd, mask, image.size))
    return GroundTruth(
        frames,
        file.path.name,
        names.known(file.classes),
        masks_of.known,
        names.unknown + masks_of.names.unknown,
        sum(int(frame.crowd.sum()) for frame in frames if frame.crowd is not None),
        notes,
    )


def _checked_stamp(image: Mapping[str, Any], source: Path) -> int:
    stamp = stamp_of_image(image, source)
    if not 0 <= stamp < 1 << 63:
        raise GroundTruthError(
            f"{source}: image {image.get('id')} has the stamp {stamp} ns, out of range: give nanoseconds since 1970, "
            "below 2^63"
        )
    return stamp


def stamp_of_image(image: Mapping[str, Any], source: str | Path) -> int:
    """Return the stamp of an image entry in nanoseconds, see the module docstring; raises `GroundTruthError`."""
    if (stamp_ns := _parse_integer(image.get("stamp_ns"))) is not None:
        return stamp_ns
    stamp = image.get("stamp")
    if isinstance(stamp, Mapping):
        parts = [_parse_integer(stamp.get(key)) for key in ("sec", "nanosec")]
        if parts[0] is not None and parts[1] is not None:
            return parts[0] * 1_000_000_000 + parts[1]
    name = PurePosixPath(str(image.get("file_name", "")).replace("\\", "/"))
    exported = is_roboflow(name.name)
    stem = plain_stem(name.name) if exported or name.suffix.lower() in _SUFFIXES else name.name
    found = _SECONDS.fullmatch(stem) or (_DASHED.fullmatch(stem) if exported else None)
    if found:
        return int(found[1]) * 1_000_000_000 + round(int(found[2].ljust(9, "0")) * 10.0 ** min(0, 9 - len(found[2])))
    if found := _UNDERLINED.fullmatch(stem):
        return int(found[1]) * 1_000_000_000 + int(found[2])
    if _NANOSECONDS.fullmatch(stem):
        return int(stem)
    raise GroundTruthError(
        f"{source}: image {image.get('id')} ({str(image.get('file_name', 'no file_name'))!r}) has no "
        'time: give it "stamp_ns" (the RGB frame\'s header stamp in nanoseconds), or a file_name such as '
        "1700000000.012345678.png"
    )


def _parse_integer(value: Any) -> int | None:
    """Parse an integer, also from text or a float, as tools write them."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,20}", value.strip()) else None


class _MaskNames:
    """Mask files of images, mapped to the model's mask classes."""

    def __init__(self, file: CocoFile, info: ModelInfo, notes: Counter[str]) -> None:
        self._path, self._root, self._notes = file.path, file.path.parent, notes
        self._palettes: set[Path] = set()
        self.names = ClassNames(info.mask_classes)
        self.known: tuple[str, ...] = ()
        stored = file.data.get("mask_classes")
        stored = tuple(map(str, stored)) if isinstance(stored, list) else info.mask_classes
        given = any("sem_seg_file_name" in image.entry for image in file.images)
        if given and info.mask_classes:
            self._table = mask_table(stored, self.names)
            self.known = self.names.known(stored)

    def reader(self, image: CocoImage) -> Callable[[], np.ndarray] | None:
        text = image.entry.get("sem_seg_file_name")
        if text is None or not self.known:
            return None
        which = f"image {image.entry.get('id')}"
        try:
            path = inside(self._root, text, f"{self._path}: {which}")
        except LabelError:
            raise GroundTruthError(
                f"{self._path}: {which} names the mask {text!r} outside the file's folder: move it below"
            ) from None
        if not path.is_file():
            raise GroundTruthError(f"{path} does not exist: {which} of {self._path.name} names this mask")
        return partial(self._read, path, image.size)

    def _read(self, path: Path, size: tuple[int, int] | None) -> np.ndarray:
        notes: Counter[str] = Counter()
        with errors_as(GroundTruthError, ImageFileError, LabelError):
            mask = read_mask(path, notes)
        if notes["palette_mask"]:  # a mask may be read twice
            self._palettes.add(path)
            self._notes["palette_mask"] = len(self._palettes)
        if size is not None and mask.shape != (size[1], size[0]):
            raise GroundTruthError(
                f"{path} is {mask.shape[1]}x{mask.shape[0]} pixels, but {self._path.name} says {size[0]}x{size[1]}"
            )
        return self._table[mask]
