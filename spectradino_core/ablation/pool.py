"""Scenes rendered once for all cells, as arrays on disk that every job memory-maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spectradino_core.data.prefetch import prefetched
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scene_sets import ScenePairs
from spectradino_core.files import written_atomically
from spectradino_core.modality import Modality
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, TIMES_OF_DAY

__all__ = ["ScenePool"]

_PARTS = ("rgb", "infrared", "mask", "boxes", "labels", "ends", "times", "seeds")


class ScenePool:
    """Labelled pairs by index: a source of a `Mixture`, and a data set for reports.

    Attributes:
        name: name in tables.
        infrared: the band beside RGB.
    """

    box_classes = BOX_CLASSES
    mask_classes = MASK_CLASSES

    def __init__(self, folder: Path, infrared: Modality) -> None:
        """Open the files of `render`.

        Raises:
            ValueError: they are missing or damaged.
        """
        self.infrared = infrared
        try:
            arrays = {part: np.load(folder / f"{part}.npy", mmap_mode="r", allow_pickle=False) for part in _PARTS}
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: not a pool of scenes ({error}); delete it and start again") from None
        self._arrays = arrays
        self.name = f"{len(arrays['seeds'])} scenes"

    @classmethod
    def render(
        cls, folder: Path, seeds: range, infrared: Modality, size: tuple[int, int], misregistration_px: float = 0.0
    ) -> ScenePool:
        """Render scenes into a folder, alternating between day, dusk and night.

        Args:
            folder: receives one file per kind of array.
            seeds: one per scene.
            infrared: the band beside RGB.
            size: (width, height) in pixels.
            misregistration_px: maximum shift between the bands in pixels.

        Raises:
            OSError: the disk is full.
        """
        width, height = size
        rgb = np.zeros((len(seeds), height, width, 3), np.uint8)
        counts = np.zeros((len(seeds), height, width), np.uint16)
        mask = np.zeros((len(seeds), height, width), np.uint8)
        times = np.arange(len(seeds), dtype=np.uint8) % len(TIMES_OF_DAY)
        boxes, labels = [], []
        for index, sample in enumerate(ScenePairs(seeds, infrared, size, TIMES_OF_DAY, misregistration_px)):
            assert sample.boxes is not None
            assert sample.labels is not None
            assert sample.mask is not None
            rgb[index], counts[index], mask[index] = sample.rgb, sample.infrared, sample.mask
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

    def __getitem__(self, index: int) -> PairedSample:
        """Return a pair, whose arrays are read-only views."""
        arrays = self._arrays
        start, end = int(arrays["ends"][index - 1]) if index else 0, int(arrays["ends"][index])
        time = TIMES_OF_DAY[int(arrays["times"][index])]
        return PairedSample(
            rgb=np.asarray(arrays["rgb"][index]),
            infrared=np.asarray(arrays["infrared"][index]),
            boxes=np.asarray(arrays["boxes"][start:end]),
            labels=np.asarray(arrays["labels"][start:end]),
            mask=np.asarray(arrays["mask"][index]),
            name=f"scene {int(arrays['seeds'][index])} ({time})",
            subsets=(time,),
        )

    def samples(self, workers: int = 0) -> Iterator[PairedSample]:
        return prefetched(self.__getitem__, range(len(self)), workers)
