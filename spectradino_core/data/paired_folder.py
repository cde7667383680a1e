"""Pairs of colour and infrared images in a folder, with boxes where they are known.

The layout: `<root>/<split>/<modality>/<id>.<ext>`; `<root>/index_<split>.json` lists the items, {"items": [{"id",
"width", "height", one path per modality, "label": path of a mask or null}]}, and may name the mask's values under
"mask_classes"; `<root>/instances_<split>.json`, where it exists, holds boxes as COCO JSON. Paths are relative to the
root and may not leave it: an index is data from outside. All images of an item share one pixel grid.
Torch-free, because the demo replays such folders too.

Letters: h w an image, N boxes as x1 y1 x2 y2.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spectradino_core.data.images import ImageFileError, read_image
from spectradino_core.data.sample import PairedSample

__all__ = ["CLASS_ALIASES", "PairedFolder", "PairedFolderError", "PairedItem", "UNLABELLED"]

CLASS_ALIASES = {"bike": "bicycle", "people": "person", "pedestrian": "person"}
"""Names that data sets use for the classes of this project's models."""

UNLABELLED = 255
"""Value in a mask of a pixel without class."""

_COLOUR_KEYS = ("rgb", "vis")
"""What the colour image of an item may be called; a grey "vis" image is given three equal channels."""


class PairedFolderError(ValueError):
    """A folder, its index or one of its images is missing, damaged or not what it says; the message names it."""


@dataclass(frozen=True)
class PairedItem:
    """One pair. Images are read when asked for.

    Attributes:
        id: the item's name in the index.
        size: (width, height) in pixels, of both images.
        rgb_path, infrared_path: the two image files; one is None where the set has frames of one camera only.
        boxes: float32 [N, 4] in pixels, clipped to the image; [0, 4] where the image is known to hold none; None where
            nothing is known.
        labels: int64 [N], indices into the folder's `classes`; None with `boxes`.
        mask_path: file of the class mask, None where there is none.
        ir_offset_ms: exposure of the infrared image less that of the colour one, 0 unless the index says otherwise.
        time: "day", "night" or whatever else the annotations say; None where they say nothing.
        ignored, ignored_labels: crowds (`iscrowd`), as `boxes` and `labels`; None with `boxes`.
        labelled: the classes that the annotations know, as indices: those whose boxes are complete.
    """

    id: str
    size: tuple[int, int]
    rgb_path: Path | None
    infrared_path: Path | None
    boxes: np.ndarray | None
    labels: np.ndarray | None
    mask_path: Path | None
    time: str | None = None
    ir_offset_ms: float = 0.0
    ignored: np.ndarray | None = None
    ignored_labels: np.ndarray | None = None
    labelled: tuple[int, ...] = ()

    @property
    def present(self) -> tuple[bool, bool]:
        """Whether there is an RGB and an infrared image."""
        return self.rgb_path is not None, self.infrared_path is not None

    def load_rgb(self) -> np.ndarray:
        """The RGB image, uint8 [h, w, 3]; zeros where there is none.

        Raises:
            PairedFolderError: the file is missing, damaged, not 8-bit, or not of the size that the index gives.
        """
        if self.rgb_path is None:
            return np.zeros((self.size[1], self.size[0], 3), np.uint8)
        image = _read_image(self.rgb_path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, self.size)
        if image.dtype != np.uint8:
            raise PairedFolderError(
                f"{self.rgb_path}: a colour image has 8 bits per channel, this one is {image.dtype}"
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def load_infrared(self) -> np.ndarray:
        """The infrared image as stored, uint8 or uint16 [h, w] (three equal channels count as one); zeros where there
        is none.

        Raises:
            PairedFolderError: the file is missing, damaged, of another type, or not of the size that the index gives.
        """
        if self.infrared_path is None:
            return np.zeros((self.size[1], self.size[0]), np.uint8)
        image = _read_image(self.infrared_path, cv2.IMREAD_ANYDEPTH, self.size)
        if image.dtype not in (np.uint8, np.uint16):
            raise PairedFolderError(f"{self.infrared_path}: infrared images are 8 or 16 bit, this one is {image.dtype}")
        return image

    def load_mask(self) -> np.ndarray | None:
        """The class mask as stored, uint8 [h, w], or None where there is none.

        Raises:
            PairedFolderError: the file is missing, damaged, not 8-bit, or not of the size that the index gives.
        """
        if self.mask_path is None:
            return None
        mask = _read_image(self.mask_path, cv2.IMREAD_UNCHANGED, self.size)
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise PairedFolderError(f"{self.mask_path}: a mask is one 8-bit channel, got {mask.dtype} {mask.shape}")
        return mask


class PairedFolder:
    """The pairs of one split, in the order of its index.

    Attributes:
        root: the folder.
        name: the set's name, as its index gives it.
        split: "train" or "val".
        infrared: key of the infrared band ("lwir", "nir", "swir", ..).
        classes: names that labels index.
        scored_classes: those of `classes` that the annotations know; the others never have a true box here.
        mask_classes: names of the values in masks given by `load`; empty: it gives no masks.
        ignored_boxes: how many boxes were left out, by class name, because `classes` lacks it or they mark a crowd.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        infrared: str = "lwir",
        classes: Sequence[str] | None = None,
        mask_classes: Sequence[str] | None = None,
        single: bool = False,
    ) -> None:
        """
        Args:
            root: the folder that holds `index_<split>.json`.
            split: which split.
            infrared: which of the items' modalities is the infrared image.
            classes: names that labels shall index, a model's box classes for example; None takes those of the
                annotations, in their order. `CLASS_ALIASES` apply to the annotations' names.
            mask_classes: names that mask values shall index; None takes the index's own.
            single: accept items with an image of one camera only; the other image is then all zeros.

        Raises:
            PairedFolderError: what is missing or damaged, by name, and what there is instead.
        """
        self.root = Path(root)
        self.split = split
        self.infrared = infrared
        self._single = single
        index = self._open_index()
        self.name = str(index.get("set") or self.root.name)
        stored = tuple(str(name) for name in index.get("mask_classes") or ())
        # Masks whose values nobody named mean something else in every data set, so they are not given out as classes.
        self.mask_classes = () if not stored else stored if mask_classes is None else tuple(mask_classes)
        self._mask_table = np.full(256, UNLABELLED, np.uint8)
        for value, name in enumerate(stored):
            if name in self.mask_classes:
                self._mask_table[value] = self.mask_classes.index(name)
        annotations = _Annotations.read(self.root / f"instances_{split}.json", classes)
        self.classes = annotations.classes
        self.scored_classes = annotations.scored_classes
        self._items = [self._item(place, entry, annotations) for place, entry in enumerate(index["items"])]
        self.ignored_boxes = dict(annotations.ignored)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> PairedItem:
        return self._items[place]

    def __iter__(self) -> Iterator[PairedItem]:
        return iter(self._items)

    @property
    def items(self) -> tuple[PairedItem, ...]:
        return tuple(self._items)

    def labelled(self) -> list[PairedItem]:
        """The items with boxes, or with a mask whose values the index names.

        Raises:
            PairedFolderError: there are none.
        """
        masks = bool(self.mask_classes)
        found = [item for item in self if item.boxes is not None or (masks and item.mask_path is not None)]
        if not found:
            raise PairedFolderError(
                f"{self.root}: no image of its {self.split} split is labelled: it needs boxes "
                f"(instances_{self.split}.json) or masks with named classes"
            )
        return found

    def load(self, item: PairedItem) -> PairedSample:
        """The pair's images with all that is known of them; the mask's values index `mask_classes`.

        Raises:
            PairedFolderError: an image is missing, damaged or of the wrong type or size.
        """
        mask = item.load_mask() if self.mask_classes else None
        return PairedSample(
            rgb=item.load_rgb(),
            infrared=item.load_infrared(),
            boxes=item.boxes,
            labels=item.labels,
            mask=None if mask is None else self._mask_table[mask],
            name=f"{self.name}/{item.id}",
            ignored=item.ignored,
            ignored_labels=item.ignored_labels,
            subsets=() if item.time is None else (str(item.time),),
            present=item.present,
            labelled_classes=None if len(item.labelled) == len(self.classes) else item.labelled,
        )

    def _open_index(self) -> dict[str, Any]:
        path = self.root / f"index_{self.split}.json"
        if not self.root.is_dir():
            raise PairedFolderError(f"{self.root}: no such folder (looked for {path.name} in it)")
        if not path.is_file():
            there = sorted(p.name for p in self.root.glob("index_*.json"))
            below = sorted(p.parent.name for p in self.root.glob(f"*/{path.name}"))
            hint = "it holds no index at all"
            if there:
                hint = f"it holds {', '.join(there)}"
            elif below:
                hint = "a folder of sets was given; choose one of " + ", ".join(below)
            raise PairedFolderError(f"{self.root}: looked for {path.name} in it and found none; {hint}")
        index = _read_json(path)
        if not isinstance(index, dict) or not isinstance(index.get("items"), list) or not index["items"]:
            raise PairedFolderError(f'{path}: an index is {{"items": [..]}} with at least one item')
        return index

    def _item(self, place: int, entry: Any, annotations: _Annotations) -> PairedItem:
        where = f"{self.root / f'index_{self.split}.json'}: item {place}"
        try:
            name, size = str(entry["id"]), (int(entry["width"]), int(entry["height"]))
        except (KeyError, TypeError, ValueError):
            raise PairedFolderError(f"{where} lacks an id, width or height") from None
        colour = next((key for key in _COLOUR_KEYS if entry.get(key)), None)
        infrared = entry.get(self.infrared) or None
        if (colour is None and infrared is None) if self._single else (colour is None or infrared is None):
            wanted = f"colour image ({' or '.join(_COLOUR_KEYS)})" if colour is None else f"{self.infrared} image"
            images = [k for k, v in entry.items() if isinstance(v, str) and "/" in v and k != "label"]
            raise PairedFolderError(f"{where} ({name}) has no {wanted}; it has {', '.join(images) or 'no images'}")
        rgb = None if colour is None else entry[colour]
        found = annotations.of([text for text in (rgb, infrared) if text is not None], size)
        label = entry.get("label")
        return PairedItem(
            id=name,
            size=size,
            rgb_path=None if rgb is None else self._inside(where, rgb),
            infrared_path=None if infrared is None else self._inside(where, infrared),
            boxes=found.boxes,
            labels=found.labels,
            mask_path=self._inside(where, label) if isinstance(label, str) else None,
            time=found.time if found.time is not None else entry.get("time"),
            ignored=found.ignored,
            ignored_labels=found.ignored_labels,
            labelled=tuple(self.classes.index(name) for name in self.scored_classes),
            ir_offset_ms=float(entry.get("ir_offset_ms") or 0.0),
        )

    def _inside(self, where: str, text: Any) -> Path:
        path = self.root / str(text)
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise PairedFolderError(f"{where} names {text!r}, which lies outside {self.root}")
        return path


@dataclass(frozen=True)
class _Labels:
    """What annotations say of one image; None where they don't list it. See `PairedItem`."""

    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    ignored: np.ndarray | None = None
    ignored_labels: np.ndarray | None = None
    time: str | None = None


class _Annotations:
    """COCO boxes by image path; empty where the split has none."""

    def __init__(self, classes: Sequence[str], scored: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.scored_classes = tuple(scored)
        self.ignored: Counter[str] = Counter()
        self._source = Path()
        self._images: dict[str, Mapping[str, Any]] = {}
        self._boxes: dict[int, list[Mapping[str, Any]]] = {}
        self._names: dict[int, str] = {}

    @classmethod
    def read(cls, path: Path, classes: Sequence[str] | None) -> _Annotations:
        if not path.is_file():
            return cls(classes or (), ())
        data = _read_json(path)
        try:
            names = {int(c["id"]): CLASS_ALIASES.get(c["name"], str(c["name"])) for c in data["categories"]}
            chosen = tuple(dict.fromkeys(names.values())) if classes is None else tuple(classes)
            made = cls(chosen, [name for name in chosen if name in names.values()])
            made._source, made._names = path, names
            for image in data["images"]:
                made._boxes[int(image["id"])] = []
                for key in ("file_name", "lwir_file_name"):
                    if key in image:
                        made._images[str(image[key])] = image
            for annotation in data["annotations"]:
                if int(annotation["category_id"]) not in names:
                    raise KeyError("category_id")
                made._boxes[int(annotation["image_id"])].append(annotation)
        except (KeyError, TypeError, ValueError) as error:
            raise PairedFolderError(f"{path}: not COCO annotations ({type(error).__name__}: {error})") from None
        return made

    def of(self, texts: Sequence[str], size: tuple[int, int]) -> _Labels:
        """What is known of the image that has one of these paths; nothing where it is not listed."""
        image = next((self._images[text] for text in texts if text in self._images), None)
        if image is None:
            return _Labels()
        kept: dict[bool, list[tuple[np.ndarray, int]]] = {False: [], True: []}
        for annotation in self._boxes[int(image["id"])]:
            name = self._names[int(annotation["category_id"])]
            crowd = bool(annotation.get("iscrowd"))
            if name not in self.classes or crowd:
                self.ignored[name] += 1
            if name in self.classes:
                kept[crowd].append((self._corners(annotation, size), self.classes.index(name)))
        boxes, ignored = (np.array([box for box, _ in kept[crowd]], np.float32).reshape(-1, 4) for crowd in kept)
        labels, ignored_labels = (np.array([label for _, label in kept[crowd]], np.int64) for crowd in kept)
        time = image.get("time")
        return _Labels(boxes, labels, ignored, ignored_labels, None if time is None else str(time))

    def _corners(self, annotation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
        try:
            x, y, width, height = (float(v) for v in annotation["bbox"])
        except (KeyError, TypeError, ValueError):
            raise PairedFolderError(
                f"{self._source}: annotation {annotation.get('id')} has no bbox [x, y, w, h]"
            ) from None
        corners = np.clip(np.array([x, y, x + width, y + height]), 0, np.array([*size, *size], float))
        if not (np.isfinite(corners).all() and corners[2] > corners[0] and corners[3] > corners[1]):
            raise PairedFolderError(
                f"{self._source}: annotation {annotation.get('id')} has an empty box, or one outside its "
                f"{size[0]}x{size[1]} image: {annotation['bbox']}"
            )
        return corners


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PairedFolderError(f"{path}: can't be read as JSON ({error})") from None


def _read_image(path: Path, flags: int, size: tuple[int, int]) -> np.ndarray:
    try:
        image = read_image(path, flags)
    except ImageFileError as error:
        raise PairedFolderError(str(error)) from None
    if (image.shape[1], image.shape[0]) != size:
        raise PairedFolderError(
            f"{path}: {image.shape[1]}x{image.shape[0]} pixels, its index says {size[0]}x{size[1]}; "
            "both images of a pair share one pixel grid"
        )
    return image
