"""Odd messages to a real node over DDS, in batches; after each batch good pairs must have results.

The node subscribes reliably and with a long queue here, so that every message reaches it. Messages are drawn from a
seed: the same seed sends the same messages (except for the time in their stamps).
"""

from __future__ import annotations

import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from spectradino_msgs.msg import FrameReport

from tests.fuzz.odd_compressed import compressed, odd_compressed
from tests.fuzz.odd_images import good_pixels, odd_image
from tests.fuzz.odd_stamps import odd_stamp
from tests.ros.harness import PATIENCE_S, NodeProcess, Peer, image, to_ns, to_stamp, wait_until

__all__ = ["BATCH", "Campaign", "Outcome", "node_parameters"]

BATCH = 50
MAX_LINES = 60
"""Each kind of fault says a line once for each camera, whatever the number of messages."""
MAX_GROWTH_MB = 10.0
MAX_TRIES = 5
"""Good pairs until one is answered after odd stamps: a clock set back by a little is believed at the third frame."""
_QUEUE = 8 * BATCH
_STEP_NS = 40_000_000
_RETRIES_S = (0.1, 0.7)
"""Pairs as a fast camera sends them and as a slow one does, whose frames are farther apart than a clock's jump."""


def node_parameters(model: Path, transport: str) -> dict[str, object]:
    """Parameters of the node under test: every notice once, no lost messages, no results for single frames."""
    suffix = "" if transport == "raw" else "/compressed"
    qos = {
        f"qos_overrides./{key}/image_raw{suffix}.subscription.{name}": value
        for key in ("rgb", "ir")
        for name, value in (("depth", _QUEUE), ("reliability", "reliable"))
    }
    return {
        "model": model,
        "device": "cpu",
        "threads": 1,
        "rgb_transport": transport,
        "ir_transport": transport,
        "sync_slop_ms": 20.0,
        "frozen_ms": 400.0,
        "fallback_mode": "fused_only",
        "warning_period_s": 3600.0,
        **qos,
    }


@dataclass
class Outcome:
    """Messages sent and their effects.

    Attributes:
        messages: number of odd messages sent.
        faults: number of messages by fault.
        tries: good pairs sent until one had a result, and after how many batches.
        rss_mb: resident memory of the node after each batch.
        lines: output of the node during the campaign, including stderr.
        received: messages counted by the node, of both cameras, minus those sent: 0 if none was lost.
        seconds: duration.
    """

    messages: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    tries: Counter[int] = field(default_factory=Counter)
    rss_mb: list[float] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    received: int = 0
    seconds: float = 0.0

    @property
    def growth_mb(self) -> float:
        """Memory in the last fifth of the batches minus that in the second fifth, medians."""
        fifth = max(1, len(self.rss_mb) // 5)
        return statistics.median(self.rss_mb[-fifth:]) - statistics.median(self.rss_mb[fifth : 2 * fifth])

    def complaints(self) -> list[str]:
        """Violated requirements; empty if there are none."""
        found = []
        if self.received:
            found.append(f"the node counted {self.received:+d} messages more than were sent")
        if self.growth_mb > MAX_GROWTH_MB:
            found.append(f"the node grew by {self.growth_mb:.1f} MB, allowed are {MAX_GROWTH_MB:g}")
        if len(self.lines) > MAX_LINES:
            found.append(f"the node logged {len(self.lines)} lines, allowed are {MAX_LINES}")
        if any("Traceback" in line for line in self.lines):
            found.append("the node logged a traceback")
        return found

    def summary(self) -> str:
        """Summarise in a few lines."""
        tries = ", ".join(f"{n} after {pairs}" for pairs, n in sorted(self.tries.items()))
        return (
            f"{self.messages} messages in {self.seconds:.0f} s, {len(self.faults)} kinds of fault\n"
            f"batches answered by pairs sent: {tries}\n"
            f"node: {self.rss_mb[0]:.1f} MB at first, {self.rss_mb[-1]:.1f} MB at last, growth {self.growth_mb:.1f}\n"
            f"log: {len(self.lines)} lines"
        )


class Campaign:
    """Test of one node."""

    def __init__(self, node: NodeProcess, peer: Peer, transport: str, seed: int) -> None:
        """
        Args:
            node: runs with `node_parameters`.
            peer: sends.
            transport: "raw" or "compressed".
            seed: of the messages.
        """
        self._node, self._peer, self._transport = node, peer, transport
        self._draw = random.Random(seed)
        self._good = random.Random(seed + 1)
        qos = QoSProfile(depth=_QUEUE, reliability=ReliabilityPolicy.RELIABLE)
        kind, suffix = (Image, "") if transport == "raw" else (CompressedImage, "/compressed")
        self._topics = {key: f"/{key}/image_raw{suffix}" for key in ("rgb", "ir")}
        self._publishers = {key: peer.node.create_publisher(kind, topic, qos) for key, topic in self._topics.items()}
        self._reports = peer.collect(FrameReport, "/detector_node/frame_report")
        self._diagnostics = peer.collect(DiagnosticArray, "/diagnostics")
        self._last: dict[str, Time] = {key: Time() for key in self._topics}
        self._stamp_ns = 0
        self._sent: Counter[str] = Counter()

    def run(self, messages: int, progress: Callable[[int], None] = lambda sent: None) -> Outcome:
        """Send `messages` odd messages and report each batch.

        Raises:
            AssertionError: the node ended, or good pairs had no results.
        """
        outcome = Outcome()
        wait_until(
            lambda: all(p.get_subscription_count() for p in self._publishers.values()), "the node's subscriptions"
        )
        self._probe("at first", MAX_TRIES)
        first_line, start, batch = len(self._node.lines), time.monotonic(), 0
        while outcome.messages < messages:
            count = min(BATCH, messages - outcome.messages)
            # Contents and stamps in turn: after odd contents the very next pair must be answered.
            with_stamps = batch % 2 == 1
            for _ in range(count):
                name = self._send_odd(with_stamps)
                outcome.faults.update(name.split("+"))
            outcome.messages += count
            what = f"after message {outcome.messages} ({'contents and stamps' if with_stamps else 'contents'})"
            outcome.tries[self._probe(what, MAX_TRIES if with_stamps else 1)] += 1
            outcome.rss_mb.append(self._node.rss_mb())
            progress(outcome.messages)
            batch += 1
        outcome.received = self._surplus()
        outcome.seconds = time.monotonic() - start
        outcome.lines = self._node.lines[first_line:]
        return outcome

    def _tick(self) -> int:
        self._stamp_ns = max(self._stamp_ns + 1_000_000, self._peer.now())
        return self._stamp_ns

    def _send(self, key: str, message: Image | CompressedImage) -> None:
        self._publishers[key].publish(message)
        self._last[key] = message.header.stamp
        self._sent[key] += 1

    def _send_odd(self, with_stamps: bool) -> str:
        key = self._draw.choice(["rgb", "ir"])
        odd = odd_image if self._transport == "raw" else odd_compressed
        stamp_ns = self._tick()
        name, message = odd(self._draw, key, stamp_ns)
        if with_stamps and self._draw.random() < 0.5:
            stamp_fault, message.header.stamp = odd_stamp(self._draw, stamp_ns, self._last[key])
            name += f"+stamp: {stamp_fault}"
        self._send(key, message)
        return name

    def _probe(self, when: str, most_tries: int) -> int:
        """Send good pairs until one has a result; returns their number."""
        stamps: list[int] = []
        for tries in range(1, most_tries + 1):
            # Far enough from what was sent before that it is nobody else's partner.
            self._stamp_ns = self._tick() + _STEP_NS
            stamps.append(self._stamp_ns)
            for key in self._topics:
                self._send(key, self._good_message(key, self._stamp_ns))
            patience_s = PATIENCE_S if tries == most_tries else self._good.choice(_RETRIES_S)
            end = time.monotonic() + patience_s
            while time.monotonic() < end:
                if any(to_ns(report.header.stamp) in stamps for report in self._reports):
                    self._reports.clear()
                    return tries
                assert self._node.running, f"the node ended {when}; it said:\n{self._node.log}"
                time.sleep(0.002)
        raise AssertionError(f"{most_tries} good pair(s) {when} were not answered; the node said:\n{self._node.log}")

    def _good_message(self, key: str, stamp_ns: int) -> Image | CompressedImage:
        size = (64, 48)
        if self._transport == "compressed":
            return compressed(self._good, key, stamp_ns, size, "png")
        encoding = "rgb8" if key == "rgb" else "mono16"
        message = image(good_pixels(self._good, key, size, encoding), encoding, stamp_ns, f"{key}_optical")
        message.header.stamp = to_stamp(stamp_ns)
        return message

    def _surplus(self) -> int:
        """Return the number of messages that the node reports, minus those sent to it."""
        sent = sum(self._sent.values())
        self._diagnostics.clear()

        def counted() -> int | None:
            for array in list(self._diagnostics):
                for status in array.status:
                    values = {value.key: value.value for value in status.values}
                    names = [f"{topic} messages" for topic in self._topics.values()]
                    if all(re.fullmatch(r"\d+", values.get(name, "")) for name in names):
                        return sum(int(values[name]) for name in names)
            return None

        return wait_until(counted, "diagnostics that count messages") - sent
