"""The pairs of a user's folder one by one, as `paired_folder.PairedFolder` gives them: for recordings made of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spectradino_core.data.benchmarks.benchmark import LabelledItem, LabelledPairs
from spectradino_core.data.own.folder import OwnFolder

__all__ = ["OwnPair", "OwnPairs"]


class OwnPair:
    """One pair, see `paired_folder.PairedItem`; its images are read when asked for."""

    def __init__(self, pairs: LabelledPairs, item: LabelledItem) -> None:
        """
        Raises:
            BenchmarkError, ImageFileError: a file is missing or damaged.
        """
        self._pairs, self._item = pairs, item
        sample = pairs.load(item)
        self.boxes, self.labels, self.size = sample.boxes, sample.labels, sample.size
        self.ignored, self.ignored_labels = sample.ignored, sample.ignored_labels

    def load_rgb(self) -> np.ndarray:
        """uint8 [h, w, 3] in RGB order."""
        return self._pairs.load(self._item).rgb

    def load_infrared(self) -> np.ndarray:
        """uint8 or uint16 [h, w], on the RGB image's grid."""
        return self._pairs.load(self._item).infrared

    def load_mask(self) -> None:
        """Own folders have no masks."""


class OwnPairs:
    """The pairs of one split of a user's folder.

    Attributes:
        root, name, infrared, classes, mask_classes: as of `paired_folder.PairedFolder`.
        skipped: images of one camera alone.
    """

    mask_classes: tuple[str, ...] = ()

    def __init__(self, own: OwnFolder, split: str) -> None:
        """
        Raises:
            BenchmarkError, ImageFileError: no such split, or a file is damaged.
        """
        pairs = own.benchmark.open(own.root, split)
        self.root, self.name = own.root, own.benchmark.name
        self.infrared, self.classes = own.benchmark.infrared.key, own.benchmark.box_classes
        paired = [item for item in pairs if all(item.present)]
        self.skipped = len(pairs) - len(paired)
        self._items = [OwnPair(pairs, item) for item in paired]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[OwnPair]:
        return iter(self._items)
