"""Labelled data sets for evaluation.

`evaluate` takes a `LabelledSet`: a folder of pairs (here), scenes (`data.scene_sets`) or a published data set
(`datasets.registry`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.data.prefetch import prefetched
from spectradino_core.data.sample import PairedSample
from spectradino_core.modality import Modality

__all__ = ["FolderSet", "LabelledSet"]


class LabelledSet(Protocol):
    """Labelled pairs with class names."""

    @property
    def name(self) -> str: ...

    @property
    def infrared(self) -> Modality: ...

    @property
    def box_classes(self) -> tuple[str, ...]: ...

    @property
    def mask_classes(self) -> tuple[str, ...]: ...

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
        """
        Args:
            root: the folder.
            split: the split to open.
            infrared: the band beside RGB.
            box_classes, mask_classes: class names that labels and masks shall index; None: the folder's own.

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
