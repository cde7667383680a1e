"""Recordings: rosbag2 files read, inspected, replayed through the node's pairing and pipeline, scored and written.

Needs neither torch nor ROS.

- Read: `storage.py`, `salvage.py` (files to raw messages, intact or damaged), `messages.py` (raw messages to fields and
  back), `topics.py`, `reader.py` (camera topics, frames in stamp order).
- Inspect: `inspection.py`.
- Replay: `replay.py` (frames to results, with the live node's code); `annotate.py` (results as a bag); `selection.py`,
  `export.py` (frames and pseudo-labels as a folder).
- Score: `ground_truth*.py`, `scored_bag.py`, `node_run.py`, `sweep_run.py` (one bag), `evaluate.py`, `results.py`,
  `report.py` (many).
- Write: `writer.py`; `sources.py`, `make.py` (synthetic recordings with ground truth).
"""

from __future__ import annotations


class BagError(ValueError):
    """A bag, or a topic in it, cannot be used; the message names it and the remedy."""
