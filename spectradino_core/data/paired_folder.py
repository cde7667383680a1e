"""Folder of RGB and infrared pairs with optional boxes and masks.

Layout: `<root>/<split>/<modality>/<id>.<ext>`; `<root>/index_<split>.json` lists the items, {"items": [{"id", "width",
"height", one path per modality, "label": path of a mask or null}]}, and may name the mask's values under
"mask_classes"; the optional `<root>/instances_<split>.json` holds boxes as COCO JSON (see `data.labels`). Paths are
relative to the root and may not leave it, as an index is data from outside. All images of an item share one pixel grid.

This module does not import torch, because the demo replays such folders too.

Letters: h x w image.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.data.images import ImageFileError, read_colour, read_counts
from spectradino_core.data.labels import UNLABELLED, Boxes, ClassNames, LabelError, boxes_of, describe_notes
from spectradino_core.data.labels.coco import CocoImage, read_coco
from spectradino_core.data.labels.files import ImageNames, inside, read_json
from spectradino_core.data.labels.masks import read_mask
from spectradino_core.data.labels.objects import LOSSES
from spectradino_core.data.sample import PairedSample
from spectradino_core.files import errors_as, folder_fault

log = logging.getLogger(__name__)

_COLOUR_KEYS = ("rgb", "vis")
"""Keys of the RGB image of an item; a grey "vis" image gets three equal channels."""


class PairedFolderError(LabelError):
    """A folder, its index or one of its images is missing, damaged or inconsistent; the message names it."""


@dataclass(frozen=True)
class PairedItem:
    """One pair, whose images are read on access; they raise PairedFolderError for damaged files or a wrong size.

    Attributes:
        id: name of the item in the index.
        size: (width, height) of both images in pixels.
        rgb_path, infrared_path: image files; one is None if there are frames of one camera only.
        boxes, labels, ignored, ignored_labels: see `PairedSample`; labels index the folder's `classes`.
        mask_path: file of the class mask; None: no mask.
        ir_offset_ms: exposure time of the infrared image minus that of the RGB image; 0 unless given by the index.
        time: "day", "night" or another value of the annotations; None: not given.
    """

    id: str
    size: tuple[int, int]
    rgb_path: Path | None
    infrared_path: Path | None
    mask_path: Path | None
    time: str | None = None
    ir_offset_ms: float = 0.0
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    ignored: np.ndarray | None = None
    ignored_labels: np.ndarray | None = None

    @property
    def present(self) -> tuple[bool, bool]:
        """Whether there is an RGB and an infrared image."""
        return self.rgb_path is not None, self.infrared_path is not None

    def load_rgb(self) -> np.ndarray:
        """Read the RGB image, uint8 [h, w, 3]; zeros if there is none."""
        if self.rgb_path is None:
            return np.zeros((self.size[1], self.size[0], 3), np.uint8)
        return _read(read_colour, self.rgb_path, self.size)

    def load_infrared(self) -> np.ndarray:
        """Read the infrared image as stored, uint8 or uint16 [h, w]; zeros if there is none."""
        if self.infrared_path is None:
            return np.zeros((self.size[1], self.size[0]), np.uint8)
        return _read(read_counts, self.infrared_path, self.size)

    def load_mask(self, notes: Counter[str] | None = None) -> np.ndarray | None:
        """Read the class mask as stored, uint8 [h, w], and count deviations in `notes`; None: no mask."""
        if self.mask_path is None:
            return None
        return _read(partial(read_mask, notes=notes), self.mask_path, self.size)


def read_index(path: Path) -> dict[str, Any]:
    """Read an `index_<split>.json`, whose "items" is a non-empty list of entries. Raises PairedFolderError."""
    with errors_as(PairedFolderError, LabelError):
        index = read_json(path, Counter())
    if not isinstance(index, dict) or not isinstance(index.get("items"), list) or not index["items"]:
        raise PairedFolderError(f'{path}: an index must be {{"items": [..]}} with at least one item')
    return index


class PairedFolder(Sequence[PairedItem]):
    """Pairs of one split, in the order of its index.

    Attributes:
        name: name of the data set according to its index.
        classes: class names that labels index.
        scored_classes: those of `classes` that the annotations label; the others have no ground truth here.
        mask_classes: class names that mask values of `load` index; empty: no masks.
        unknown: number of skipped boxes by class name that `classes` lacks.
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
            root, split: folder with `index_<split>.json`.
            infrared: modality key of the infrared image.
            classes: class names that labels shall index, such as a model's box classes; None: those of the annotations,
                in their order. `CLASS_ALIASES` apply to the annotations' names.
            mask_classes: class names that mask values shall index; None: those of the index.
            single: accept items with an image of one camera only; the other image is then all zeros.

        Raises:
            PairedFolderError: a file is missing or damaged; names it and the files that exist.
        """
        self.root, self.split, self.infrared, self._single = Path(root), split, infrared, single
        self._index = self.root / f"index_{split}.json"
        self._annotations = self.root / f"instances_{split}.json"
        index = self._open_index()
        self.name = str(index.get("set") or self.root.name)
        listed = index.get("mask_classes") or ()
        if not isinstance(listed, (list, tuple)) or len(listed) > UNLABELLED:
            raise PairedFolderError(f"{self._index}: mask_classes must be a list of at most {UNLABELLED} names")
        stored = tuple(str(name) for name in listed)
        # Masks without named values are not used, because their meaning differs between data sets.
        self.mask_classes = () if not stored else stored if mask_classes is None else tuple(mask_classes)
        self._mask_table = np.full(256, UNLABELLED, np.uint8)
        for value, name in enumerate(stored):
            if name in self.mask_classes:
                self._mask_table[value] = self.mask_classes.index(name)
        with errors_as(PairedFolderError, LabelError):
            self._open_annotations(classes)
            self._items = [self._item(number, entry) for number, entry in enumerate(index["items"])]
        if self._listed and not self._matched:
            raise PairedFolderError(
                f"{self._annotations}: none of its {len(self._listed)} images, such as {self._listed[0].name!r}, is in "
                f"{self._index}"
            )
        labelled = tuple(self.classes.index(name) for name in self.scored_classes)
        self._labelled_classes = None if len(labelled) == len(self.classes) else labelled
        self._notes["unmatched"] = len(self._listed) - len(self._matched)
        lost = {kind: count for kind, count in self._notes.items() if kind in LOSSES}
        for text in describe_notes(lost):
            log.warning("%s: %s", self._annotations, text)
        if self.unknown:
            names = ", ".join(f"{name} ({count})" for name, count in self.unknown.most_common())
            log.warning("%s: boxes of other classes are skipped: %s", self._annotations, names)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> PairedItem:  # type: ignore[override]
        return self._items[index]

    @property
    def items(self) -> tuple[PairedItem, ...]:
        return tuple(self._items)

    def labelled(self) -> list[PairedItem]:
        """Return the items with boxes, or a mask whose values the index names; PairedFolderError for none."""
        masks = bool(self.mask_classes)
        found = [item for item in self if item.boxes is not None or (masks and item.mask_path is not None)]
        if not found:
            raise PairedFolderError(
                f"{self.root}: no image of its {self.split} split is labelled: it needs boxes "
                f"(instances_{self.split}.json) or masks with named classes"
            )
        return found

    @property
    def notes(self) -> Counter[str]:
        """Notes on the label files, see `data.labels.NOTES`; of masks, only on those loaded so far."""
        return sum(self._mask_notes.values(), +self._notes)

    def load(self, item: PairedItem) -> PairedSample:
        """Read the pair's images and labels; mask values index `mask_classes`. Raises PairedFolderError."""
        mask = None
        if self.mask_classes and item.mask_path is not None:
            notes = self._mask_notes[item.mask_path] = Counter()
            mask = item.load_mask(notes)
        return PairedSample(
            rgb=item.load_rgb(),
            infrared=item.load_infrared(),
            boxes=item.boxes,
            labels=item.labels,
            mask=None if mask is None else self._mask_table[mask],
            name=f"{self.name}/{item.id}",
            subsets=() if item.time is None else (str(item.time),),
            ignored=item.ignored,
            ignored_labels=item.ignored_labels,
            present=item.present,
            labelled_classes=self._labelled_classes,
        )

    def _open_index(self) -> dict[str, Any]:
        path = self._index
        if fault := folder_fault(self.root):
            raise PairedFolderError(f"{fault} (looked for {path.name} in it)")
        if not os.path.lexists(path):
            indices = sorted(p.name for p in self.root.glob("index_*.json"))
            below = sorted(p.parent.name for p in self.root.glob(f"*/{path.name}"))
            hint = "it holds no index at all"
            if indices:
                hint = f"it holds {', '.join(indices)}"
            elif below:
                hint = f"it is a folder of data sets: choose one of {', '.join(below)}"
            raise PairedFolderError(f"{self.root}: looked for {path.name} in it and found none; {hint}")
        return read_index(path)

    def _open_annotations(self, classes: Sequence[str] | None) -> None:
        self._names: ImageNames[CocoImage] | None = None
        self._notes: Counter[str] = Counter()
        self._mask_notes: dict[Path, Counter[str]] = {}
        self.unknown: Counter[str] = Counter()
        self._listed: list[CocoImage] = []
        self._matched: set[int] = set()
        self.classes: tuple[str, ...] = tuple(classes or ())
        self.scored_classes: tuple[str, ...] = ()
        if not self._annotations.is_file():
            return
        file = read_coco(self._annotations)
        self.classes = self.classes if classes is not None else ClassNames.table_of(file.classes)
        self.scored_classes = ClassNames(self.classes).known(file.classes)
        self._names, self._listed = file.by_name(), file.images
        self._notes.update(file.notes)

    def _labelled(self, texts: Sequence[str], size: tuple[int, int]) -> tuple[Boxes | None, str | None]:
        """Return boxes and time of day of the image that has one of these paths; None: not listed."""
        found = (self._names.find(text) for text in texts if self._names is not None)
        image = next((image for image in found if image is not None), None)
        if image is None:
            return None, None
        self._matched.add(id(image))
        boxes = boxes_of(image.labels, self.classes, size)
        self._notes.update(boxes.notes)
        self.unknown.update(boxes.unknown)
        time = image.entry.get("time")
        return boxes, None if time is None else str(time)

    def _item(self, number: int, entry: Any) -> PairedItem:
        where = f"{self._index}: item {number}"
        try:
            name, size = str(entry["id"]), (int(entry["width"]), int(entry["height"]))
            ir_offset_ms = float(entry.get("ir_offset_ms") or 0.0)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise PairedFolderError(f"{where} lacks an id, width or height, or one is not a number") from None
        colour = next((key for key in _COLOUR_KEYS if entry.get(key)), None)
        infrared = entry.get(self.infrared) or None
        if (colour is None and infrared is None) if self._single else (colour is None or infrared is None):
            wanted = f"RGB image ({' or '.join(_COLOUR_KEYS)})" if colour is None else f"{self.infrared} image"
            images = [k for k, v in entry.items() if isinstance(v, str) and "/" in v and k != "label"]
            raise PairedFolderError(f"{where} ({name}) has no {wanted}; it has {', '.join(images) or 'no images'}")
        rgb = None if colour is None else str(entry[colour])
        boxes, time = self._labelled([str(text) for text in (rgb, infrared) if text is not None], size)
        label = entry.get("label")
        return PairedItem(
            id=name,
            size=size,
            rgb_path=None if rgb is None else inside(self.root, rgb, where),
            infrared_path=None if infrared is None else inside(self.root, infrared, where),
            mask_path=inside(self.root, label, where) if isinstance(label, str) else None,
            time=time if time is not None else entry.get("time"),
            ir_offset_ms=ir_offset_ms,
            **({} if boxes is None else boxes.fields()),
        )


def _read(reader: Callable[[Path], np.ndarray], path: Path, size: tuple[int, int]) -> np.ndarray:
    with errors_as(PairedFolderError, ImageFileError, LabelError):
        image = reader(path)
    if (image.shape[1], image.shape[0]) != size:
        raise PairedFolderError(
            f"{path}: {image.shape[1]}x{image.shape[0]} pixels, its index says {size[0]}x{size[1]}; "
            "both images of a pair must have the same size"
        )
    return image
