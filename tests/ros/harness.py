"""The node in its own process, and a peer in this one that talks to it over DDS."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from tests import watchdog
from tests.domains import own_domain

ROOT = Path(__file__).resolve().parents[2]
_of_this_process = contextlib.ExitStack()
atexit.register(_of_this_process.close)
DOMAIN = int(_of_this_process.enter_context(own_domain()))
"""Of this process alone: two test runs side by side would answer each other's frames."""
watchdog.start()
PATIENCE_S = float(os.environ.get("SPECTRADINO_TEST_PATIENCE_S", "60"))
"""How long a condition may take on a machine that is busy with other things; reached only when something is broken."""
_RESEND_S = 10.0

RELIABLE = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

os.environ.update(
    ROS_DOMAIN_ID=str(DOMAIN),
    ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
    FASTRTPS_DEFAULT_PROFILES_FILE=str(ROOT / "config" / "fastdds_large_images.xml"),
    OMP_NUM_THREADS="1",
    PYTHONUNBUFFERED="1",
)


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Return the result of `condition` as soon as it is true.

    Raises:
        AssertionError: it did not become true in time; names `what`.
    """
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.01)
    raise AssertionError(f"after {timeout_s:.0f} s still waiting: {what}")


class NodeProcess:
    """`python -m spectradino_ros.detector_node` with its log lines."""

    def __init__(self, *ros_args: str, params_file: Path | None = None, **parameters: object) -> None:
        words = [sys.executable, "-m", "spectradino_ros.detector_node", "--ros-args", *ros_args]
        if params_file is not None:
            words += ["--params-file", str(params_file)]
        parameters.setdefault("frozen_ms", 0.0)  # the images have no noise and would count as frozen
        for name, value in parameters.items():
            words += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        self.words = words
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def rss_mb(self) -> float:
        """Return the resident memory of the process, in 10^6 bytes.

        Raises:
            FileNotFoundError: it has ended, or this is not Linux.
        """
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def count(self, pattern: str) -> int:
        """Count the log lines that match."""
        return sum(re.search(pattern, line) is not None for line in list(self.lines))

    def wait_for_line(self, pattern: str, after: int = 0) -> str:
        """Return the first log line from index `after` on that matches."""

        def find() -> str | None:
            return next((line for line in self.lines[after:] if re.search(pattern, line)), None)

        with contextlib.suppress(AssertionError):
            wait_until(lambda: find() or self._process.poll() is not None, pattern)
        self._reader.join(PATIENCE_S if self._process.poll() is not None else 0)
        line = find()
        assert line is not None, f"no log line matches {pattern!r}; the node said:\n{self.log}"
        return line

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Return the exit code, once the process has ended and all of its lines have arrived."""
        code = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def stop(self) -> int:
        """End the process if it still runs; returns the exit code."""
        if self._process.poll() is None:
            self.send(signal.SIGINT)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))


class Peer:
    """Node that sends like cameras and keeps what it receives."""

    def __init__(self, name: str = "peer", camera_qos: QoSProfile = BEST_EFFORT) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node(name, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.cameras = {
            key: self.node.create_publisher(Image, f"/{key}/image_raw", camera_qos) for key in ("rgb", "ir")
        }

    def collect(self, kind: type, topic: str, qos: QoSProfile = RELIABLE) -> list:
        """Return a list to which each message on `topic` is appended."""
        messages: list = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def call(self, kind: type, service: str, request: Any) -> Any:
        """Call a service and return its response.

        A request is sent again, unless it is a transition: the response to a client's first one is lost if the server
        has not discovered the client's reader yet, and then it is never sent again.
        """
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(PATIENCE_S), f"{service} is not there"
        futures = [client.call_async(request)]
        sent = time.monotonic()

        def response() -> Any:
            nonlocal sent
            if kind is not ChangeState and time.monotonic() > sent + _RESEND_S:
                futures.append(client.call_async(request))
                sent = time.monotonic()
            return next((future for future in futures if future.done()), None)

        done = wait_until(response, f"an answer of {service}")
        self.node.destroy_client(client)
        return done.result()

    def now(self) -> int:
        """Return the current time in nanoseconds."""
        return self.node.get_clock().now().nanoseconds

    def wait_for_node(self) -> None:
        """Wait until the node's subscriptions are matched with our cameras."""
        wait_until(lambda: all(p.get_subscription_count() for p in self.cameras.values()), "the node's subscriptions")

    def send(self, rgb: Image | None, ir: Image | None) -> None:
        if rgb is not None:
            self.cameras["rgb"].publish(rgb)
        if ir is not None:
            self.cameras["ir"].publish(ir)

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(PATIENCE_S)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()


@contextlib.contextmanager
def running(*ros_args: str, params_file: Path | None = None, **parameters: object) -> Iterator[NodeProcess]:
    """An active node, stopped at the end."""
    node = NodeProcess(*ros_args, params_file=params_file, **parameters)
    try:
        node.wait_for_line("active: pairs from")
        yield node
    finally:
        node.stop()


def to_stamp(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def to_ns(stamp: Time) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def image(
    pixels: np.ndarray, encoding: str, stamp_ns: int, frame_id: str, big_endian: bool = False, padding: int = 0
) -> Image:
    """Create an image message of an array [h, w] or [h, w, c], with `padding` bytes at the end of each row."""
    height, width = pixels.shape[:2]
    if pixels.dtype.itemsize == 2:
        pixels = pixels.astype(">u2" if big_endian else "<u2")
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5)
    message = Image(height=height, width=width, encoding=encoding, is_bigendian=int(big_endian), step=rows.shape[1])
    message.header.stamp = to_stamp(stamp_ns)
    message.header.frame_id = frame_id
    message.data.frombytes(memoryview(np.ascontiguousarray(rows)).cast("B"))
    return message


Box = tuple[int, int, int, int]


def rgb_pixels(size: tuple[int, int], red: Box | None) -> np.ndarray:
    """Draw a grey RGB image of (width, height) with a red rectangle x1 y1 x2 y2."""
    pixels = np.full((size[1], size[0], 3), 90, np.uint8)
    if red is not None:
        pixels[red[1] : red[3], red[0] : red[2]] = (250, 10, 10)
    return pixels


def ir_pixels(size: tuple[int, int], hot: Box | None, dtype: type = np.uint16) -> np.ndarray:
    """Draw a cold infrared image of (width, height) with a hot rectangle x1 y1 x2 y2."""
    cold, warm = (1000, 30000) if dtype is np.uint16 else (20, 220)
    pixels = np.full((size[1], size[0]), cold, dtype)
    if hot is not None:
        pixels[hot[1] : hot[3], hot[0] : hot[2]] = warm
    return pixels


def corners(detection: Any) -> np.ndarray:
    """Return a Detection2D's box as x1 y1 x2 y2."""
    centre, bbox = detection.bbox.center.position, detection.bbox
    half_x, half_y = bbox.size_x / 2, bbox.size_y / 2
    return np.array([centre.x - half_x, centre.y - half_y, centre.x + half_x, centre.y + half_y])
