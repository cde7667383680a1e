"""Camera streams without torch or ROS: decoding, pairing, clock offsets, camera modes.

Nothing here reads a clock: results depend on the calls only, so the same bag always gives the same pairs and modes.
"""

from __future__ import annotations
