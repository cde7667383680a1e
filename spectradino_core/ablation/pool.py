"""Scenes rendered once for all cells: arrays on disk that every job maps into its memory.

Letters: n scenes, h x w each, M boxes of all scenes together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scene_sets import ScenePairs
from spectradino_core.files import written_atomically
from spectradino_core.modality import Modality
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, TIMES_OF_DAY

__all__ = ["ScenePool"]

_PARTS = ("rgb", "infrared", "mask", "boxes", "labels", "ends", "times", "seeds")


class ScenePool:
    """Labelled pairs by number; a source of a `Mixture`, and a set that figures are reported on.

    Attributes:
        name: for tables.
        infrared: the band beside RGB.
    """

    box_classes = BOX_CLASSES
    mask_classes = MASK_CLASSES

    def __init__(self, folder: Path, infrared: Modality) -> None:
        """Opens what `render` wrote.

        Raises:
            ValueError: it is not there, or damaged.
        """
        self.infrared = infrared
        try:
            arrays = {part: np.load(folder / f"{part}.npy", mmap_mode="r", allow_pickle=False) for part in _PARTS}
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: no pool of scenes ({error}); delete it and start again") from None
        self._arrays = arrays
        self.name = f"{len(arrays['seeds'])} scenes"

    @classmethod
    def render(
        cls, folder: Path, seeds: range, infrared: Modality, size: tuple[int, int], misregistration_px: float = 0.0
    ) -> ScenePool:
        """Renders scenes into a folder, day, dusk and night in turn.

        Args:
            folder: gets one file for each kind of array.
            seeds: one per scene.
            infrared: the band beside RGB.
            size: (width, height), pixels.
            misregistration_px: greatest shift between the bands.

        Raises:
            OSError: the disk is full.
        """
        width, height = size
        rgb = np.zeros((len(seeds), height, width, 3), np.uint8)
        counts = np.zeros((len(seeds), height, width), np.uint16)
        mask = np.zeros((len(seeds), height, width), np.uint8)
        times = np.arange(len(seeds), dtype=np.uint8) % len(TIMES_OF_DAY)
        boxes, labels = [], []
        for place, sample in enumerate(ScenePairs(seeds, infrared, size, TIMES_OF_DAY, misregistration_px)):
            assert sample.boxes is not None
            assert sample.labels is not None
            assert sample.mask is not None
            rgb[place], counts[place], mask[place] = sample.rgb, sample.infrared, sample.mask
            boxes.append(sample.boxes)
            labels.append(sample.labels)
        arrays: dict[str, np.ndarray] = {
            "rgb": rgb,
            "infrared": counts,
            "mask": mask,
            "boxes": np.concatenate(boxes).astype(np.float32),
            "labels": np.concatenate(labels).astype(np.int64),
            "ends": np.cumsum([len(b) for b in boxes], dtype=np.int64),
            "times": times,
            "seeds": np.asarray(seeds, np.int64),
        }
        for part, array in arrays.items():
            with written_atomically(folder / f"{part}.npy") as scratch, scratch.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        return cls(folder, infrared)

    def __len__(self) -> int:
        return len(self._arrays["seeds"])

    def __getitem__(self, place: int) -> PairedSample:
        """The pair at a place; its arrays are views that can't be written to."""
        arrays = self._arrays
        start, end = int(arrays["ends"][place - 1]) if place else 0, int(arrays["ends"][place])
        time = TIMES_OF_DAY[int(arrays["times"][place])]
        return PairedSample(
            rgb=np.asarray(arrays["rgb"][place]),
            infrared=np.asarray(arrays["infrared"][place]),
            boxes=np.asarray(arrays["boxes"][start:end]),
            labels=np.asarray(arrays["labels"][start:end]),
            mask=np.asarray(arrays["mask"][place]),
            name=f"scene {int(arrays['seeds'][place])} ({time})",
            subsets=(time,),
        )

    def samples(self) -> Iterator[PairedSample]:
        """All of them, for a report."""
        return map(self.__getitem__, range(len(self)))
