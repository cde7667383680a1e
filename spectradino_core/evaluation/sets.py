"""Sets of labelled pairs that figures are reported on.

`evaluate` needs a `LabelledSet`; scenes (`data.scene_sets`) and published data sets (`datasets.registry`) are some too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.data.sample import PairedSample
from spectradino_core.modality import Modality

__all__ = ["FolderSet", "LabelledSet"]


class LabelledSet(Protocol):
    """Labelled pairs with names for their labels."""

    @property
    def name(self) -> str: ...

    @property
    def infrared(self) -> Modality: ...

    @property
    def box_classes(self) -> tuple[str, ...]: ...

    @property
    def mask_classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def samples(self) -> Iterator[PairedSample]:
        """Every pair, read or rendered when asked for."""
        ...


class FolderSet:
    """The labelled images of one split of a folder (see `paired_folder`): pairs, or images of one camera."""

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
            split: which split.
            infrared: the band beside RGB.
            box_classes, mask_classes: names that labels and masks shall index; None: the folder's own.

        Raises:
            ValueError: the folder is not one of paired images, or none of its images is labelled.
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
        """Oddities of its label files, see `data.labels.NOTES`."""
        return self._folder.notes

    def __iter__(self) -> Iterator[PairedSample]:
        return map(self._folder.load, self._items)

    def samples(self) -> Iterator[PairedSample]:
        return iter(self)
