"""Motion activity of a camera: where and how much its frames change, comparable across any two bands.

A frame is downscaled and high-pass filtered, which removes most of the effect of automatic gain and exposure. The
absolute difference of two such frames per cell is the activity. A moving object changes the cells it crosses in every
band that sees it, hot or cold, bright or dark; a turning camera changes every cell that holds an edge.

Letters: K frames, N cells.
"""

from __future__ import annotations

import cv2
import numpy as np

from spectradino_core.calibration.estimation.structure import grey_image
from spectradino_core.calibration.registration import Registration, Size, Warp

__all__ = ["CELLS", "Activity"]

CELLS = (64, 48)
"""Columns and rows of the cell grid."""

_IMAGE_SIZE = (256, 192)
_SHADES = 20.0
_CONTRAST = 40.0


class Activity:
    """Frame-to-frame changes of a stream, 6 KB per frame.

    Attributes:
        seen: bool [N], cells that lie completely in the camera's view; None: all.
    """

    def __init__(self, registration: Registration | None = None, rgb_size: Size | None = None) -> None:
        """
        Args:
            registration: for an IR stream, IR to RGB pixels; cells are then those of the RGB image.
            rgb_size: (width, height) of the RGB images, with `registration`.
        """
        self._registration, self._rgb_size = registration, rgb_size
        self.seen: np.ndarray | None = None
        self._stamps: list[int] = []
        self._changes: list[np.ndarray] = []
        self._last: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._stamps)

    @property
    def stamps_ns(self) -> np.ndarray:
        """Stamps, int64 [K]."""
        return np.array(self._stamps, np.int64)

    @property
    def period_ns(self) -> float:
        """Median time between frames; 0 with fewer than two."""
        return float(np.median(np.diff(self.stamps_ns))) if len(self) > 1 else 0.0

    def add(self, stamp_ns: int, image: np.ndarray) -> None:
        """Add a frame; frames that are not newer than the last one are skipped.

        Args:
            stamp_ns: its stamp.
            image: RGB uint8 [h, w, 3], or IR uint8 or uint16 [h, w].

        Raises:
            ValueError: the image is of another kind.
            RegistrationError: the registration is not for images of this size.
        """
        if self._stamps and stamp_ns <= self._stamps[-1]:
            return
        if self._registration is not None and self._rgb_size is not None:
            size = (image.shape[1], image.shape[0])
            warp = Warp.of(self._registration, size, self._rgb_size, _IMAGE_SIZE)
            small, valid = warp(image), warp.valid
        else:
            small, valid = cv2.resize(image, _IMAGE_SIZE, interpolation=cv2.INTER_AREA), None
        if valid is not None and valid.any():
            small[~valid] = np.median(small[valid])
        grey = grey_image(small)
        grey -= cv2.GaussianBlur(grey, (0, 0), _SHADES)
        grey *= _CONTRAST / max(float(grey.std()), 0.02)
        if valid is not None:
            inside = cv2.erode(valid.astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=1)
            grey[inside == 0] = 0
            self.seen = cv2.resize(inside.astype(np.float32), CELLS, interpolation=cv2.INTER_AREA).reshape(-1) > 0.99
        self._stamps.append(int(stamp_ns))
        if self._last is not None:
            change = cv2.resize(cv2.absdiff(grey, self._last), CELLS, interpolation=cv2.INTER_AREA)
            self._changes.append(change.reshape(-1).astype(np.float16))
        self._last = grey

    def changes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the difference of each frame from the previous one.

        Returns:
            Midpoint of the two stamps int64 [K - 1], seconds between them float64 [K - 1], and mean absolute
            difference of each cell in grey levels float32 [K - 1, N].
        """
        stamps = self.stamps_ns
        first, last = stamps[:-1], stamps[1:]
        if not self._changes:
            return first, np.zeros(0), np.zeros((0, CELLS[0] * CELLS[1]), np.float32)
        return first + (last - first) // 2, (last - first) / 1e9, np.stack(self._changes).astype(np.float32)
