"""Inspect a bag before replaying it: topics, camera rates, stamp health, offset between the cameras."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spectradino_core.bags.reader import BagFrame, BagReader, CameraMessages
from spectradino_core.streams.clocks import APART_NS, Clocks, is_uptime
from spectradino_core.streams.compressed import encoding_of
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.queues import Stream

_GAP_PERIODS = 2.5
_LOOKED_AT = 100
_MS = 1e6


@dataclass(frozen=True)
class CameraStatistics:
    """Statistics of one camera's stream, by stamps in order of recording.

    Attributes:
        topic, kind, chosen: topic, message type, and reason for the choice.
        messages, frames: number of messages, and of images with a readable header.
        looked_at: number of decoded images: all until one can be decoded, and up to a hundred spread over the bag.
        refused, examples: number of unreadable messages by cause (image bodies only among the decoded), first errors.
        size, encoding: of the first readable image (or its compressed format); size None: there is none.
        rate_hz, period_ms, jitter_ms: by the median period, and 95th percentile of the deviation from it.
        gaps, lost: number of gaps (more than 2.5 periods without a frame), and estimated number of missing frames.
        longest_gap_ms, longest_gap_at_s: longest time between frames, and its start since the bag's first frame.
        duplicates, backward, zero: number of stamps equal to the previous one, behind it, or not set.
        latency_ms: median time from stamp to recording; large or negative if clocks differ.
        recorded_s: time from first to last recording.
        begin_s, end_s: first and last stamp since the bag's first frame.
        uptime_s: first stamp, if stamps count from the camera's start; else None.
    """

    topic: str
    kind: str
    chosen: str
    messages: int
    frames: int
    looked_at: int
    refused: dict[str, int]
    examples: dict[str, str]
    size: tuple[int, int] | None
    encoding: str
    rate_hz: float
    period_ms: float
    jitter_ms: float
    gaps: int
    longest_gap_ms: float
    longest_gap_at_s: float
    lost: int
    duplicates: int
    backward: int
    zero: int
    latency_ms: float
    recorded_s: float
    begin_s: float
    end_s: float
    uptime_s: float | None = None

    @property
    def is_unreadable(self) -> bool:
        """Whether no image can be read."""
        return self.size is None


@dataclass(frozen=True)
class Offset:
    """Offset between the two streams, from each frame of the slower camera to the nearest frame of the faster.

    Attributes:
        median_ms, spread_ms: IR stamp minus RGB stamp: median, and width from 5th to 95th percentile.
        overlap_s: how long both cameras ran.
        apart_ms: gap between the two streams if they never overlap; else 0.
    """

    median_ms: float
    spread_ms: float
    overlap_s: float
    apart_ms: float


@dataclass(frozen=True)
class BagInfo:
    """Result of `inspect`; `to_dict` gives JSON data."""

    path: str
    format: str
    duration_s: float
    topics: dict[str, tuple[str, int]]
    cameras: dict[str, CameraStatistics]
    offset: Offset | None
    damage: list[str]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect(reader: BagReader) -> BagInfo:
    """Read the stamps of both cameras, and some images of each; without cameras only topics are returned."""
    scans = {stream: _CameraScan(reader, stream) for stream in Stream if reader.topic_of(stream)}
    for frame in reader.frames(in_stamp_order=False) if scans else ():
        scans[frame.stream].add(frame)
    firsts = [min(known) for scan in scans.values() if (known := [stamp for stamp in scan.stamps if stamp > 0])]
    start_ns = max(firsts) if any(map(is_uptime, firsts)) else min(firsts, default=0)
    cameras: dict[str, CameraStatistics] = {
        stream.value: scan.camera(reader.messages_of[stream.value], start_ns)
        for stream, scan in scans.items()
        if stream.value in reader.messages_of
    }
    used = [np.array(scan.stamps, np.int64) for scan in scans.values() if scan.stamps]
    offset = _offset(used[0], used[1]) if len(used) == 2 else None
    every = [ns for scan in scans.values() for ns in scan.arrivals]
    return BagInfo(
        path=str(reader.path),
        format=reader.format,
        duration_s=(max(every) - min(every)) / 1e9 if every else 0.0,
        topics={topic.name: (topic.kind, topic.count) for topic in reader.topics.values()},
        cameras=cameras,
        offset=offset,
        damage=list(reader.damage),
        warnings=[
            *(text for name, camera in cameras.items() for text in _warnings(name, camera)),
            *_clock_warnings(scans, offset),
        ],
    )


class _CameraScan:
    """Stamps and sample images of one camera, collected frame by frame."""

    def __init__(self, reader: BagReader, stream: Stream) -> None:
        self._reader, self._stream = reader, stream
        self._every = max(1, reader.topics[reader.topic_of(stream)].count // _LOOKED_AT)
        self.stamps: list[int] = []
        self.arrivals: list[int] = []
        self._decoded = 0
        self._size: tuple[int, int] | None = None
        self._encoding = ""

    def add(self, frame: BagFrame) -> None:
        """Record a frame; decode it if none could be decoded so far, and every n-th one."""
        number = len(self.stamps)
        self.stamps.append(frame.stamp_ns)
        self.arrivals.append(frame.received_ns)
        if self._size is not None and number % self._every:
            return
        self._decoded += 1
        try:
            encoding = encoding_of(frame.message)
            pixels = frame.decode().pixels
        except DecodeError as error:
            frame.camera.refuse(error)
            return
        if self._size is None:
            self._size, self._encoding = (int(pixels.shape[1]), int(pixels.shape[0])), encoding

    def camera(self, counted: CameraMessages, start_ns: int) -> CameraStatistics:
        ns, arrivals = np.array(self.stamps, np.int64), np.array(self.arrivals, np.int64)
        uptime_ns = int(ns.min()) if ns.size and is_uptime(int(ns.min())) else None
        start_ns = start_ns if uptime_ns is None else uptime_ns
        steps = np.diff(ns)
        forward = steps[steps > 0]
        period = float(np.median(forward)) if forward.size else 0.0
        gaps = forward[forward > _GAP_PERIODS * period] if period else forward[:0]
        longest = int(forward.max()) if forward.size else 0
        where = int(ns[:-1][steps == longest][0]) if forward.size else start_ns
        lost = int(np.maximum(np.round(forward / period) - 1, 0).sum()) if period else 0
        near = forward[forward <= _GAP_PERIODS * period] - period
        return CameraStatistics(
            topic=counted.topic,
            kind=self._reader.topics[counted.topic].kind,
            chosen=self._reader.chosen[self._stream.value],
            messages=counted.messages,
            frames=int(ns.size),
            looked_at=self._decoded,
            refused=dict(sorted(counted.refused.items())),
            examples=dict(sorted(counted.examples.items())),
            size=self._size,
            encoding=self._encoding,
            rate_hz=1e9 / period if period else 0.0,
            period_ms=period / _MS,
            jitter_ms=float(np.percentile(np.abs(near), 95)) / _MS if forward.size else 0.0,
            gaps=int(gaps.size),
            longest_gap_ms=longest / _MS,
            longest_gap_at_s=(where - start_ns) / 1e9,
            lost=lost,
            duplicates=int((steps == 0).sum()),
            backward=int((steps < 0).sum()),
            zero=int((ns == 0).sum()),
            latency_ms=float(np.median(arrivals - ns)) / _MS if ns.size else 0.0,
            recorded_s=int(np.ptp(arrivals)) / 1e9 if ns.size else 0.0,
            begin_s=(int(ns.min()) - start_ns) / 1e9 if ns.size else 0.0,
            end_s=(int(ns.max()) - start_ns) / 1e9 if ns.size else 0.0,
            uptime_s=None if uptime_ns is None else uptime_ns / 1e9,
        )


def nearest(ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the index of the sorted stamp nearest to each wanted one; of two equally near ones, the earlier."""
    right = np.clip(np.searchsorted(ordered, wanted), 0, len(ordered) - 1)
    left = np.maximum(right - 1, 0)
    is_left = np.abs(ordered[left] - wanted) <= np.abs(ordered[right] - wanted)
    return np.where(is_left, ordered[left], ordered[right])


def _offset(rgb: np.ndarray, ir: np.ndarray) -> Offset:
    begin, end = max(rgb.min(), ir.min()), min(rgb.max(), ir.max())
    slow, fast, sign = (ir, rgb, 1) if ir.size <= rgb.size else (rgb, ir, -1)
    together = slow[(slow >= begin) & (slow <= end)]
    compared = together if together.size else slow
    distances = sign * (compared - nearest(np.sort(fast), compared))
    apart = max(0, int(begin - end))
    low, middle, high = np.percentile(distances / _MS, (5, 50, 95))
    return Offset(float(middle), float(high - low), max(0.0, float(end - begin) / 1e9), apart / _MS)


def _warnings(name: str, camera: CameraStatistics) -> list[str]:
    found = []
    if camera.is_unreadable and camera.messages:
        found.append(f"none of its {camera.messages} messages can be read: {_causes(camera)}")
    elif camera.is_unreadable:
        found.append(f"its messages are lost: the bag lists {camera.topic} but has no readable message of it")
    elif camera.refused:
        found.append(f"messages that cannot be read: {_causes(camera)}")
    if camera.zero:
        found.append(f"{camera.zero} images without a stamp: the driver must set header.stamp, or they are not paired")
    if camera.backward:
        found.append(f"{camera.backward} stamps lie behind the previous one (a clock was set, or two recordings)")
    if camera.duplicates:
        found.append(f"{camera.duplicates} duplicate stamps: the driver repeats frames, or rounds stamps")
    if camera.gaps:
        found.append(
            f"frames are missing in {camera.gaps} places, about {camera.lost} in total; the longest gap is "
            f"{camera.longest_gap_ms:.0f} ms at {camera.longest_gap_at_s:.1f} s"
        )
    if camera.recorded_s < 0.5 * (camera.end_s - camera.begin_s):
        found.append(
            f"recorded within {camera.recorded_s:.1f} s, stamped over {camera.end_s - camera.begin_s:.1f} s: "
            "recording times are meaningless, so replay it by its stamps (--clock stamp)"
        )
    if camera.latency_ms * _MS > APART_NS and camera.uptime_s is not None:
        found.append(
            f"stamps count from the camera's start ({camera.uptime_s:.0f} s), not from 1970: latencies are "
            "meaningless; let the driver stamp with the system clock"
        )
    elif abs(camera.latency_ms) > 10_000 and camera.zero < camera.frames:
        found.append(f"stamps are {camera.latency_ms / 1e3:+.1f} s off the recorder's clock")
    return [f"{name}: {text}" for text in found]


def _causes(camera: CameraStatistics) -> str:
    return "; ".join(f"{count} {cause} ({camera.examples[cause]})" for cause, count in camera.refused.items())


def _clock_warnings(scans: dict[Stream, _CameraScan], offset: Offset | None) -> list[str]:
    clocks = Clocks()
    every = [(at, stream, stamp) for stream, scan in scans.items() for at, stamp in zip(scan.arrivals, scan.stamps)]
    for arrival, stream, stamp in sorted(every):
        clocks.push(stream, stamp, arrival)
    if clocks.incomparable:
        return [
            f"{clocks.describe()}: frames are paired by arrival time, as in the node (--pair-by auto); "
            "--learn-ir-time-offset estimates the constant between them"
        ]
    if offset is None or not offset.apart_ms:
        return []
    return [
        f"the cameras' stamps never overlap: they are {offset.apart_ms / 1e3:.1f} s apart, so no frames are paired: "
        "set ir_time_offset_ms, or synchronise the clocks"
    ]
