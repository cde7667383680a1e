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
from typing import Any

from spectradino_core.bags import BagError
from spectradino_core.bags.message_types import DamagedMessageError, MessageTypes, peek_stamp_ns
from spectradino_core.bags.storage import Raw, Storage, StoredTopic
from spectradino_core.bags.topics import choose_camera
from spectradino_core.streams.clocks import Clocks
from spectradino_core.streams.compressed import encoding_of
from spectradino_core.streams.decode import DecodeError, DecodeOptions
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.pairing import JUMP_MS
from spectradino_core.streams.queues import Stream

__all__ = ["BagFrame", "BagMessage", "BagReader", "CameraMessages", "describe_intake"]

_MS = 1_000_000
_MAX_BYTES = 256 << 20


@dataclass
class CameraMessages:
    """Messages of one camera, as far as a recording was read.

    Attributes:
        topic: the recorded topic.
        messages: number of messages.
        refused: number of messages that cannot be decoded, by cause.
        examples: the first error of each cause.
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
        text = f"{self.topic}: {self.messages} messages"
        if not self.refused:
            return text
        causes = "; ".join(f"{count} {cause}: {self.examples[cause]}" for cause, count in sorted(self.refused.items()))
        much = "none of them can be read" if self.is_unreadable else f"{self.refused.total()} of them cannot be read"
        remedy = '; convert the topic, or continue without the camera (--rgb-topic "" or --ir-topic "")'
        return f"{text}, {much} ({causes}){remedy if self.is_unreadable else ''}"


def describe_intake(cameras: Iterable[CameraMessages], drops: Mapping[str, int]) -> str:
    """Describe why a recording gives no result: message counts of the cameras, and drops by cause."""
    read = "; ".join(map(str, cameras)) or "no message of a camera"
    dropped = ", ".join(f"{count} {cause}" for cause, count in sorted(drops.items())) or "nothing"
    return f"{read}; dropped: {dropped}"


@dataclass(frozen=True)
class BagMessage:
    """A deserialized message.

    Attributes:
        topic: topic name.
        kind: type name, such as "vision_msgs/msg/Detection2DArray".
        received_ns: time of recording.
        stamp_ns: header stamp; None without header.
        message: object with the type's fields.
    """

    topic: str
    kind: str
    received_ns: int
    stamp_ns: int | None
    message: Any


@dataclass(frozen=True)
class BagFrame:
    """One camera image as recorded, deserialized on demand.

    Attributes:
        stream: which camera.
        stamp_ns: header stamp.
        received_ns: time of recording.
        topic, kind: topic and type name.
        raw: the message in CDR.
        types: deserializes it.
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
        """The image message.

        Raises:
            DecodeError: the bytes are not a message of the topic's type (cause "bad_message").
        """
        try:
            return self.types.read(self.raw, self.kind)
        except DamagedMessageError as error:
            raise DecodeError("bad_message", f"a message of {self.topic} cannot be deserialized: {error}") from None

    def decode(self) -> CameraFrame:
        """Decode the frame as the node does; pixels are decoded on access.

        Raises:
            DecodeError: as in the node, with the same causes.
        """
        return CameraFrame.decode(self.stream.value, self.message, options=self.options)

    def refuse(self, error: DecodeError) -> None:
        """Count the frame as undecodable; for callers that failed to decode its pixels."""
        self.camera.refuse(error)


class BagReader:
    """A bag opened for reading; a context manager.

    Attributes:
        path: the bag.
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
        window_ms: float = 400.0,
        cameras: bool = True,
        decoding: DecodeOptions | None = None,
    ) -> None:
        """
        Args:
            path: a rosbag2 folder (sqlite3 or MCAP, also compressed), or a bare .mcap or .db3 file.
            rgb_topic, ir_topic: the cameras' topics (raw or compressed images; for `/a/image_raw` also the recorded
                `/a/image_raw/zstd` or `/a/image_raw/compressed`). None: found by name and encoding. "": no such camera.
            window_ms: arrival window within which messages are sorted by stamp, 0 to 500.
            cameras: whether to look for cameras; False: only `messages` is used.
            decoding: decoding limits, and how IR images are read, see `Settings.decoding`.

        Raises:
            BagError: no bag, nothing readable in it, or a camera's topic is missing or ambiguous; names what the bag
                contains and the remedy.
        """
        if not 0 <= window_ms <= JUMP_MS:
            raise BagError(f"window_ms must lie in 0 to {JUMP_MS:g}, got {window_ms:g}")
        self._window_ns = round(window_ms * _MS)
        self.decoding = decoding
        self._storage = Storage(path)
        self.path = self._storage.path
        self.events: Counter[str] = Counter()
        self.messages_of: dict[str, CameraMessages] = {}
        self._unreadable: dict[str, CameraMessages] = {}  # by topic, of those examined
        self.max_waiting = 0
        self.rgb_topic = self.ir_topic = ""
        self.chosen: dict[str, str] = {}
        try:
            self.types = MessageTypes((t.kind, t.definition) for t in self._storage.topics.values())
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

    @property
    def topics(self) -> dict[str, StoredTopic]:
        """All topics by name, with type and message count."""
        return self._storage.topics

    @property
    def damage(self) -> list[str]:
        """Descriptions of unreadable parts found so far, with remedies; empty for an intact bag."""
        return self._storage.damage

    @property
    def format(self) -> str:
        """Storage format, "mcap" or "sqlite3", and compression."""
        return self._storage.format

    def topic_of(self, stream: Stream | str) -> str:
        """Return the topic of a camera, "" without such a camera."""
        return self.rgb_topic if Stream(stream) is Stream.RGB else self.ir_topic

    def messages(self, topics: str | Sequence[str]) -> Iterator[BagMessage]:
        """Yield the deserialized messages of some topics in order of arrival.

        Args:
            topics: one name or several.

        Raises:
            BagError: a topic is missing, its type is unknown, or a message is damaged.
        """
        names = [topics] if isinstance(topics, str) else list(topics)
        for name in names:
            if name not in self.topics:
                raise BagError(f"{self.path}: there is no topic {name}; topics are {', '.join(self.topics) or 'none'}")
            kind = self.topics[name].kind
            if not self.types.knows(kind):
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
        """Yield both cameras' images in stamp order, see the module docstring. May be called again.

        If the stamps of the two cameras are not comparable, the order is that of arrival.

        Args:
            in_stamp_order: False: in order of arrival.
        """
        self.events.clear()
        self.messages_of = {stream.value: CameraMessages(t) for stream in Stream if (t := self.topic_of(stream))}
        streams = {topic: stream for stream in Stream if (topic := self.topic_of(stream))}
        waiting: list[tuple[int, int, str, int, BagFrame]] = []
        arrivals: list[tuple[int, int]] = []  # of waiting frames, and of those in `gone`
        gone: set[int] = set()
        newest: dict[Stream, int] = {}
        newest_arrival_ns, epoch, waiting_bytes = -1, 0, 0
        clocks = Clocks()
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
            frame = BagFrame(
                stream, stamp_ns, raw.received_ns, raw.topic, kind, raw.data, self.types, camera, self.decoding
            )
            if not in_stamp_order:
                yield frame
                continue
            # Frames of one arrival time are released together, whatever their order, unless they exceed the memory.
            if raw.received_ns > newest_arrival_ns or waiting_bytes > _MAX_BYTES:
                newest_arrival_ns = max(newest_arrival_ns, raw.received_ns)
                while waiting:
                    while arrivals[0][1] in gone:
                        gone.remove(heapq.heappop(arrivals)[1])
                    if arrivals[0][0] >= newest_arrival_ns - self._window_ns and waiting_bytes <= _MAX_BYTES:
                        break
                    *_, ready_number, ready = heapq.heappop(waiting)
                    gone.add(ready_number)
                    waiting_bytes -= len(ready.raw)
                    yield ready
            # Stamps of unrelated clocks do not order the two cameras' frames.
            if clocks.push(stream, stamp_ns, raw.received_ns):
                waiting = [
                    (e, one.received_ns if clocks.by_arrival else one.stamp_ns, topic, n, one)
                    for e, _, topic, n, one in waiting
                ]
                heapq.heapify(waiting)
            place_ns = raw.received_ns if clocks.by_arrival else stamp_ns
            heapq.heappush(waiting, (epoch, place_ns, raw.topic, number, frame))
            heapq.heappush(arrivals, (raw.received_ns, number))
            waiting_bytes += len(raw.data)
            self.max_waiting = max(self.max_waiting, len(waiting))
        while waiting:
            yield heapq.heappop(waiting)[-1]
        self.events = Counter({cause: n for cause, n in self.events.items() if n})

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
