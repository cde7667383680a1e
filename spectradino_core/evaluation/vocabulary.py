"""Mapping of a data set's classes to a model's, matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from spectradino_core.data.labels import ClassNames
from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.segmentation import UNLABELLED
from spectradino_core.runtime.bundle import ModelInfo

__all__ = ["HasClasses", "Vocabulary"]


class HasClasses(Protocol):
    """Data with names for its labels."""

    @property
    def box_classes(self) -> tuple[str, ...]: ...

    @property
    def mask_classes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Vocabulary:
    """Maps a data set's labels to a model's.

    Attributes:
        boxes: int64, model label by label of the data set; -1: the model has none.
        masks: uint8 [256], model class by mask value of the data set; 255: the model has none.
        unknown_boxes: box classes that the model lacks, which are excluded from all scores.
        unknown_masks: mask classes that the model lacks, whose pixels are not counted.
        model_boxes: number of the model's box classes.
    """

    boxes: np.ndarray
    masks: np.ndarray
    unknown_boxes: tuple[str, ...]
    unknown_masks: tuple[str, ...]
    model_boxes: int

    @classmethod
    def between(cls, info: ModelInfo, data: HasClasses, name: str) -> Vocabulary:
        """Make the mapping from a data set to a model.

        Args:
            info: metadata of the model.
            data: the data set.
            name: name of the data set, for the error message.

        Raises:
            ValueError: the two have no class in common; names both lists.
        """
        names = ClassNames(info.box_classes)
        indices = [names.find(label) for label in data.box_classes]
        if all(index is None for index in indices) and not set(info.mask_classes) & set(data.mask_classes):
            raise ValueError(
                f"{name} can't be used to evaluate {info.name}, as they have no class in common: it labels "
                f"{_listed(data.box_classes, data.mask_classes)}, the model knows "
                f"{_listed(info.box_classes, info.mask_classes)}"
            )
        masks = np.full(256, UNLABELLED, np.uint8)
        for value, label in enumerate(data.mask_classes):
            if label in info.mask_classes:
                masks[value] = info.mask_classes.index(label)
        return cls(
            np.array([-1 if index is None else index for index in indices], np.int64),
            masks,
            tuple(label for label, index in zip(data.box_classes, indices, strict=True) if index is None),
            tuple(label for label in data.mask_classes if label not in info.mask_classes),
            len(info.box_classes),
        )

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


def _listed(boxes: Sequence[str], masks: Sequence[str]) -> str:
    kinds = [f"{kind} of {', '.join(names)}" for kind, names in (("boxes", boxes), ("masks", masks)) if names]
    return " and ".join(kinds) or "nothing"
