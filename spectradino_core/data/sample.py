"""One labelled pair of frames, as it travels from a reader through augmentation into a batch.

Letters: h x w the pair's common pixel grid, K objects.
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
        time_of_day: "day", "dusk" or "night" where it is known; tables show these apart.
    """

    rgb: np.ndarray
    infrared: np.ndarray
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    mask: np.ndarray | None = None
    name: str = ""
    time_of_day: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return int(self.rgb.shape[1]), int(self.rgb.shape[0])
