"""Plays a folder of pairs as two cameras would: its own process, sensor-data QoS, frames as they are stored.

    python -m spectradino_ros.demo.player --folder FOLDER --split val --infrared lwir --namespace /demo [--rate HZ]

It waits until somebody subscribes to both topics. With `--rate` it keeps that rate come what may, as cameras do.
Without, it finds the rate that the node keeps up with from the frame reports, and never has more than two pairs in
flight.
What it does it tells line by line as JSON on stdout: {"event": "warm_up" | "sent" | "done", ..}.
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

__all__ = ["Pace", "Player", "camera_message", "main"]

_MATCH_TIMEOUT_S = 20.0
_WARM_UPS = 3
"""Pairs sent one at a time before the count begins: they load caches and tell how long an answer takes."""


class Pace:
    """When the next pair goes out.

    Attributes:
        interval_s: time between two pairs.
    """

    _MARGIN = 1.25
    """Interval per answer time: a node that works all the time would queue at the least hiccup."""
    _SHORTEST_S = 0.1
    _IN_FLIGHT = 2

    def __init__(self, rate: float | None) -> None:
        """
        Args:
            rate: pairs per second, above 0; None: as fast as answers come, at most 10 a second.
        """
        self.fixed = rate is not None
        self.interval_s = 0.25 if rate is None else 1.0 / rate
        self._answer_s: float | None = None

    def answered(self, seconds: float) -> None:
        """An answer took so long from the stamp to its report's arrival."""
        if self.fixed:
            return
        known = self._answer_s
        self._answer_s = seconds if known is None else 0.8 * known + 0.2 * seconds
        self.interval_s = max(self._SHORTEST_S, self._MARGIN * self._answer_s)

    def may_send(self, since_last_s: float, in_flight: int) -> bool:
        """Whether it is time, `in_flight` pairs being unanswered."""
        if since_last_s < self.interval_s:
            return False
        # one that never comes back, because the node dropped it, must not stop the replay
        return self.fixed or in_flight < self._IN_FLIGHT or since_last_s > max(3.0, 5 * self.interval_s)


class Player(Node):
    """Two cameras' topics and an ear for the node's reports."""

    def __init__(self, namespace: str, detector: str) -> None:
        super().__init__("player", namespace=namespace)
        self.rgb = self.create_publisher(Image, "rgb/image_raw", qos_profile_sensor_data)
        self.infrared = self.create_publisher(Image, "ir/image_raw", qos_profile_sensor_data)
        self._reports = self.create_subscription(FrameReport, f"{detector}/frame_report", self._on_report, 10)
        self.in_flight: dict[int, int] = {}
        self.on_answer: Callable[[float], None] = lambda _seconds: None

    @property
    def matched(self) -> bool:
        """Whether both cameras are listened to and the node's reports would be heard."""
        cameras = min(self.rgb.get_subscription_count(), self.infrared.get_subscription_count())
        return cameras > 0 and self._reports.get_publisher_count() > 0

    def send(self, rgb: np.ndarray, infrared: np.ndarray, ir_offset_ms: float) -> tuple[int, int]:
        """Publishes a pair stamped now; the later camera's frame goes out later. Returns both stamps in nanoseconds."""
        begin = self.get_clock().now().nanoseconds
        offset = round(ir_offset_ms * 1e6)
        rgb_ns, ir_ns = begin + max(0, -offset), begin + max(0, offset)
        encoding = "mono8" if infrared.dtype == np.uint8 else "mono16"
        frames = [
            (rgb_ns, "rgb_camera", self.rgb, rgb, "rgb8"),
            (
                ir_ns,
                "ir_camera",
                self.infrared,
                infrared,
                encoding,
            ),
        ]
        self.in_flight[rgb_ns] = begin
        for stamp, frame_id, publisher, pixels, encoding in sorted(frames, key=lambda frame: frame[0]):
            time.sleep(max(0.0, (stamp - self.get_clock().now().nanoseconds) / 1e9))
            header = Header(stamp=Time(sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000), frame_id=frame_id)
            publisher.publish(camera_message(pixels, encoding, header))
        return rgb_ns, ir_ns

    def forget_older_than(self, seconds: float) -> None:
        """Gives up waiting for the answers of old pairs."""
        oldest = self.get_clock().now().nanoseconds - round(seconds * 1e9)
        self.in_flight = {stamp: sent for stamp, sent in self.in_flight.items() if sent >= oldest}

    def _on_report(self, report: FrameReport) -> None:
        stamp = report.rgb_stamp.sec * 1_000_000_000 + report.rgb_stamp.nanosec
        sent = self.in_flight.pop(stamp, None)
        if sent is not None:
            self.on_answer((self.get_clock().now().nanoseconds - sent) / 1e9)


def camera_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """A frame of any depth, [h, w] or [h, w, C], in this machine's byte order and without padding."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    message = Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=rows.shape[1],
    )
    # into the empty array of a fresh message: assigning a list or bytes takes up to a thousand times longer
    message.data.frombytes(rows.reshape(-1).data)
    return message


def tell(event: str, **facts: Any) -> None:
    """One line on stdout for whoever started the player."""
    print(json.dumps({"event": event, **facts}), flush=True)


def play(folder: PairedFolder, player: Player, count: int, rate: float | None) -> None:
    """Sends the first `count` pairs of the folder, after a warm-up.

    Raises:
        PairedFolderError: an image is missing or damaged.
        TimeoutError: nobody subscribes.
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
            f"after {_MATCH_TIMEOUT_S:.0f} s nobody listens to {player.rgb.topic_name} and {player.infrared.topic_name}"
        )
    pace = Pace(rate)
    player.on_answer = pace.answered
    # Not with a single pair: its infrared frame would come twice in a row, which is what a frozen camera looks like.
    for item in folder.items[: min(_WARM_UPS, count)] if count > 1 else ():
        player.send(item.load_rgb(), item.load_infrared(), item.ir_offset_ms)
        tell("warm_up", id=item.id)
        if not spin_until(lambda: not player.in_flight, 5.0):
            break  # it does not answer, and will not do so sooner for being asked again
    player.in_flight.clear()

    first = last = time.monotonic()
    for place, item in enumerate(folder.items[:count]):
        rgb, infrared = item.load_rgb(), item.load_infrared()
        while place and not pace.may_send(time.monotonic() - last, len(player.in_flight)):
            executor.spin_once(timeout_sec=0.002)
        player.forget_older_than(max(3.0, 5 * pace.interval_s))
        now = time.monotonic()
        # a fixed rate is kept on the whole: what one frame was late the next makes up for
        last = last + pace.interval_s if place and pace.fixed and now - last < 2 * pace.interval_s else now
        rgb_ns, ir_ns = player.send(rgb, infrared, item.ir_offset_ms)
        tell("sent", place=place, id=item.id, rgb_ns=rgb_ns, ir_ns=ir_ns)
    spin_until(lambda: not player.in_flight, 2.0)
    tell("done", rate_hz=(count - 1) / max(last - first, 1e-9) if count > 1 else None)
    executor.shutdown()


def main(args: list[str] | None = None) -> int:
    """Plays as the command line says; 1 with a line on stderr when it could not."""
    parser = argparse.ArgumentParser(description="Publish the pairs of a folder as two cameras would.")
    parser.add_argument("--folder", required=True, help="folder with index_<split>.json")
    parser.add_argument("--split", default="val")
    parser.add_argument("--infrared", default="lwir", help="which band goes to ir/image_raw")
    parser.add_argument("--count", type=int, default=0, help="pairs to play; 0: all")
    parser.add_argument(
        "--rate", type=float, default=None, help="pairs per second; without: what the node keeps up with"
    )
    parser.add_argument("--namespace", default="", help="namespace of the topics")
    parser.add_argument("--detector", default="detector_node", help="name of the node whose reports set the pace")
    options = parser.parse_args(args)
    try:
        folder = PairedFolder(options.folder, options.split, options.infrared)
        rclpy.init(args=[])
        player = Player(options.namespace, options.detector)
        try:
            play(folder, player, min(options.count or len(folder), len(folder)), options.rate)
        finally:
            player.destroy_node()  # or its shared memory stays behind in /dev/shm
    except (PairedFolderError, TimeoutError) as error:
        print(f"player: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 1  # whoever started us is gone, or wants us gone
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
