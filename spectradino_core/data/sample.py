"""One labelled pair of frames, as it travels from a reader through augmentation into a batch.

Letters: h x w the pair's common pixel grid, K objects, I ignored ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["PairedSample"]


@dataclass
class PairedSample:
    """A colour frame, its infrared partner on the same pixel grid, and what is known of them.

    Attributes:
        rgb: uint8 [h, w, 3] in RGB order.
        infrared: raw counts, uint8 or uint16 [h, w].
        boxes: float32 [K, 4], x1 y1 x2 y2 in pixels; None: not labelled (unlike K = 0, which says there is nothing).
        labels: int64 [K] or None.
        mask: uint8 [h, w], 255 where unlabelled; None: not labelled.
        name: where it came from, for messages.
        ignored, ignored_labels: float32 [I, 4] and int64 [I], as `boxes` and `labels`: crowds and the like, which
            it is neither right nor wrong to find; None: there are none.
        subsets: subsets of its data set that it belongs to, such as "day" or "night"; tables show these apart.
        present: whether the RGB and the infrared frame were recorded. The array of a frame that was not is all zeros;
            training and evaluation withhold that stream.
        labelled_classes: the box classes whose every instance is in `boxes` (or `ignored`), as indices; None: all.
            Where a data set does not label a class, an unmatched detection of it is neither right nor wrong.
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
        """Raises ValueError for a sample without any frame."""
        if not any(self.present):
            raise ValueError(f"{self.name or 'sample'}: neither the RGB nor the infrared frame is present")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return int(self.rgb.shape[1]), int(self.rgb.shape[0])
