"""Labelled pairs for fine-tuning tests, computed: bright squares with boxes and a mask."""

from __future__ import annotations

import numpy as np

from spectradino_core.data.sample import PairedSample


class Squares:
    """`IndexedPairs` without files. Item i is always the same; every fourth has no boxes, every fifth no mask."""

    def __init__(self, count: int, first: int = 0, size: tuple[int, int] = (98, 84)) -> None:
        self._count, self._first, self._size = count, first, size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self._count:
            raise IndexError(place)
        return self._first + place

    def load(self, item: int) -> PairedSample:
        rng = np.random.default_rng(item)
        width, height = self._size
        rgb = rng.integers(40, 90, (height, width, 3)).astype(np.uint8)
        infrared = rng.integers(40, 90, (height, width)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        boxes, labels = [], []
        for _ in range(int(rng.integers(1, 4))):
            side, label = int(rng.integers(12, 30)), int(rng.integers(2))
            x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
            (rgb if label == 0 else infrared)[y : y + side, x : x + side] = 230
            mask[y : y + side, x : x + side] = 1 + label
            boxes.append((x, y, x + side, y + side))
            labels.append(label)
        sample = PairedSample(rgb, infrared, np.array(boxes, np.float32), np.array(labels), mask, f"squares {item}")
        if item % 4 == 3:
            sample.boxes = sample.labels = None
        if item % 5 == 4:
            sample.mask = None
        return sample
