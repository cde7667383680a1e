"""Description of a measurement's machine and ROS."""

from __future__ import annotations

import os

from spectradino_core.bench import machine

__all__ = ["describe"]


def describe() -> dict[str, str]:
    """See `spectradino_core.bench.machine.describe`; and rclpy's version and the middleware."""
    return machine.describe() | {
        "rclpy": machine.version("ros-jazzy-rclpy", "rclpy"),
        "middleware": os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp"),
    }
