"""Sets of labelled pairs that figures are reported on.

What `evaluate` asks of one is `LabelledSet`; the readers of published data sets (`data/benchmarks`) have it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spectradino_core.data.mixture import scene_sample
from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scenes import BOX_CLASSES, MASK_CLASSES
from spectradino_core.data.seeds import held_out_seeds
from spectradino_core.modality import Modality

__all__ = ["FolderSet", "LabelledSet", "SceneSet", "held_out_scenes", "validation_scenes"]


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


@dataclass(frozen=True)
class SceneSet:
    """Scenes of given seeds, rendered when asked for; size is (width, height)."""

    seeds: Sequence[int]
    infrared: Modality
    size: tuple[int, int]
    time_of_day: str | None = None

    box_classes = BOX_CLASSES
    mask_classes = MASK_CLASSES

    @property
    def name(self) -> str:
        return f"{len(self.seeds)} {self.time_of_day or 'mixed'} scenes"

    def __len__(self) -> int:
        return len(self.seeds)

    def __iter__(self) -> Iterator[PairedSample]:
        for seed in self.seeds:
            yield scene_sample(seed, self.infrared, self.size, time_of_day=self.time_of_day)

    def samples(self) -> Iterator[PairedSample]:
        return iter(self)


class FolderSet:
    """The labelled images of one split of a folder (see `paired_folder`): pairs, or images of one camera."""

    def __init__(self, root: str | Path, split: str, infrared: Modality) -> None:
        """
        Raises:
            ValueError: the folder is not one of paired images, or none of its images is labelled.
        """
        self._folder = PairedFolder(root, split, infrared=infrared.key, single=True)
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


def held_out_scenes(
    infrared: Modality, count: int, time_of_day: str | None = None, size: tuple[int, int] = (640, 512)
) -> SceneSet:
    """The first `count` scenes that reported figures are made on."""
    return SceneSet(held_out_seeds("report", count), infrared, size, time_of_day)


def validation_scenes(infrared: Modality, size: tuple[int, int], count: int) -> SceneSet:
    """Scenes for training curves: held out from training, and apart from those that reported figures are made on."""
    return SceneSet(held_out_seeds("curves", count), infrared, size)
