"""SpectraDINO without ROS: the model, its training, and the runtime that serves it."""

from __future__ import annotations

__version__ = "0.2.0"
