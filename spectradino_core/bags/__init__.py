"""Recorded drives: rosbag2 read, replayed through the node's own pairing and pipeline, written and made up.

What is where, free of torch and of ROS:

- `storage.py`, `salvage.py`: files to raw messages, whole or damaged; `message_types.py`: raw messages to fields.
- `reader.py`: which topics are the cameras, and their frames in stamp order.
- `replay.py`: frames to answers, by the same code as the live node.
- `inspection.py`: what a bag holds and how healthy its stamps are.
- `writer.py`, `messages.py`: messages made and bags written.
- `schedule.py`, `sources.py`, `make.py`: drives made up with known truth.
- `segments.py`, `annotate.py`: drives with what the node would publish beside them.
"""

from __future__ import annotations
