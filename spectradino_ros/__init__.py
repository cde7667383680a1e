"""ROS 2 node: topics, parameters and lifecycle; all processing is in spectradino_core."""

from __future__ import annotations

from spectradino_core import __version__

__all__ = ["__version__"]
