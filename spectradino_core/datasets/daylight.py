"""Day or night, told from the colour picture where a data set doesn't say.

The rule: night where the mean luminance (Rec. 601) of the colour image lies below 140 of 255. On the 78 pairs of
RoadScene whose time a person noted it finds 11 of 14 nights and takes no day for one: cameras with automatic exposure
lift dark streets to 70 .. 175, while their days begin at 140. A darker camera needs another limit.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["DAY", "NIGHT", "NIGHT_BELOW", "time_of"]

DAY, NIGHT = "day", "night"

NIGHT_BELOW = 140.0
"""Mean luminance, 0 .. 255."""


def time_of(rgb: np.ndarray) -> str:
    """DAY or NIGHT of a picture uint8 [h, w, 3] in RGB order."""
    return NIGHT if float(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY).mean()) < NIGHT_BELOW else DAY
