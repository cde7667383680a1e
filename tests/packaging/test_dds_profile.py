"""config/fastdds_large_images.xml fulfils its purpose: large images arrive between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS in this environment")

COUNT = 60
STREAM = Path(__file__).with_name("image_stream.py")


@pytest.mark.slow
def test_large_images_arrive(repository: Path, ros_domain: int) -> None:
    profile = repository / "config/fastdds_large_images.xml"
    environment = os.environ | {"FASTRTPS_DEFAULT_PROFILES_FILE": str(profile)}
    environment |= {"ROS_DOMAIN_ID": str(ros_domain), "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}
    receiver = subprocess.Popen(
        [sys.executable, STREAM, "receive", str(COUNT), "40"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        subprocess.run([sys.executable, STREAM, "send", str(COUNT)], env=environment, check=True, timeout=60)
        printed, _ = receiver.communicate(timeout=60)
    finally:
        receiver.kill()
        receiver.wait()
    # All, on an idle machine; a busy one may lose a few, as best effort allows. By default 1 in 50 arrives.
    assert int(printed) >= 0.8 * COUNT
