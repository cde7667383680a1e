"""A data set's classes in a model's words: the two are matched by name.

Letters: h w an image, K boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from spectradino_core.data.labels import ClassNames
from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.segmentation import UNLABELLED
from spectradino_core.runtime.bundle import ModelInfo

__all__ = ["Labelled", "Vocabulary"]


class Labelled(Protocol):
    """Something whose labels have names."""

    @property
    def box_classes(self) -> tuple[str, ...]: ...

    @property
    def mask_classes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Vocabulary:
    """Turns a set's labels into a model's.

    Attributes:
        boxes: int64, the model's label of each of the set's, -1 where it has none.
        masks: uint8 [256], likewise of mask values, 255 where it has none.
        unknown_boxes: classes of the set that the model lacks: their boxes are left out of every score.
        unknown_masks: likewise; their pixels are not counted.
        model_boxes: how many box classes the model has.
    """

    boxes: np.ndarray
    masks: np.ndarray
    unknown_boxes: tuple[str, ...]
    unknown_masks: tuple[str, ...]
    model_boxes: int

    @classmethod
    def between(cls, info: ModelInfo, data: Labelled, name: str) -> Vocabulary:
        """
        Args:
            info: of the model.
            data: the set.
            name: the set's, for the error.

        Raises:
            ValueError: the two have no class in common; names both lists.
        """
        names = ClassNames(info.box_classes)
        places = [names.find(label) for label in data.box_classes]
        if all(place is None for place in places) and not set(info.mask_classes) & set(data.mask_classes):
            raise ValueError(
                f"{name} can't be used to judge {info.name}: it labels {_listed(data.box_classes, data.mask_classes)}, "
                f"the model knows {_listed(info.box_classes, info.mask_classes)}"
            )
        masks = np.full(256, UNLABELLED, np.uint8)
        for value, label in enumerate(data.mask_classes):
            if label in info.mask_classes:
                masks[value] = info.mask_classes.index(label)
        return cls(
            np.array([-1 if place is None else place for place in places], np.int64),
            masks,
            tuple(label for label, place in zip(data.box_classes, places, strict=True) if place is None),
            tuple(label for label in data.mask_classes if label not in info.mask_classes),
            len(info.box_classes),
        )

    def __call__(self, sample: PairedSample) -> PairedSample:
        """The pair with the model's labels; boxes of classes it lacks are gone, their pixels unlabelled."""
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
        """The model's labels of classes of the set; None: all of the model's."""
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
