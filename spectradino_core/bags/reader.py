"""Read a recording: camera frames in stamp order, and messages of any other topic.

A recorder writes in order of arrival; images of one moment may arrive in either order, and a compressed image later
than its successor. `BagReader.frames` sorts frames by stamp within a window of arrival times, which bounds memory and
keeps a clock that jumps back, or a recording played twice into one bag, recognisable.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from spectradino_core.bags import BagError
from spectradino_core.bags.messages import DamagedMessageError, MessageTypes, peek_stamp_ns
from spectradino_core.bags.storage import Raw, Storage
from spectradino_core.bags.topics import choose_camera
from spectradino_core.streams.clocks import Clocks
from spectradino_core.streams.compressed import encoding_of
from spectradino_core.streams.decode import DecodeError, DecodeOptions
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.pairing import JUMP_MS
from spectradino_core.streams.queues import Stream
from spectradino_core.text import counted

_MS = 1_000_000
_WINDOW_NS = 400 * _MS
"""Arrival window within which messages are sorted by stamp; at most `JUMP_MS`."""
_MAX_BYTES = 256 << 20


@dataclass
class CameraMessages:
    """Number of messages of one camera's topic, as far as a recording was read.

    Those that cannot be decoded are counted by cause in `refused`, with the first error of each in `examples`.
    """

    topic: str
    messages: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def refuse(self, error: DecodeError) -> None:
        """Count a message that cannot be decoded."""
        self.refused[error.cause] += 1
        self.examples.setdefault(error.cause, " ".join(str(error).split()))

    @property
    def is_unreadable(self) -> bool:
        """Whether there are messages and none of them can be decoded."""
        return 0 < self.messages <= self.refused.total()

    def __str__(self) -> str:
        text = f"{self.topic}: {counted(self.messages, 'message')}"
        if not self.refused:
            return text
        causes = "; ".join(f"{count} {cause}: {self.examples[cause]}" for cause, count in sorted(self.refused.items()))
        much = "none of them can be read" if self.is_unreadable else f"{self.refused.total()} of them cannot be read"
        remedy = '; convert the topic, or continue without the camera (--rgb-topic "" or --ir-topic "")'
        return f"{text}, {much} ({causes}){remedy if self.is_unreadable else ''}"


def describe_intake(
    cameras: Iterable[CameraMessages], drops: Mapping[str, int], failures: Mapping[str, str] | None = None
) -> str:
    """Describe why a recording gives no result: message counts, drops by cause, and the first of the failures."""
    read = "; ".join(map(str, cameras)) or "no message of a camera"
    dropped = ", ".join(f"{count} {cause}" for cause, count in sorted(drops.items())) or "nothing"
    failed = next((f"; a capture failed: {error}" for error in (failures or {}).values()), "")
    return f"{read}; dropped: {dropped}{failed}"


class BagMessage(NamedTuple):
    """A deserialized message: topic, type name, time of recording, header stamp (None without header), and fields."""

    topic: str
    kind: str
    received_ns: int
    stamp_ns: int | None
    message: Any


@dataclass(frozen=True)
class BagFrame:
    """One camera image as recorded, deserialized on demand.

    Attributes:
        stamp_ns, received_ns: header stamp and time of recording.
        raw, types: the message in CDR, and what deserializes it.
        camera: counts of the camera's messages.
        options: decoding limits, and how IR images are read.
    """

    stream: Stream
    stamp_ns: int
    received_ns: int
    topic: str
    kind: str
    raw: bytes
    types: MessageTypes
    camera: CameraMessages
    options: DecodeOptions | None = None

    @cached_property
    def message(self) -> Any:
        """The image message; raises DecodeError ("bad_message") if the bytes do not match the topic's type."""
        try:
            return self.types.read(self.raw, self.kind)
        except DamagedMessageError as error:
            raise DecodeError("bad_message", f"a message of {self.topic} cannot be deserialized: {error}") from None

    def decode(self) -> CameraFrame:
        """Decode the frame as the node does, with the same `DecodeError`s; pixels are decoded on access."""
        return CameraFrame.decode(self.stream.value, self.message, options=self.options)


class BagReader:
    """A bag opened for reading; a context manager.

    Attributes:
        path, topics, damage, format: see `Storage`.
        rgb_topic, ir_topic: the cameras' topics; "" without such a camera.
        chosen: reason for the choice of each topic, by "rgb" and "ir".
        events: counts of faulty camera messages so far, by cause: "rgb_backward_stamp" (behind the camera's newest
            stamp), "rgb_clock_jump" (by more than half a second), "rgb_bad_message", the same with "ir_".
        messages_of: message counts of each camera during the last reading of frames, by "rgb" and "ir".
        max_waiting: maximum number of frames in the sorting window so far.
        decoding: decoding options of frames read from now on.
    """

    def __init__(
        self,
        path: str | Path,
        rgb_topic: str | None = None,
        ir_topic: str | None = None,
        cameras: bool = True,
        decoding: DecodeOptions | None = None,
    ) -> None:
        """
        Args:
            path: a rosbag2 folder, or a .mcap or .db3 file.
            rgb_topic, ir_topic: the cameras' topics (raw or compressed images; for `/a/image_raw` also the recorded
                `/a/image_raw/zstd` or `/a/image_raw/compressed`). None: found by name and encoding. "": no such camera.
            cameras: whether to look for cameras; False: only `messages` is used.
            decoding: decoding limits, and how IR images are read, see `Settings.decoding`.

        Raises:
            BagError: no bag, nothing readable in it, or a camera's topic is missing or ambiguous; names what the bag
                contains and the remedy.
        """
        self.decoding = decoding
        self._storage = Storage(path)
        self.path, self.format = self._storage.path, self._storage.format
        self.topics, self.damage = self._storage.topics, self._storage.damage
        self.events: Counter[str] = Counter()
        self.messages_of: dict[str, CameraMessages] = {}
        self._unreadable: dict[str, CameraMessages] = {}  # by topic, of those examined
        self.max_waiting = 0
        self.rgb_topic = self.ir_topic = ""
        self.chosen: dict[str, str] = {}
        try:
            self.types = MessageTypes((topic.kind, topic.definition) for topic in self.topics.values())
            if cameras:
                self._choose(rgb_topic, ir_topic)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._storage.close()

    def topic_of(self, stream: Stream | str) -> str:
        """Return the topic of a camera, "" without such a camera."""
        return self.rgb_topic if Stream(stream) is Stream.RGB else self.ir_topic

    def with_damaged_headers(self, drops: Mapping[str, int]) -> dict[str, int]:
        """Add the messages with damaged headers to the drops of a replay, which counts those with damaged bodies."""
        damaged = {cause: count for cause, count in self.events.items() if cause.endswith("_bad_message")}
        return dict(drops) | {cause: count + drops.get(cause, 0) for cause, count in damaged.items()}

    def messages(self, topics: str | Sequence[str]) -> Iterator[BagMessage]:
        """Yield the deserialized messages of one or several topics in order of arrival.

        Raises BagError if a topic is missing, its type is unknown, or a message is damaged.
        """
        names = [topics] if isinstance(topics, str) else list(topics)
        for name in names:
            if name not in self.topics:
                raise BagError(f"{self.path}: there is no topic {name}; topics are {', '.join(self.topics) or 'none'}")
            kind = self.topics[name].kind
            if not self.types.has_type(kind):
                raise BagError(
                    f"{self.path}: the type {kind} of topic {name} is unknown, and the bag has no definition of it: "
                    "record again with ROS 2 Iron or later, which stores definitions, or convert the bag there "
                    "('ros2 bag convert')"
                )
        for raw in self._storage.messages(set(names)):
            kind = self.topics[raw.topic].kind
            try:
                message = self.types.read(raw.data, kind)
            except DamagedMessageError as error:
                raise BagError(f"{self.path}: a message of topic {raw.topic} is damaged: {error}") from None
            stamp = getattr(getattr(message, "header", None), "stamp", None)
            stamp_ns = None if stamp is None else stamp.sec * 1_000_000_000 + stamp.nanosec
            yield BagMessage(raw.topic, kind, raw.received_ns, stamp_ns, message)

    def stored(self, topics: Sequence[str]) -> Iterator[Raw]:
        """Yield the raw messages of some topics in order of arrival."""
        return self._storage.messages(set(topics))

    def frames(self, in_stamp_order: bool = True) -> Iterator[BagFrame]:
        """Yield both cameras' images in stamp order, see the module docstring, or as they arrived. May be called again.

        If the stamps of the two cameras are not comparable, the order is that of arrival.
        """
        numbered = self._numbered()
        yield from self._sorted(numbered) if in_stamp_order else (frame for _, _, frame in numbered)

    def _numbered(self) -> Iterator[tuple[int, int, BagFrame]]:
        """Yield both cameras' images as they arrived, each with the number of clock jumps so far and of the message."""
        self.events.clear()
        self.messages_of = {stream.value: CameraMessages(t) for stream in Stream if (t := self.topic_of(stream))}
        streams = {topic: stream for stream in Stream if (topic := self.topic_of(stream))}
        newest: dict[Stream, int] = {}
        epoch = 0
        for number, raw in enumerate(self._storage.messages(set(streams))):
            stream = streams[raw.topic]
            camera = self.messages_of[stream.value]
            camera.messages += 1
            try:
                stamp_ns = peek_stamp_ns(raw.data)
            except DamagedMessageError as error:
                self.events[f"{stream.value}_bad_message"] += 1
                camera.refuse(DecodeError("bad_message", str(error)))
                continue
            behind_ns = newest.get(stream, stamp_ns) - stamp_ns
            if behind_ns > JUMP_MS * _MS:
                self.events[f"{stream.value}_clock_jump"] += 1
                epoch += 1
                newest[stream] = stamp_ns
            else:
                self.events[f"{stream.value}_backward_stamp"] += behind_ns > 0
                newest[stream] = max(stamp_ns, newest.get(stream, stamp_ns))
            kind = self.topics[raw.topic].kind
            yield (
                epoch,
                number,
                BagFrame(
                    stream, stamp_ns, raw.received_ns, raw.topic, kind, raw.data, self.types, camera, self.decoding
                ),
            )
        self.events = +self.events

    def _sorted(self, numbered: Iterable[tuple[int, int, BagFrame]]) -> Iterator[BagFrame]:
        waiting: list[tuple[int, int, str, int, BagFrame]] = []
        arrivals: list[tuple[int, int]] = []  # of waiting frames, and of those in `exhausted`
        exhausted: set[int] = set()
        newest_arrival_ns, waiting_bytes = -1, 0
        clocks = Clocks()
        for epoch, number, frame in numbered:
            # Frames of one arrival time are released together, whatever their order, unless they exceed the memory.
            if frame.received_ns > newest_arrival_ns or waiting_bytes > _MAX_BYTES:
                newest_arrival_ns = max(newest_arrival_ns, frame.received_ns)
                while waiting:
                    while arrivals[0][1] in exhausted:
                        exhausted.remove(heapq.heappop(arrivals)[1])
                    if arrivals[0][0] >= newest_arrival_ns - _WINDOW_NS and waiting_bytes <= _MAX_BYTES:
                        break
                    *_, ready_number, ready = heapq.heappop(waiting)
                    exhausted.add(ready_number)
                    waiting_bytes -= len(ready.raw)
                    yield ready
            # Stamps of unrelated clocks do not order the two cameras' frames.
            if clocks.push(frame.stream, frame.stamp_ns, frame.received_ns):
                waiting = [
                    (e, one.received_ns if clocks.by_arrival else one.stamp_ns, topic, n, one)
                    for e, _, topic, n, one in waiting
                ]
                heapq.heapify(waiting)
            place_ns = frame.received_ns if clocks.by_arrival else frame.stamp_ns
            heapq.heappush(waiting, (epoch, place_ns, frame.topic, number, frame))
            heapq.heappush(arrivals, (frame.received_ns, number))
            waiting_bytes += len(frame.raw)
            self.max_waiting = max(self.max_waiting, len(waiting))
        while waiting:
            yield heapq.heappop(waiting)[-1]

    def _choose(self, rgb_topic: str | None, ir_topic: str | None) -> None:
        given = {Stream.RGB: rgb_topic, Stream.IR: ir_topic}
        found: dict[Stream, str] = {}
        # Named topics first: they are excluded for the other camera.
        for stream in sorted(Stream, key=lambda s: given[s] is None):
            other = found.get(stream.other, "")
            try:
                found[stream], self.chosen[stream.value] = choose_camera(
                    stream, self.topics, given[stream], self._first_encoding, self.path, other
                )
            except BagError as error:
                if not self._unreadable:
                    raise
                raise BagError(f"{error}. {'; '.join(map(str, self._unreadable.values()))}") from None
        if found[Stream.RGB] == found[Stream.IR]:
            raise BagError(
                f"{self.path}: both cameras have the topic {found[Stream.RGB]!r}: give --rgb-topic or --ir-topic"
                if found[Stream.RGB]
                else f"{self.path}: no camera selected: give at least one topic"
            )
        self.rgb_topic, self.ir_topic = found[Stream.RGB], found[Stream.IR]

    def _first_encoding(self, topic: str) -> str:
        """Encoding (or compressed format) of a topic's first readable image; "" if there is none."""
        if topic in self._unreadable:
            return ""
        kind = self.topics[topic].kind
        read = CameraMessages(topic)
        for raw in self._storage.messages({topic}):
            read.messages += 1
            try:
                message = self.types.read(raw.data, kind)
            except DamagedMessageError as error:
                read.refuse(DecodeError("bad_message", str(error)))
                continue
            return encoding_of(message)
        if read.is_unreadable:
            self._unreadable[topic] = read
        return ""
