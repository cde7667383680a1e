"""One labelled pair of frames, passed from readers through augmentation to batches.

Letters: h x w common pixel grid of the pair, K objects, I ignored objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class PairedSample:
    """An RGB frame, the infrared frame on the same pixel grid, and their labels.

    Attributes:
        rgb: uint8 [h, w, 3] in RGB order.
        infrared: raw counts, uint8 or uint16 [h, w].
        boxes, labels: float32 [K, 4], x1 y1 x2 y2 in pixels, and int64 [K]; None: not labelled (K = 0: no objects).
        mask: uint8 [h, w], 255 where unlabelled; None: not labelled.
        name: origin of the pair, for messages.
        ignored, ignored_labels: float32 [I, 4] and int64 [I] like `boxes` and `labels`: objects such as crowds, whose
            detections are neither true nor false positives; None: there are none.
        subsets: subsets of the data set, such as "day" or "night", that tables list separately.
        present: whether the RGB and the infrared frame were recorded. A missing frame is all zeros, and training and
            evaluation do not use its stream.
        labelled_classes: indices of the box classes whose every instance is in `boxes` or `ignored`; None: all.
            Unmatched detections of other classes are neither true nor false positives.
    """

    rgb: np.ndarray
    infrared: np.ndarray
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    mask: np.ndarray | None = None
    name: str = ""
    ignored: np.ndarray | None = None
    ignored_labels: np.ndarray | None = None
    subsets: tuple[str, ...] = ()
    present: tuple[bool, bool] = (True, True)
    labelled_classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not any(self.present):
            raise ValueError(f"{self.name or 'sample'}: neither the RGB nor the infrared frame is present")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return int(self.rgb.shape[1]), int(self.rgb.shape[0])
