"""Meaningless simulated time: whatever arrives on /clock, the node survives and gives results."""

from __future__ import annotations

import time

import pytest
from builtin_interfaces.msg import Time
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from tests.ros.harness import ir_pixels, rgb_pixels, running, wait_until
from tests.ros.rig import Rig

ODD = [(-1, 0), (-(2**31), 0), (0, 0), (2**31 - 1, 2**32 - 1), (5, 999_999_999), (5, 2_000_000_000), (1_800_000_000, 0)]


@pytest.mark.slow  # a node; test_hostile_requests.py covers what can end it
def test_nothing_on_the_clock_topic_ends_the_node(blob_model, peer):
    rig = Rig(peer, "clocked")
    publisher = peer.node.create_publisher(
        Clock, "/clock", QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
    )
    with running("-r", "__ns:=/clocked", model=blob_model, device="cpu", threads=1, use_sim_time=True) as node:
        wait_until(lambda: publisher.get_subscription_count() > 0, "the node's subscription to /clock")
        for _ in range(3):
            for sec, nanosec in ODD:
                publisher.publish(Clock(clock=Time(sec=sec, nanosec=nanosec)))
                time.sleep(0.02)
        rig.wait_for_node()
        detections, _ = rig.answer_to(
            rgb_pixels((320, 240), (20, 20, 60, 60)), ir_pixels((320, 240), (100, 40, 140, 80))
        )
        assert len(detections.detections) == 2
        assert node.running, node.log()
    peer.node.destroy_publisher(publisher)
