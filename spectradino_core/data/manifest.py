"""Pair manifests: JSON lines, one per item, with the image of each band and its position in a recording.

    {"rgb": "seq1/rgb/000001.png", "nir": "seq1/nir/000001.png", "sequence": "seq1", "frame": 1, "source": "ms2"}

| key | meaning |
|---|---|
| `rgb` | path of the RGB image, relative to the root; may be grey |
| `nir`, `swir`, `lwir`, `depth`, `segmentation` | paths of the other images, at least one unless there is a `class` |
| `sequence`, `frame` | recording and frame number; without them, the item has no neighbours |
| `source` | name of the data set, for messages |
| `class` | class of the scene, if known; used by k-NN evaluation |
| `depth_per_metre` | counts of the depth image per metre; default 256 |
| `unlabelled` | value of unlabelled pixels of the segmentation image beside 255 |
| `to_rgb` | nine numbers, row by row, of the homography from pixels of an infrared image to those of RGB, by band |
| `view` | [x1, y1, x2, y2], the rectangle of RGB pixels that is used; default: the whole image |

All images of an item have the same field of view, or a `to_rgb` that gives them one. Paths may not leave the root, as a
manifest is data from outside. `spectradino data make-manifest` writes one (see `layouts.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from spectradino_core.data.images import ImageFileError, read_colour, read_counts
from spectradino_core.data.sources import MODALITY_KEYS, FramePosition, ImageSet, ItemError
from spectradino_core.files import (
    FileError,
    child_path,
    errors_as,
    folder_fault,
    parse_json,
    read_bytes,
    read_text,
    written_atomically,
)
from spectradino_core.invalid_counts import InvalidCounts
from spectradino_core.modality import INFRARED
from spectradino_core.runtime.preprocess import without_invalid
from spectradino_core.text import printable

_NOT_RGB = tuple(key for key in MODALITY_KEYS if key != "rgb")
_KEYS = {*MODALITY_KEYS, "sequence", "frame", "source", "class", "depth_per_metre", "to_rgb", "view", "unlabelled"}
_INFRARED = frozenset(band.key for band in INFRARED)
_DEPTH_PER_METRE = 256.0
_INVALID = InvalidCounts()


class ManifestError(ValueError):
    """A manifest is missing or one of its lines is invalid; the message gives the line and the reason."""


@dataclass(frozen=True)
class ManifestItem:
    """One line of a manifest (see the table above): `paths` by modality key; `label` is the class of the scene."""

    paths: dict[str, str]
    position: FramePosition | None = None
    source: str = ""
    label: str | None = None
    depth_per_metre: float = _DEPTH_PER_METRE
    to_rgb: dict[str, tuple[float, ...]] = field(default_factory=dict)
    view: tuple[int, int, int, int] | None = None
    unlabelled: int | None = None

    def to_json(self) -> dict[str, Any]:
        scaled = "depth" in self.paths and self.depth_per_metre != _DEPTH_PER_METRE
        fields = {
            "sequence": None if self.position is None else self.position.sequence,
            "frame": None if self.position is None else self.position.frame,
            "source": self.source or None,
            "class": self.label,
            "depth_per_metre": self.depth_per_metre if scaled else None,
            "to_rgb": {band: list(numbers) for band, numbers in self.to_rgb.items()} or None,
            "view": None if self.view is None else list(self.view),
            "unlabelled": self.unlabelled,
        }
        return self.paths | {key: value for key, value in fields.items() if value is not None}

    def with_bands(self, bands: Collection[str]) -> ManifestItem | None:
        """Return the item without other infrared bands; None if nothing is left beside RGB."""
        paths = {key: path for key, path in self.paths.items() if key in bands or key not in _INFRARED}
        if len(paths) < 2:
            return None
        return replace(self, paths=paths, to_rgb={key: value for key, value in self.to_rgb.items() if key in paths})

    @classmethod
    def from_json(cls, entry: Any) -> ManifestItem:
        """Parse one line; raises ValueError if it is invalid."""
        if not isinstance(entry, dict):
            raise ValueError("not a JSON object {..}")
        if unknown := sorted(entry.keys() - _KEYS):
            raise ValueError(f"unknown key {printable(', '.join(unknown))}: use {', '.join(sorted(_KEYS))}")
        paths = {key: entry[key] for key in MODALITY_KEYS if key in entry}
        if "rgb" not in paths or (len(paths) < 2 and entry.get("class") is None):
            raise ValueError(f"an item needs rgb and at least one of {', '.join(_NOT_RGB)}, or a class")
        for key, text in paths.items():
            if not isinstance(text, str):
                raise ValueError(f"{key} is not a path")
            try:
                child_path(PurePosixPath("the root"), text)
            except FileError as error:
                raise ValueError(f"{key} names {error}") from None
        sequence, frame = entry.get("sequence"), entry.get("frame")
        if frame is not None and (sequence is None or not isinstance(frame, int) or isinstance(frame, bool)):
            raise ValueError("frame must be an integer, and needs a sequence")
        return cls(
            paths,
            None if sequence is None else FramePosition(str(sequence), frame),
            str(entry.get("source", "")),
            None if entry.get("class") is None else str(entry["class"]),
            float(entry.get("depth_per_metre", _DEPTH_PER_METRE)),
            _mappings(entry.get("to_rgb", {}), paths),
            _view(entry.get("view")),
            _value(entry.get("unlabelled")),
        )


def _mappings(entry: Any, paths: Mapping[str, str]) -> dict[str, tuple[float, ...]]:
    if not isinstance(entry, dict) or not entry.keys() <= {key for key in paths if key in _INFRARED}:
        raise ValueError("to_rgb must be an object with infrared bands of the item as keys")
    out = {}
    for band, numbers in entry.items():
        if not isinstance(numbers, list) or len(numbers) != 9:
            raise ValueError(f"to_rgb of {band} must be nine numbers")
        out[band] = tuple(float(number) for number in numbers)
        if not all(map(math.isfinite, out[band])) or abs(np.linalg.det(np.reshape(out[band], (3, 3)))) < 1e-9:
            raise ValueError(f"to_rgb of {band} is no homography")
    return out


def _view(entry: Any) -> tuple[int, int, int, int] | None:
    if entry is None:
        return None
    if not isinstance(entry, list) or len(entry) != 4 or not all(type(side) is int and side >= 0 for side in entry):
        raise ValueError("view must be four whole numbers x1, y1, x2, y2")
    x1, y1, x2, y2 = entry
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"view {entry} has no area")
    return x1, y1, x2, y2


def _value(entry: Any) -> int | None:
    if entry is not None and not (type(entry) is int and 0 <= entry <= 255):
        raise ValueError(f"unlabelled must be a value of the segmentation image, 0 to 255, got {entry!r}")
    return entry


def write_manifest(items: Iterable[ManifestItem], path: Path) -> int:
    """Write the items atomically and return their number."""
    count = 0
    with written_atomically(path) as scratch, Path(scratch).open("w", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(item.to_json(), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_manifest(path: Path) -> list[ManifestItem]:
    """Read the items of a manifest; raises ManifestError for no such file, no items, or an invalid line."""
    with errors_as(ManifestError):
        text = read_text(path, "manifest")
    items = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            items.append(ManifestItem.from_json(parse_json(line, "it")))
        except (ValueError, TypeError) as error:
            raise ManifestError(f"{path}, line {number}: {error}") from None
    if not items:
        raise ManifestError(f"{path}: no items; make one with `spectradino data make-manifest`")
    return items


@dataclass
class ManifestSource:
    """`ImageSource` of a manifest; images are read on access.

    Attributes:
        root: folder that paths are relative to; None: the manifest's own folder.
        bands: infrared bands to use; None: all. Items without any of these, or a map, are skipped.
    """

    path: Path
    root: Path | None = None
    bands: tuple[str, ...] | None = None
    items: list[ManifestItem] = field(init=False, repr=False)
    name: str = field(init=False)
    frame_gap = 100  # ours: ten seconds at 10 Hz

    def __post_init__(self) -> None:
        """Read the manifest; raises ManifestError, also if the root does not exist."""
        self.path = Path(self.path)
        self.items = read_manifest(self.path)
        if self.bands is not None:
            self.items = [kept for item in self.items if (kept := item.with_bands(self.bands)) is not None]
            if not self.items:
                raise ManifestError(f"{self.path}: no item has {' or '.join(self.bands)}")
        self.root = Path(self.root) if self.root is not None else self.path.parent
        if fault := folder_fault(self.root):
            raise ManifestError(f"{fault}; the paths in {self.path} are relative to it")
        self._real_root = self.root.resolve()
        self.name = str(self.path)

    def __len__(self) -> int:
        return len(self.items)

    def modalities(self, item: int) -> tuple[str, ...]:
        return tuple(key for key in self.items[item].paths if key != "rgb")

    def position(self, item: int) -> FramePosition:
        return self.items[item].position or FramePosition(f"item {item}", 0)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the manifest, and of the bands if not all are used."""
        digest = hashlib.sha256(read_bytes(self.path, "manifest"))
        if self.bands is not None:
            digest.update(",".join(sorted(self.bands)).encode())
        return digest.hexdigest()

    def identity(self, item: int) -> str:
        """Return the path of the item's RGB image, by which an item is known in several manifests."""
        return os.path.normpath(self._real_root / self.items[item].paths["rgb"])

    def label(self, item: int) -> str | None:
        return self.items[item].label

    def load(self, item: int, modalities: Sequence[str]) -> ImageSet:
        """Load RGB and the given modalities.

        Raises:
            ItemError: an image is missing or damaged, or the aspect ratios differ too much for one view.
            ManifestError: a symbolic link leads out of the root.
        """
        entry = self.items[item]
        images = {}
        for key in ("rgb", *modalities):
            path = self._inside(entry.paths[key])
            with errors_as(ItemError, ImageFileError):
                images[key] = read_colour(path) if key == "rgb" else read_counts(path)
            if key == "depth":
                images[key] = images[key].astype(np.float32) / np.float32(entry.depth_per_metre)
            elif key == "segmentation" and entry.unlabelled is not None:
                images[key] = np.where(images[key] == entry.unlabelled, np.uint8(255), images[key])
        self._register(entry, images)
        _check_shapes(entry, images)
        return ImageSet(images, f"{entry.source or self.path.stem}/{entry.paths['rgb']}")

    def _register(self, entry: ManifestItem, images: dict[str, np.ndarray]) -> None:
        """Warp infrared images with a homography to the view of RGB, and cut the other images to it."""
        height, width = images["rgb"].shape[:2]
        x1, y1, x2, y2 = entry.view or (0, 0, width, height)
        if x2 > width or y2 > height:
            raise ItemError(
                f"{entry.paths['rgb']}: {width}x{height} pixels, which the view {[x1, y1, x2, y2]} of {self.path} "
                "exceeds: make the manifest again"
            )
        moved = np.array([[1.0, 0.0, -x1], [0.0, 1.0, -y1], [0.0, 0.0, 1.0]])
        for key, image in images.items():
            if key in entry.to_rgb:
                if image.dtype == np.uint16:
                    image = without_invalid(image, _INVALID(image))  # interpolation would mix invalid with valid pixels
                h = moved @ np.reshape(entry.to_rgb[key], (3, 3))
                images[key] = cv2.warpPerspective(image, h, (x2 - x1, y2 - y1), borderMode=cv2.BORDER_REPLICATE)
            elif entry.view is not None and image.shape[:2] == (height, width):
                images[key] = np.ascontiguousarray(image[y1:y2, x1:x2])

    def _inside(self, text: str) -> Path:
        assert self.root is not None
        path = self.root / text
        if not path.resolve().is_relative_to(self._real_root):
            raise ManifestError(f"{self.path} names {text!r}, a symbolic link that leads out of {self.root}")
        return path


def _check_shapes(entry: ManifestItem, images: dict[str, np.ndarray]) -> None:
    height, width = images["rgb"].shape[:2]
    for key, image in images.items():
        ratio = image.shape[1] / image.shape[0] * height / width
        if not 0.8 < ratio < 1.25:
            raise ItemError(
                f"{entry.paths[key]}: {image.shape[1]}x{image.shape[0]} pixels beside a {width}x{height} RGB image; "
                "the images of an item must have the same field of view; MS2 is registered by `spectradino data "
                "make-manifest --layout ms2`"
            )
