"""Bags are read, replayed and written without torch and without ROS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from spectradino_core.bags import annotate, inspection, make, reader, replay, writer
from spectradino_core.commands import bag_info, bag_make, bag_run
print(sorted({"torch", "rclpy", "sensor_msgs", "matplotlib"} & set(sys.modules)))
"""


def test_neither_torch_nor_ros_is_loaded():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.strip() == "[]"
