"""Frames in time, free of torch and of ROS: messages to arrays, two cameras to pairs, what to do when one is silent.

Everything here is a pure function of the calls made to it: the same bag gives the same pairs and modes, every time.
"""

from __future__ import annotations
