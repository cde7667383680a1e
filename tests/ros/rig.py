"""Two cameras for one node, in a namespace of their own: sends pairs or streams, and collects results."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image
from spectradino_msgs.msg import FrameReport
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

from tests.ros.harness import LATCHED, RELIABLE, Peer, image, to_ns, wait_until

__all__ = ["Rig", "Streams"]


class Rig:
    """Cameras and subscribers of `/<namespace>/detector_node`."""

    def __init__(self, peer: Peer, namespace: str) -> None:
        self.peer = peer
        self.name = f"/{namespace}/detector_node"
        self.cameras = {
            key: peer.node.create_publisher(Image, f"/{namespace}/{key}/image_raw", RELIABLE) for key in ("rgb", "ir")
        }
        self.detections = peer.collect(Detection2DArray, f"{self.name}/detections")
        self.reports = peer.collect(FrameReport, f"{self.name}/frame_report")
        self.modes = peer.collect(String, f"{self.name}/mode", LATCHED)
        self._diagnostics = peer.collect(DiagnosticArray, "/diagnostics")

    def wait_for_node(self) -> None:
        wait_until(lambda: all(p.get_subscription_count() for p in self.cameras.values()), "the node's subscriptions")
        wait_until(lambda: self.peer.node.count_publishers(f"{self.name}/frame_report"), "the node's outputs")

    def send(self, rgb: np.ndarray | None, ir: np.ndarray | None, stamp: int, ir_stamp: int | None = None) -> None:
        if rgb is not None:
            self.cameras["rgb"].publish(image(rgb, "rgb8", stamp, "rgb_optical"))
        if ir is not None:
            encoding = "mono8" if ir.dtype == np.uint8 else "16UC1"
            self.cameras["ir"].publish(image(ir, encoding, stamp if ir_stamp is None else ir_stamp, "ir_optical"))

    def answer_to(self, rgb: np.ndarray, ir: np.ndarray, ir_late_ns: int = 0) -> tuple[Detection2DArray, FrameReport]:
        """Send one pair, repeatedly while the node may not have found all publishers, and wait for its result."""

        def answer() -> tuple[Detection2DArray, FrameReport] | None:
            stamp = self.peer.now()
            self.send(rgb, ir, stamp, stamp + ir_late_ns)
            with contextlib.suppress(AssertionError):
                return wait_until(lambda: self.find(stamp), "an answer", 0.7)
            return None

        return wait_until(answer, "an answer to a pair")

    def find(self, stamp: int) -> tuple[Detection2DArray, FrameReport] | None:
        """Return the result with that stamp."""
        found = [next((m for m in list(of) if to_ns(m.header.stamp) == stamp), None) for of in self._results]
        return None if None in found else (found[0], found[1])

    def status(self) -> DiagnosticStatus | None:
        """The newest diagnostics of the node."""
        own = [s for array in list(self._diagnostics) for s in array.status if s.hardware_id == self.name]
        return own[-1] if own else None

    def facts(self) -> dict[str, str]:
        """Key values of the newest diagnostics; empty before the first."""
        status = self.status()
        return {} if status is None else {item.key: item.value for item in status.values}

    def wait_for_fact(self, key: str, text: str) -> str:
        """Return the value of a diagnostics key once it begins with `text`."""
        wait_until(lambda: self.facts().get(key, "").startswith(text), f"{key!r} to begin with {text!r}")
        return self.facts()[key]

    def wait_for_mode(self, mode: str) -> float:
        """Return the time, by `time.monotonic`, at which the mode was published."""
        wait_until(lambda: self.modes and self.modes[-1].data == mode, f"mode {mode} on {self.name}/mode")
        return time.monotonic()

    @property
    def _results(self) -> tuple[list, list]:
        return self.detections, self.reports


class Streams:
    """Both cameras at 20 Hz from a thread; each can be stopped, and infrared can be frozen.

    Attributes:
        rig: sends the frames.
        stopped: cameras, "rgb" and "ir", that send nothing now.
        frozen: infrared repeats its last image.
        stamps: stamps sent by each camera.
    """

    PERIOD_S = 0.05

    def __init__(self, rig: Rig, rgb: np.ndarray, ir: np.ndarray) -> None:
        self.rig, self._rgb, self._ir = rig, rgb, ir
        self._noise = np.random.default_rng(7)
        self._last = ir
        self._end = threading.Event()
        self.stopped: set[str] = set()
        self.frozen = False
        self.stamps: dict[str, list[int]] = {"rgb": [], "ir": []}
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextlib.contextmanager
    def flowing(self) -> Iterator[Streams]:
        self._thread.start()
        try:
            yield self
        finally:
            self._end.set()
            self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._end.is_set():
            stamp = self.rig.peer.now()
            if not self.frozen:  # a camera's noise, well below what the model calls hot
                self._last = self._ir + self._noise.integers(0, 200, self._ir.shape, dtype=self._ir.dtype)
            sent = {"rgb", "ir"} - self.stopped
            self.rig.send(self._rgb if "rgb" in sent else None, self._last if "ir" in sent else None, stamp)
            for key in sent:
                self.stamps[key].append(stamp)
            due = max(due + self.PERIOD_S, time.monotonic() - self.PERIOD_S)
            time.sleep(max(0.0, due - time.monotonic()))
