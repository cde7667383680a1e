"""One end of a stream of large images, in its own process: `send N` or `receive N SECONDS` (prints a count)."""

from __future__ import annotations

import array
import sys
import time

import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

HEIGHT, WIDTH, RATE = 1024, 1280, 30.0
TOPIC = "large_images"


def send(count: int) -> None:
    """Publish `count` rgb8 images at 30 Hz once there is a subscriber."""
    node = rclpy.create_node("sender")
    publisher = node.create_publisher(Image, TOPIC, qos_profile_sensor_data)
    end = time.monotonic() + 20.0
    while publisher.get_subscription_count() == 0:
        if time.monotonic() > end:
            raise TimeoutError("no subscriber in 20 s")
        time.sleep(0.05)
    time.sleep(0.5)
    message = Image(height=HEIGHT, width=WIDTH, step=3 * WIDTH, encoding="rgb8")
    message.data = array.array("B", bytes(3 * WIDTH * HEIGHT))
    start = time.monotonic()
    for i in range(count):
        message.header.stamp.sec = i + 1
        publisher.publish(message)
        time.sleep(max(0.0, start + (i + 1) / RATE - time.monotonic()))
    time.sleep(1.0)


def receive(count: int, seconds: float) -> None:
    """Print how many of `count` images arrive; waits up to `seconds` from the start, and 2 s after the last one."""
    node = rclpy.create_node("receiver")
    stamps: set[int] = set()
    subscription = node.create_subscription(
        Image, TOPIC, lambda m: stamps.add(m.header.stamp.sec), qos_profile_sensor_data
    )
    end = time.monotonic() + seconds
    while len(stamps) < count and time.monotonic() < end:
        before = len(stamps)
        rclpy.spin_once(node, timeout_sec=2.0)
        if before and len(stamps) == before:
            break
    assert subscription is not None
    print(len(stamps))


if __name__ == "__main__":
    rclpy.init()
    if sys.argv[1] == "send":
        send(int(sys.argv[2]))
    else:
        receive(int(sys.argv[2]), float(sys.argv[3]))
    rclpy.shutdown()
