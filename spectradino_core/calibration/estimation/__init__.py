"""Target-free calibration of an RGB-IR camera pair from recordings: time offset and homography.

Needs no network or weights, and imports neither torch nor ROS:

- `structure.py`: features shared by images of two bands; `search.py`: coarse exhaustive search; `matching.py`: patch
  matches accumulated over pairs, and a robust fit; `evidence.py`: error bounds, and whether the result is better than
  no calibration; `homography.py`: the complete estimation and its acceptance tests.
- `time_offset.py`: motion per frame, correlation of two cameras' motion, and its acceptance tests; `displacements.py`:
  positions of moving edges in the other band, and the part of them proportional to velocity.
- `recordings.py`: samples images from bags and folders so that they fit in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class CalibrationError(ValueError):
    """A calibration cannot be estimated from these images; the message gives the reason and what to record."""


def spread_over(items: Sequence[Item], max_count: int) -> list[Item]:
    """Return at most so many of the items, evenly spread."""
    if len(items) <= max_count:
        return list(items)
    return [items[round(k)] for k in np.linspace(0, len(items) - 1, max_count)]
