"""Fraction of camera images that arrive between two processes, by Fast DDS profile and reliability of both sides.

    python -m benchmarks.dds_images --seconds 12

One process sends like two camera drivers: 640x480 rgb8 and 640x512 mono16, each at 30 Hz. Another one receives like the
node, with the given history depth. `profile` is config/fastdds_large_images.xml, `default` Fast DDS as installed.
"""

from __future__ import annotations

import array
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROFILE = Path(__file__).resolve().parents[1] / "config" / "fastdds_large_images.xml"
CAMERAS = {"rgb": ("rgb8", 640, 480, 3), "ir": ("mono16", 640, 512, 2)}
RATE_HZ = 30.0
PROFILES = ("default", "profile")
_KEY = "FASTRTPS_DEFAULT_PROFILES_FILE"


def send(seconds: float, reliability: str) -> None:
    """Publish both cameras' images once there is a subscriber."""
    import rclpy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("cameras")
    out, messages = {}, {}
    for name, (encoding, width, height, size) in CAMERAS.items():
        out[name] = node.create_publisher(Image, f"{name}/image_raw", _qos(reliability, 5))
        messages[name] = Image(height=height, width=width, step=width * size, encoding=encoding)
        messages[name].data = array.array("B", bytes(width * height * size))
    end = time.monotonic() + 20.0
    while not all(publisher.get_subscription_count() for publisher in out.values()) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    start = time.monotonic()
    count = round(seconds * RATE_HZ)
    for number in range(count):
        for name, publisher in out.items():
            messages[name].header.stamp.sec = number + 1
            publisher.publish(messages[name])
        time.sleep(max(0.0, start + (number + 1) / RATE_HZ - time.monotonic()))
    print(json.dumps({"sent": count, "seconds": time.monotonic() - start}), flush=True)
    time.sleep(1.0)
    rclpy.shutdown()


def receive(seconds: float, reliability: str, depth: int) -> None:
    """Count the images of both cameras until none has arrived for three seconds."""
    import rclpy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("receiver")
    counts = dict.fromkeys(CAMERAS, 0)

    def count(name: str) -> None:
        counts[name] += 1

    for name in CAMERAS:
        node.create_subscription(
            Image, f"{name}/image_raw", lambda _message, name=name: count(name), _qos(reliability, depth)
        )
    end, last, before = time.monotonic() + seconds + 30.0, time.monotonic() + 20.0, 0
    while time.monotonic() < min(end, last + 3.0):
        rclpy.spin_once(node, timeout_sec=0.5)
        if sum(counts.values()) != before:
            before, last = sum(counts.values()), time.monotonic()
    print(json.dumps(counts), flush=True)
    rclpy.shutdown()


def measure(
    sender: str, receiver: str, offered: str, requested: str, depth: int, seconds: float, domain: int
) -> dict[str, Any]:
    """Measure one row of the table: the fraction of each camera's images that arrived."""
    here = [sys.executable, "-m", "benchmarks.dds_images"]
    ends = {}
    for role, profile, words in (
        ("receive", receiver, [str(seconds), requested, str(depth)]),
        ("send", sender, [str(seconds), offered]),
    ):
        environment = {k: v for k, v in os.environ.items() if k != _KEY}
        environment |= {"ROS_DOMAIN_ID": str(domain), "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}
        if profile == "profile":
            environment[_KEY] = str(PROFILE)
        ends[role] = subprocess.Popen([*here, role, *words], env=environment, stdout=subprocess.PIPE, text=True)
    outputs = {role: json.loads(process.communicate(timeout=seconds + 120)[0]) for role, process in ends.items()}
    sent = outputs["send"]["sent"]
    return {
        "drivers": sender,
        "node": receiver,
        "offered": offered,
        "requested": requested,
        "depth": depth,
        "rgb_arrived": round(outputs["receive"]["rgb"] / sent, 3),
        "ir_arrived": round(outputs["receive"]["ir"] / sent, 3),
        "sent_hz": round(sent / outputs["send"]["seconds"], 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all rows and write them to the results folder."""
    from benchmarks.experiment import parser_of, show
    from spectradino_core.bench.machine import describe
    from spectradino_core.bench.tables import write_table

    parser = parser_of("dds_images", __doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="how long is sent for each row")
    parser.add_argument("--domain", type=int, default=77, help="ROS domain")
    options = parser.parse_args(arguments)
    rows = []
    cases = [(*pair, "best_effort", "best_effort", 2) for pair in itertools.product(PROFILES, PROFILES)]
    cases += [
        ("default", "default", "best_effort", "best_effort", 10),
        ("default", "default", "reliable", "best_effort", 2),
    ]
    cases += [("default", "default", "reliable", "reliable", 2), ("default", "profile", "reliable", "reliable", 2)]
    for case in cases:
        rows.append(measure(*case, options.seconds, options.domain))
        show(rows[-1])
    write_table(options.out / "dds_images.csv", describe(), rows)
    return 0


def _qos(reliability: str, depth: int) -> Any:
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    return QoSProfile(depth=depth, reliability=ReliabilityPolicy[reliability.upper()])


if __name__ == "__main__":
    if sys.argv[1:2] == ["send"]:
        send(float(sys.argv[2]), sys.argv[3])
    elif sys.argv[1:2] == ["receive"]:
        receive(float(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        from benchmarks.experiment import run_main

        run_main(main)
