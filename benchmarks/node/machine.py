"""What a measurement was made on: enough to judge a figure by, nothing that names a machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import cv2
import numpy
import onnxruntime

__all__ = ["describe"]


def describe() -> dict[str, str]:
    """Cores, kind of processor, how busy it was before, and versions."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _processor(),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "time in which somebody waited for a core, the minute before": _pressure(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": onnxruntime.__version__,
        "rclpy": _version("ros-jazzy-rclpy", "rclpy"),
        "middleware": os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def _pressure() -> str:
    """Linux's pressure stall information: the share of time in which a process was ready and had no core."""
    try:
        fields = Path("/proc/pressure/cpu").read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return "unknown"
    return next((f"{float(f.partition('=')[2]):.0f} %" for f in fields if f.startswith("avg60=")), "unknown")


def _version(*names: str) -> str:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
