"""What a bag holds and how healthy its two cameras' stamps are, before anything is replayed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spectradino_core.bags.reader import BagReader
from spectradino_core.streams.clocks import APART_NS, Clocks, is_uptime
from spectradino_core.streams.compressed import encoding_of
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.queues import Stream

__all__ = ["BagInfo", "Camera", "Offset", "inspect"]

_GAP_PERIODS = 2.5
_MS = 1e6


@dataclass(frozen=True)
class Camera:
    """One camera's stream, by its stamps in the order in which they were recorded.

    Attributes:
        topic, kind, chosen: which topic, of which type, and how it was found.
        frames: images with a readable header.
        unreadable: images whose pixels can't be had, of those looked at (the first and the last).
        size: (width, height) of the first image; None: it can't be read.
        encoding: of the first image, or the text of its compressed format.
        rate_hz: by the usual period.
        period_ms, jitter_ms: median time from frame to frame, and the 95th percentile of the distance from it.
        gaps: how often frames are missing (more than 2.5 periods without one).
        longest_gap_ms: the longest time without a frame; where it begins, in seconds since the bag's first frame.
        longest_gap_at_s: see above.
        lost: about how many frames are missing in the gaps and between.
        duplicates, backward, zero: stamps equal to the one before, behind it, or not set.
        latency_ms: median time from stamp to recording; large or negative where clocks differ.
        recorded_s: time between the first and the last recording.
        begin_s, end_s: first and last stamp since the bag's first frame.
        uptime_s: the first stamp, where stamps count from the camera's start; else None.
    """

    topic: str
    kind: str
    chosen: str
    frames: int
    unreadable: int
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


@dataclass(frozen=True)
class Offset:
    """How the two streams lie to one another, each frame of the slower camera against its nearest of the faster.

    Attributes:
        median_ms, spread_ms: infrared stamp minus colour stamp, and the 5th to 95th percentile's width.
        overlap_s: how long both cameras ran.
        apart_ms: where they never overlap, how far their clocks or recordings are apart; else 0.
    """

    median_ms: float
    spread_ms: float
    overlap_s: float
    apart_ms: float


@dataclass(frozen=True)
class BagInfo:
    """What `inspect` found; `to_dict` is fit for JSON."""

    path: str
    format: str
    duration_s: float
    topics: dict[str, tuple[str, int]]
    cameras: dict[str, Camera]
    offset: Offset | None
    damage: list[str]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect(reader: BagReader) -> BagInfo:
    """Reads the stamps of both cameras, and two images of each.

    Args:
        reader: an open bag; one without cameras gives its topics only.
    """
    stamps: dict[Stream, list[int]] = {stream: [] for stream in Stream}
    arrivals: dict[Stream, list[int]] = {stream: [] for stream in Stream}
    looked: dict[Stream, list[Any]] = {stream: [] for stream in Stream}
    if reader.rgb_topic or reader.ir_topic:
        for frame in reader.frames(in_stamp_order=False):
            stamps[frame.stream].append(frame.stamp_ns)
            arrivals[frame.stream].append(frame.received_ns)
            looked[frame.stream] = [*looked[frame.stream][:1], frame]
    used = {stream: np.array(ns, np.int64) for stream, ns in stamps.items() if ns}
    known = [ns[ns > 0] for ns in used.values()]
    firsts = [int(ns.min()) for ns in known if ns.size]
    start_ns = max(firsts) if any(map(is_uptime, firsts)) else min(firsts, default=0)
    cameras = {
        stream.value: _camera(reader, stream, ns, np.array(arrivals[stream]), looked[stream], start_ns)
        for stream, ns in used.items()
    }
    offset = _offset(used[Stream.RGB], used[Stream.IR]) if len(used) == 2 else None
    every = [ns for listed in arrivals.values() for ns in listed]
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
            *_of_clocks(stamps, arrivals, offset),
        ],
    )


def _camera(
    reader: BagReader, stream: Stream, ns: np.ndarray, arrivals: np.ndarray, frames: Sequence[Any], start_ns: int
) -> Camera:
    if is_uptime(int(ns.min())):
        start_ns = int(ns.min())
    steps = np.diff(ns)
    forward = steps[steps > 0]
    period = float(np.median(forward)) if forward.size else 0.0
    gaps = forward[forward > _GAP_PERIODS * period] if period else forward[:0]
    longest = int(forward.max()) if forward.size else 0
    where = int(ns[:-1][steps == longest][0]) if forward.size else start_ns
    size, encoding, unreadable = None, "", 0
    for frame in reversed(frames):  # what is kept is the first one's
        try:
            encoding = encoding_of(frame.message)
            pixels = frame.decode().pixels
            size = (int(pixels.shape[1]), int(pixels.shape[0]))
        except DecodeError:
            unreadable += 1
    lost = int(np.maximum(np.round(forward / period) - 1, 0).sum()) if period else 0
    return Camera(
        topic=reader.topic_of(stream),
        kind=reader.topics[reader.topic_of(stream)].kind,
        chosen=reader.chosen[stream.value],
        frames=int(ns.size),
        unreadable=unreadable,
        size=size,
        encoding=encoding,
        rate_hz=1e9 / period if period else 0.0,
        period_ms=period / _MS,
        jitter_ms=float(np.percentile(np.abs(forward[forward <= _GAP_PERIODS * period] - period), 95)) / _MS
        if forward.size
        else 0.0,
        gaps=int(gaps.size),
        longest_gap_ms=longest / _MS,
        longest_gap_at_s=(where - start_ns) / 1e9,
        lost=lost,
        duplicates=int((steps == 0).sum()),
        backward=int((steps < 0).sum()),
        zero=int((ns == 0).sum()),
        latency_ms=float(np.median(arrivals - ns)) / _MS,
        recorded_s=int(arrivals.max() - arrivals.min()) / 1e9,
        begin_s=(int(ns.min()) - start_ns) / 1e9,
        end_s=(int(ns.max()) - start_ns) / 1e9,
        uptime_s=int(ns.min()) / 1e9 if is_uptime(int(ns.min())) else None,
    )


def _offset(rgb: np.ndarray, ir: np.ndarray) -> Offset:
    begin, end = max(rgb.min(), ir.min()), min(rgb.max(), ir.max())
    slow, fast, sign = (ir, rgb, 1) if ir.size <= rgb.size else (rgb, ir, -1)
    ordered = np.sort(fast).tolist()
    distances = []
    together = slow[(slow >= begin) & (slow <= end)]
    for at in (together if together.size else slow).tolist():
        place = bisect_left(ordered, at)
        near = min(ordered[max(0, place - 1) : place + 1], key=lambda other: abs(other - at))
        distances.append(sign * (at - near))
    apart = max(0, int(begin - end))
    low, middle, high = np.percentile(np.array(distances) / _MS, (5, 50, 95))
    return Offset(float(middle), float(high - low), max(0.0, float(end - begin) / 1e9), apart / _MS)


def _warnings(name: str, camera: Camera) -> list[str]:
    found = []
    if camera.zero:
        found.append(f"{name}: {camera.zero} images without a stamp: the driver must set header.stamp, else none pairs")
    if camera.backward:
        found.append(
            f"{name}: {camera.backward} stamps lie behind the one before (a clock that was set, or two drives)"
        )
    if camera.duplicates:
        found.append(f"{name}: {camera.duplicates} stamps come twice: the driver repeats frames, or rounds stamps")
    if camera.gaps:
        found.append(
            f"{name}: frames are missing in {camera.gaps} places, about {camera.lost} in all; the longest gap is "
            f"{camera.longest_gap_ms:.0f} ms, {camera.longest_gap_at_s:.1f} s in"
        )
    if camera.unreadable:
        found.append(f"{name}: images that can't be read; `spectradino bag evaluate` or `run` counts them by cause")
    if camera.recorded_s < 0.5 * (camera.end_s - camera.begin_s):
        found.append(
            f"{name}: recorded within {camera.recorded_s:.1f} s, stamped over {camera.end_s - camera.begin_s:.1f} s: "
            "times of recording mean nothing here, so replay it by its stamps (--clock stamp)"
        )
    if camera.latency_ms * _MS > APART_NS and camera.uptime_s is not None:
        found.append(
            f"{name}: stamps count from the camera's start ({camera.uptime_s:.0f} s), not from 1970: latencies mean "
            "nothing; let the driver stamp with the system's clock"
        )
    elif abs(camera.latency_ms) > 10_000 and camera.zero < camera.frames:
        found.append(f"{name}: stamps are {camera.latency_ms / 1e3:+.1f} s off the recorder's clock")
    return found


def _of_clocks(stamps: dict[Stream, list[int]], arrivals: dict[Stream, list[int]], offset: Offset | None) -> list[str]:
    clocks = Clocks()
    every = [(arrival, stream, stamp) for stream in Stream for arrival, stamp in zip(arrivals[stream], stamps[stream])]
    for arrival, stream, stamp in sorted(every):
        clocks.push(stream, stamp, arrival)
    if clocks.apart:
        return [
            f"{clocks.describe()}: frames are paired by their times of arrival, as by the node (--pair-by auto); "
            "--learn-ir-time-offset finds the constant between them"
        ]
    if offset is None or not offset.apart_ms:
        return []
    return [
        f"the cameras' stamps never overlap: {offset.apart_ms / 1e3:.1f} s lie between them, so no frame finds a "
        "partner (parameter ir_time_offset_ms, or synchronise the clocks)"
    ]
