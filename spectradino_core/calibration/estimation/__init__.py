"""Target-free calibration of an RGB-IR camera pair from recordings: time offset and homography.

Needs no network or weights, and imports neither torch nor ROS:

- `structure.py`: features shared by images of two bands; `search.py`: coarse exhaustive search; `matching.py`: patch
  matching with evidence accumulated over pairs; `fitting.py`: robust homography fit; `homography.py`: the complete
  estimation and its acceptance tests; `uncertainty.py`, `likeness.py`, `evidence.py`: error bounds, and whether the
  result is better than no calibration.
- `activity.py`: motion per frame; `time_offset.py`: correlation of two cameras' motion and its acceptance tests;
  `displacements.py`: positions of moving edges in the other band; `delay.py`: the part proportional to velocity.
- `recordings.py`: samples images from bags and folders so that they fit in memory.
"""

from __future__ import annotations
