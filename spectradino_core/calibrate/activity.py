"""How much changes before a camera, where and when: a signal that cameras of any two bands share.

A picture becomes a smaller one without slow shades (so that gain and exposure, which change as cameras please, say
little); what differs between two such pictures a moment apart, cell by cell and whatever its sign, is the activity. A
thing that moves changes the cells it crosses in every band that sees it, hot or cold, bright or dark; a camera that
turns changes all cells that hold an edge.

Letters: K frames, N cells.
"""

from __future__ import annotations

import cv2
import numpy as np

from spectradino_core.calibrate.structure import grey_picture
from spectradino_core.runtime.registration import Registration, Size, Warp

__all__ = ["CELLS", "Activity"]

CELLS = (64, 48)
"""Columns and rows of cells."""

_PICTURE = (256, 192)
_SHADES = 20.0
_CONTRAST = 40.0


class Activity:
    """A stream's changes from frame to frame. Memory: 6 KB a frame.

    Attributes:
        seen: bool [N], which cells the camera sees whole; None: all.
    """

    def __init__(self, registration: Registration | None = None, rgb_size: Size | None = None) -> None:
        """
        Args:
            registration: for an infrared stream, infrared to colour pixels: cells are those of the colour image then.
            rgb_size: (width, height) of the colour images, with `registration`.
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
        """int64 [K]."""
        return np.array(self._stamps, np.int64)

    @property
    def period_ns(self) -> float:
        """Usual time from frame to frame; 0 with fewer than two."""
        return float(np.median(np.diff(self.stamps_ns))) if len(self) > 1 else 0.0

    def add(self, stamp_ns: int, image: np.ndarray) -> None:
        """Notes a frame; one that is not newer than the last is passed over.

        Args:
            stamp_ns: its stamp.
            image: colour uint8 [h, w, 3], or infrared uint8 or uint16 [h, w].

        Raises:
            ValueError: the image is of another kind.
            RegistrationError: the registration is not for such images.
        """
        if self._stamps and stamp_ns <= self._stamps[-1]:
            return
        if self._registration is not None and self._rgb_size is not None:
            size = (image.shape[1], image.shape[0])
            warp = Warp.of(self._registration, size, self._rgb_size, _PICTURE)
            small, valid = warp(image), warp.valid
        else:
            small, valid = cv2.resize(image, _PICTURE, interpolation=cv2.INTER_AREA), None
        if valid is not None and valid.any():
            small[~valid] = np.median(small[valid])
        picture = grey_picture(small)
        picture -= cv2.GaussianBlur(picture, (0, 0), _SHADES)
        picture *= _CONTRAST / max(float(picture.std()), 0.02)
        if valid is not None:
            inside = cv2.erode(valid.astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=1)
            picture[inside == 0] = 0
            self.seen = cv2.resize(inside.astype(np.float32), CELLS, interpolation=cv2.INTER_AREA).reshape(-1) > 0.99
        self._stamps.append(int(stamp_ns))
        if self._last is not None:
            change = cv2.resize(cv2.absdiff(picture, self._last), CELLS, interpolation=cv2.INTER_AREA)
            self._changes.append(change.reshape(-1).astype(np.float16))
        self._last = picture

    def changes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What differs between each frame and the one before.

        Returns:
            The middle of the two stamps int64 [K - 1], the seconds between them float64 [K - 1], and the mean
            difference of each cell in grey levels float32 [K - 1, N].
        """
        stamps = self.stamps_ns
        first, last = stamps[:-1], stamps[1:]
        if not self._changes:
            return first, np.zeros(0), np.zeros((0, CELLS[0] * CELLS[1]), np.float32)
        return first + (last - first) // 2, (last - first) / 1e9, np.stack(self._changes).astype(np.float32)
