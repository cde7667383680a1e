"""Two simulated cameras: noise that never repeats with a red and a hot object, sent at a steady rate."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import Image

from tests.ros.harness import Peer, image, to_stamp

__all__ = ["Cameras"]

_FRAMES = 12
"""Different frames, sent in turn: one that repeats would count as a frozen camera."""


class Cameras:
    """Sends RGB and mono16 pairs of one size. The infrared frame is sent first, so the RGB frame completes the pair."""

    def __init__(self, peer: Peer, size: tuple[int, int]) -> None:
        """
        Args:
            peer: its cameras send.
            size: (width, height) of both images in pixels.
        """
        self._peer = peer
        noise, (width, height) = np.random.default_rng(0), size
        self._pairs: list[tuple[Image, Image]] = []
        for index in range(_FRAMES):
            rgb = noise.integers(60, 120, (height, width, 3)).astype(np.uint8)
            counts = noise.integers(20_000, 23_000, (height, width)).astype(np.uint16)
            left, top = width // 8 + 4 * index, height // 8
            rgb[top : top + height // 6, left : left + width // 10] = (250, 10, 10)
            # Hot, and as noisy as all of a sensor's pixels: a constant would be examined as invalid.
            counts[2 * top : 4 * top, left : left + width // 10] += 18_000
            self._pairs.append((image(rgb, "rgb8", 0, "rgb_optical"), image(counts, "mono16", 0, "ir_optical")))
        self.sent = 0

    def send(self, lead_s: float = 0.0) -> int:
        """Send the next pair, the infrared frame `lead_s` seconds before the other; returns the RGB stamp in ns."""
        rgb, ir = self._pairs[self.sent % _FRAMES]
        self.sent += 1
        ir.header.stamp = to_stamp(self._peer.now())
        self._peer.send(None, ir)
        if lead_s:
            time.sleep(lead_s)
        stamp_ns = self._peer.now()
        rgb.header.stamp = to_stamp(stamp_ns)
        self._peer.send(rgb, None)
        return stamp_ns

    def stream(
        self, rate_hz: float, seconds: float, lead_s: float = 0.0, each: Callable[[float], None] | None = None
    ) -> int:
        """Send pairs at `rate_hz`; if this process falls behind, pairs are skipped.

        Returns the last RGB stamp in nanoseconds.

        Args:
            rate_hz: pairs per second.
            seconds: duration.
            lead_s: see `send`.
            each: called after each pair with the seconds since the start.
        """
        start, number, stamp_ns = time.monotonic(), 0, 0
        while (since := time.monotonic() - start) < seconds:
            if each is not None:
                each(since)
            stamp_ns = self.send(lead_s)
            number = max(number + 1, int((time.monotonic() - start) * rate_hz))
            time.sleep(max(0.0, start + number / rate_hz - time.monotonic()))
        return stamp_ns
