"""Publish a folder of pairs as two cameras would, with sensor-data QoS and images as stored.

    python -m spectradino_ros.demo.player --data DIR --split val --band lwir --namespace /demo [--rate HZ]

It waits until both topics have a subscriber. With `--rate` it keeps that rate in any case, as cameras do. Without, it
adapts to the node by the frame reports and has at most two pairs in flight. It prints its progress to stdout, one JSON
object per line: {"event": "warm_up" | "sent" | "done", ..}.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport
from std_msgs.msg import Header

from spectradino_core.data.paired_folder import PairedFolder, PairedFolderError
from spectradino_core.options import RATE, add_option
from spectradino_ros.outputs import image_message

_MATCH_TIMEOUT_S = 20.0
_WARM_UPS = 3
"""Pairs sent one at a time before the replay, to fill caches and to measure the round-trip time."""


class SendSchedule:
    """Schedule of the pairs to be sent, one every `interval_s` seconds."""

    _MARGIN = 1.25
    """Interval by round-trip time; at full load any delay would queue frames."""
    _MIN_S = 0.1
    _IN_FLIGHT = 2

    def __init__(self, rate: float | None) -> None:
        """
        Args:
            rate: pairs per second, above 0; None: as fast as results arrive, at most 10 Hz.
        """
        self.fixed = rate is not None
        self.interval_s = 0.25 if rate is None else 1.0 / rate
        self._round_trip_s: float | None = None

    def add_round_trip(self, seconds: float) -> None:
        """Adapt the interval to the time from a stamp to the arrival of its frame report."""
        if self.fixed:
            return
        known = self._round_trip_s
        self._round_trip_s = seconds if known is None else 0.8 * known + 0.2 * seconds
        self.interval_s = max(self._MIN_S, self._MARGIN * self._round_trip_s)

    def may_send(self, since_last_s: float, in_flight: int) -> bool:
        """Return whether to send the next pair, with `in_flight` pairs waiting for results."""
        if since_last_s < self.interval_s:
            return False
        # A pair dropped by the node must not stop the replay.
        return self.fixed or in_flight < self._IN_FLIGHT or since_last_s > max(3.0, 5 * self.interval_s)


class Player(Node):
    """Node that publishes on both camera topics and subscribes to the frame reports."""

    def __init__(self, namespace: str, detector: str) -> None:
        super().__init__("player", namespace=namespace)
        self.rgb = self.create_publisher(Image, "rgb/image_raw", qos_profile_sensor_data)
        self.infrared = self.create_publisher(Image, "ir/image_raw", qos_profile_sensor_data)
        self._reports = self.create_subscription(FrameReport, f"{detector}/frame_report", self._on_report, 10)
        self.in_flight: dict[int, int] = {}
        self.on_result: Callable[[float], None] = lambda _seconds: None

    @property
    def matched(self) -> bool:
        """Whether both camera topics have a subscriber and the frame reports a publisher."""
        cameras = min(self.rgb.get_subscription_count(), self.infrared.get_subscription_count())
        return cameras > 0 and self._reports.get_publisher_count() > 0

    def send(self, rgb: np.ndarray, infrared: np.ndarray, ir_offset_ms: float) -> tuple[int, int]:
        """Publish a pair stamped now, the later frame at its stamp; returns (rgb_ns, ir_ns)."""
        begin = self.get_clock().now().nanoseconds
        offset = round(ir_offset_ms * 1e6)
        rgb_ns, ir_ns = begin + max(0, -offset), begin + max(0, offset)
        grey = "mono8" if infrared.dtype == np.uint8 else "mono16"
        frames = [
            (rgb_ns, "rgb_camera", self.rgb, rgb, "rgb8"),
            (ir_ns, "ir_camera", self.infrared, infrared, grey),
        ]
        self.in_flight[rgb_ns] = begin
        for stamp, frame_id, publisher, pixels, encoding in sorted(frames, key=lambda frame: frame[0]):
            time.sleep(max(0.0, (stamp - self.get_clock().now().nanoseconds) / 1e9))
            header = Header(stamp=Time(sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000), frame_id=frame_id)
            publisher.publish(image_message(pixels, encoding, header))
        return rgb_ns, ir_ns

    def forget_older_than(self, seconds: float) -> None:
        """Stop waiting for results of pairs older than `seconds`."""
        oldest = self.get_clock().now().nanoseconds - round(seconds * 1e9)
        self.in_flight = {stamp: sent for stamp, sent in self.in_flight.items() if sent >= oldest}

    def _on_report(self, report: FrameReport) -> None:
        stamp = report.rgb_stamp.sec * 1_000_000_000 + report.rgb_stamp.nanosec
        sent = self.in_flight.pop(stamp, None)
        if sent is not None:
            self.on_result((self.get_clock().now().nanoseconds - sent) / 1e9)


def emit(event: str, **facts: Any) -> None:
    """Print an event as one line of JSON for the parent process."""
    print(json.dumps({"event": event, **facts}), flush=True)


def play(folder: PairedFolder, player: Player, count: int, rate: float | None) -> None:
    """Send the first `count` pairs of the folder, after a warm-up; `rate`: see `SendSchedule`.

    Raises:
        PairedFolderError: an image is missing or damaged.
        TimeoutError: a topic has no subscriber.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(player)

    def spin_until(done: Callable[[], bool], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                return False
            executor.spin_once(timeout_sec=0.01)
        return True

    if not spin_until(lambda: player.matched, _MATCH_TIMEOUT_S):
        raise TimeoutError(
            f"no subscriber on {player.rgb.topic_name} or {player.infrared.topic_name} for {_MATCH_TIMEOUT_S:.0f} s: "
            "start the detector node with the same namespace and ROS_DOMAIN_ID"
        )
    schedule = SendSchedule(rate)
    player.on_result = schedule.add_round_trip
    # Not with a single pair: a repeated IR frame looks like a frozen camera.
    for item in folder.items[: min(_WARM_UPS, count)] if count > 1 else ():
        player.send(item.load_rgb(), item.load_infrared(), item.ir_offset_ms)
        emit("warm_up", id=item.id)
        if not spin_until(lambda: not player.in_flight, 5.0):
            break  # further warm-up pairs would not get a result sooner
    player.in_flight.clear()

    first = last = time.monotonic()
    for index, item in enumerate(folder.items[:count]):
        rgb, infrared = item.load_rgb(), item.load_infrared()
        while index and not schedule.may_send(time.monotonic() - last, len(player.in_flight)):
            executor.spin_once(timeout_sec=0.002)
        player.forget_older_than(max(3.0, 5 * schedule.interval_s))
        now = time.monotonic()
        # A fixed rate is kept on average: a late frame shortens the next interval.
        last = last + schedule.interval_s if index and schedule.fixed and now - last < 2 * schedule.interval_s else now
        rgb_ns, ir_ns = player.send(rgb, infrared, item.ir_offset_ms)
        emit("sent", index=index, id=item.id, rgb_ns=rgb_ns, ir_ns=ir_ns)
    spin_until(lambda: not player.in_flight, 2.0)
    emit("done", rate_hz=(count - 1) / max(last - first, 1e-9) if count > 1 else None)
    executor.shutdown()


def main(args: list[str] | None = None) -> int:
    """Run the player from the command line; returns the exit code, 1 after an error."""
    parser = argparse.ArgumentParser(description="Publish the pairs of a folder as two cameras would.")
    add_option(parser, "--data", " with an index_SPLIT.json", required=True)
    add_option(parser, "--split", " (default: %(default)s)", default="val")
    add_option(parser, "--band", " that goes to ir/image_raw (default: %(default)s)", default="lwir")
    add_option(parser, "--limit", " to play (default: all)")
    parser.add_argument("--rate", type=RATE, help="pairs per second (default: adapted to the node)")
    parser.add_argument("--namespace", default="", help="namespace of the topics")
    parser.add_argument("--detector", default="detector_node", help="name of the node whose frame reports set the rate")
    options = parser.parse_args(args)
    try:
        folder = PairedFolder(options.data, options.split, options.band)
        rclpy.init(args=[])
        player = Player(options.namespace, options.detector)
        try:
            play(folder, player, min(options.limit or len(folder), len(folder)), options.rate)
        finally:
            player.destroy_node()  # otherwise its shared memory remains in /dev/shm
    except (PairedFolderError, TimeoutError) as error:
        print(f"player: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 1  # the parent process has ended or interrupts this one
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
