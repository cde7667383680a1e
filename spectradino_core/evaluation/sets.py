"""Labelled data sets for evaluation, and the mapping of their classes to a model's, matched by name.

`evaluate` takes a `LabelledSet`: a folder of pairs (here), scenes (`data.scene_sets`) or a published data set
(`datasets.registry`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from spectradino_core.data.labels import ClassNames
from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.data.prefetch import prefetched
from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.segmentation import UNLABELLED
from spectradino_core.modality import Modality
from spectradino_core.runtime.bundle import ModelInfo


class HasClasses(Protocol):
    """Data with names for its labels."""

    @property
    def box_classes(self) -> tuple[str, ...]: ...

    @property
    def mask_classes(self) -> tuple[str, ...]: ...


class LabelledSet(HasClasses, Protocol):
    """Labelled pairs with class names."""

    @property
    def name(self) -> str: ...

    @property
    def infrared(self) -> Modality: ...

    def __len__(self) -> int: ...

    def samples(self, workers: int = 0) -> Iterator[PairedSample]:
        """Iterate over the pairs, each read or rendered on access, or ahead (see `prefetched`)."""
        ...


class FolderSet:
    """Labelled images of one split of a folder (see `paired_folder`): pairs, or images of one camera."""

    def __init__(
        self,
        root: str | Path,
        split: str,
        infrared: Modality,
        box_classes: Sequence[str] | None = None,
        mask_classes: Sequence[str] | None = None,
    ) -> None:
        """Open a split of a folder with the band beside RGB.

        Labels and masks shall index `box_classes` and `mask_classes`; None: the folder's own.

        Raises:
            ValueError: not a folder of paired images, or none of its images is labelled.
        """
        self._folder = PairedFolder(root, split, infrared.key, box_classes, mask_classes, single=True)
        self._items = self._folder.labelled()
        self.name = f"{Path(root).name} {split}"
        self.infrared = infrared
        self.box_classes = tuple(self._folder.classes)
        self.mask_classes = tuple(self._folder.mask_classes)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def notes(self) -> Counter[str]:
        """Notes on its label files, see `data.labels.NOTES`."""
        return self._folder.notes

    def __iter__(self) -> Iterator[PairedSample]:
        return map(self._folder.load, self._items)

    def samples(self, workers: int = 0) -> Iterator[PairedSample]:
        return prefetched(self._folder.load, self._items, workers)


@dataclass(frozen=True)
class Vocabulary:
    """Maps a data set's labels to a model's.

    Attributes:
        boxes, masks: model label by label of the data set, int64, -1: none; and class by mask value, uint8 [256],
            255: none.
        unknown: box and mask classes that the model lacks, which are excluded from all scores.
        model_boxes: number of the model's box classes.
    """

    boxes: np.ndarray
    masks: np.ndarray
    unknown: tuple[str, ...]
    model_boxes: int

    @classmethod
    def between(cls, info: ModelInfo, data: HasClasses, name: str, use: str = "evaluate") -> Vocabulary:
        """Make the mapping from a data set to a model; `name` and `use` are those of messages.

        Raises:
            ValueError: the two have no class in common; names both lists.
        """
        names = ClassNames(info.box_classes)
        indices = [names.find(label) for label in data.box_classes]
        boxes = np.array([-1 if index is None else index for index in indices], np.int64)
        unknown = [label for label, index in zip(data.box_classes, indices, strict=True) if index is None]
        masks = np.full(256, UNLABELLED, np.uint8)
        for value, label in enumerate(data.mask_classes):
            if label in info.mask_classes:
                masks[value] = info.mask_classes.index(label)
            else:
                unknown.append(label)
        if len(unknown) == len(data.box_classes) + len(data.mask_classes):
            raise ValueError(
                f"{name} can't be used to {use} {info.name}, as they have no class in common: it labels "
                f"{_listed(data)}, the model knows {_listed(info)}"
            )
        return cls(boxes, masks, tuple(unknown), len(info.box_classes))

    def __call__(self, sample: PairedSample) -> PairedSample:
        """Return the pair with the model's labels; of other classes, boxes are removed and pixels unlabelled."""
        boxes, labels = self._boxes(sample.boxes, sample.labels)
        ignored, ignored_labels = self._boxes(sample.ignored, sample.ignored_labels)
        mask = sample.mask
        if mask is not None:
            mask = self.masks[mask] if (self.masks != UNLABELLED).any() else None
        return replace(
            sample,
            boxes=boxes,
            labels=labels,
            ignored=ignored,
            ignored_labels=ignored_labels,
            mask=mask,
            labelled_classes=self._labelled(sample.labelled_classes),
        )

    def _labelled(self, classes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Return the model's labels of classes of the data set; None: all classes of the model."""
        labelled = range(len(self.boxes)) if classes is None else classes
        found = tuple(sorted({int(self.boxes[label]) for label in labelled} - {-1}))
        return None if len(found) == self.model_boxes else found

    def _boxes(
        self, boxes: np.ndarray | None, labels: np.ndarray | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        if boxes is None or labels is None or not (self.boxes >= 0).any():
            return None, None
        labels = self.boxes[np.asarray(labels, np.int64)]
        return boxes[labels >= 0], labels[labels >= 0]


def _listed(data: HasClasses) -> str:
    named = (("boxes", data.box_classes), ("masks", data.mask_classes))
    kinds = [f"{kind} of {', '.join(names)}" for kind, names in named if names]
    return " and ".join(kinds) or "nothing"
