"""The two numbers every two-camera robot lacks, found from what its cameras saw: time offset and homography.

No targets, no network and no weights. What is where, free of torch and of ROS:

- `structure.py`: what pictures of two bands have in common; `search.py`: the rough place by trying all of them;
  `matching.py`: patches found again, evidence added up over pairs; `fitting.py`: the homography most of them agree
  with; `homography.py`: all of it in a row, and when not to believe it; `uncertainty.py`, `likeness.py`,
  `evidence.py`: how far it may be off, and whether it is better than none.
- `activity.py`: what moves, frame by frame; `time_offset.py`: two cameras' movements laid over one another, and when
  not to believe it; `displacements.py`: where edges that move lie in the other band; `delay.py`: what of that goes with
  their velocity.
- `recordings.py`: images out of bags and folders, few enough to fit in memory.
"""

from __future__ import annotations
