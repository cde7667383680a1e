"""Scenes rendered once for all cells, as arrays on disk that every job memory-maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.data.prefetch import prefetched
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scene_sets import ScenePairs
from spectradino_core.files import written_atomically
from spectradino_core.modality import Modality
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, TIMES_OF_DAY

_PARTS = ("rgb", "infrared", "mask", "boxes", "labels", "ends", "times", "seeds")


class ScenePool:
    """Labelled pairs by index: a source of a `Mixture`, and a data set for reports."""

    box_classes = BOX_CLASSES
    mask_classes = MASK_CLASSES

    def __init__(self, folder: Path, infrared: Modality) -> None:
        """Open the files of `render`.

        Raises:
            ValueError: they are missing or damaged.
        """
        self.infrared = infrared
        try:
            self._arrays = {p: np.load(folder / f"{p}.npy", mmap_mode="r", allow_pickle=False) for p in _PARTS}
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: not a pool of scenes ({error}); delete it and start again") from None
        self.name = f"{len(self)} scenes"

    @classmethod
    def render(
        cls, folder: Path, seeds: range, infrared: Modality, size: tuple[int, int], misregistration_px: float = 0.0
    ) -> ScenePool:
        """Render a scene per seed into a folder, alternating between day, dusk and night; `size` is (width, height)."""
        width, height = size
        arrays: dict[str, np.ndarray] = {
            "rgb": np.zeros((len(seeds), height, width, 3), np.uint8),
            "infrared": np.zeros((len(seeds), height, width), np.uint16),
            "mask": np.zeros((len(seeds), height, width), np.uint8),
            "times": np.arange(len(seeds), dtype=np.uint8) % len(TIMES_OF_DAY),
            "seeds": np.asarray(seeds, np.int64),
        }
        boxes: list[Any] = []
        labels: list[Any] = []
        for index, sample in enumerate(ScenePairs(seeds, infrared, size, TIMES_OF_DAY, misregistration_px)):
            for part in ("rgb", "infrared", "mask"):
                arrays[part][index] = getattr(sample, part)
            boxes.append(sample.boxes)
            labels.append(sample.labels)
        arrays["boxes"] = np.concatenate(boxes).astype(np.float32)
        arrays["labels"] = np.concatenate(labels).astype(np.int64)
        arrays["ends"] = np.cumsum([len(b) for b in boxes], dtype=np.int64)
        for part, array in arrays.items():
            with written_atomically(folder / f"{part}.npy") as scratch, scratch.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        return cls(folder, infrared)

    def __len__(self) -> int:
        return len(self._arrays["seeds"])

    def __getitem__(self, index: int) -> PairedSample:
        """Return a pair, whose arrays are read-only views."""
        arrays = self._arrays
        mine = slice(arrays["ends"][index - 1] if index else 0, arrays["ends"][index])
        images: dict[str, Any] = {part: np.asarray(arrays[part][index]) for part in ("rgb", "infrared", "mask")}
        objects: dict[str, Any] = {part: np.asarray(arrays[part][mine]) for part in ("boxes", "labels")}
        time = TIMES_OF_DAY[int(arrays["times"][index])]
        return PairedSample(**images, **objects, name=f"scene {arrays['seeds'][index]} ({time})", subsets=(time,))

    def samples(self, workers: int = 0) -> Iterator[PairedSample]:
        return prefetched(self.__getitem__, range(len(self)), workers)
