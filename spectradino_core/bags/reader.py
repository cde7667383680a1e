"""A recorded drive as frames in stamp order, and any other of its topics as messages.

A recorder writes in the order of arrival; images of one moment may arrive in either order, and a compressed one later
than its successor. `BagReader.frames` puts them into the order of their stamps within a window of arrival times, so
that memory is bounded and a clock that jumps back, or a drive that was played twice into one bag, is still seen for
what it is.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spectradino_core.bags.errors import BagError
from spectradino_core.bags.intake import CameraMessages
from spectradino_core.bags.message_types import DamagedMessageError, MessageTypes, peek_stamp_ns
from spectradino_core.bags.storage import Raw, Storage, StoredTopic
from spectradino_core.bags.topics import choose_camera
from spectradino_core.streams.clocks import Clocks
from spectradino_core.streams.compressed import encoding_of
from spectradino_core.streams.decode import DecodeError, DecodeOptions
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.pairing import JUMP_MS
from spectradino_core.streams.queues import Stream

__all__ = ["BagFrame", "BagMessage", "BagReader"]

_MS = 1_000_000
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class BagMessage:
    """One message, unpacked.

    Attributes:
        topic: its topic.
        kind: its type, as "vision_msgs/msg/Detection2DArray".
        received_ns: when the recorder got it.
        stamp_ns: its header's stamp; None where it has no header.
        message: an object with the type's fields.
    """

    topic: str
    kind: str
    received_ns: int
    stamp_ns: int | None
    message: Any


@dataclass(frozen=True)
class BagFrame:
    """One camera's image as recorded. Unpacked when asked for.

    Attributes:
        stream: which camera.
        stamp_ns: its header's stamp.
        received_ns: when the recorder got it.
        topic, kind: where it was recorded.
        raw: the message in CDR.
        types: how to unpack it.
        camera: counts the camera's messages.
        options: limits, and how infrared images are read.
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
            DecodeError: its bytes are no such message (cause "bad_message").
        """
        try:
            return self.types.read(self.raw, self.kind)
        except DamagedMessageError as error:
            raise DecodeError("bad_message", f"a message of {self.topic} can't be unpacked: {error}") from None

    def decode(self) -> CameraFrame:
        """The frame as the node has it, with pixels that are unpacked when they are asked for.

        Raises:
            DecodeError: as in the node, with its causes.
        """
        return CameraFrame.decode(self.stream.value, self.message, options=self.options)

    def refuse(self, error: DecodeError) -> None:
        """Counts the frame as one that can't be read; for who asked for its pixels and can't have them."""
        self.camera.refuse(error)


class BagReader:
    """A bag opened for reading. A context manager.

    Attributes:
        path: the bag.
        rgb_topic, ir_topic: the cameras' topics; "" where there is none.
        chosen: how each was found, in words, by "rgb" and "ir".
        events: what was wrong with single messages of the cameras so far, by cause: "rgb_backward_stamp" (behind the
            camera's newest stamp), "rgb_clock_jump" (by more than half a second), "rgb_bad_message", the same with
            "ir_".
        messages_of: how many messages of each camera came while frames were last read, and which were refused, by "rgb"
            and "ir".
        max_waiting: the most frames that waited for their turn so far.
        decoding: how the frames that are read from now on are decoded.
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
            rgb_topic, ir_topic: the cameras' topics (raw or compressed images; of `/a/image_raw` the recorded
                `/a/image_raw/zstd` or `/a/image_raw/compressed` serves too). None: found by name and encoding. "":
                there is none.
            window_ms: how far apart in arrival two messages are put into the order of their stamps, 0 to 500.
            cameras: whether cameras are looked for at all; False: for `messages` only.
            decoding: limits, and how infrared images are read, as `Settings.decoding` says.

        Raises:
            BagError: no bag, nothing readable in it, or a camera's topic is missing or can't be told; names what there
                is and what to do.
        """
        if not 0 <= window_ms <= JUMP_MS:
            raise BagError(f"window_ms lies in 0 to {JUMP_MS:g}, got {window_ms:g}")
        self._window_ns = round(window_ms * _MS)
        self.decoding = decoding
        self._storage = Storage(path)
        self.path = self._storage.path
        self.events: Counter[str] = Counter()
        self.messages_of: dict[str, CameraMessages] = {}
        self._unreadable: dict[str, CameraMessages] = {}  # of the topics that were looked into
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
        """Lets go of the files."""
        self._storage.close()

    @property
    def topics(self) -> dict[str, StoredTopic]:
        """All topics by name: type and number of messages."""
        return self._storage.topics

    @property
    def damage(self) -> list[str]:
        """What of the bag could not be read so far, in words with remedies; empty for a whole bag."""
        return self._storage.damage

    @property
    def format(self) -> str:
        """How it is stored: "mcap" or "sqlite3", and its compression."""
        return self._storage.format

    def topic_of(self, stream: Stream | str) -> str:
        """The topic of a camera, "" where there is none."""
        return self.rgb_topic if Stream(stream) is Stream.RGB else self.ir_topic

    def messages(self, topics: str | Sequence[str]) -> Iterator[BagMessage]:
        """The messages of some topics, unpacked, in the order in which they were received.

        Args:
            topics: one name or several.

        Raises:
            BagError: a topic is not there, its type is unknown, or a message is damaged.
        """
        names = [topics] if isinstance(topics, str) else list(topics)
        for name in names:
            if name not in self.topics:
                raise BagError(f"{self.path}: there is no topic {name}; there are {', '.join(self.topics) or 'none'}")
            kind = self.topics[name].kind
            if not self.types.knows(kind):
                raise BagError(
                    f"{self.path}: the type {kind} of topic {name} is not known, and the bag holds no definition: "
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
        """The messages of some topics as they are stored, in the order in which they were received."""
        return self._storage.messages(set(topics))

    def frames(self, in_stamp_order: bool = True) -> Iterator[BagFrame]:
        """Both cameras' images in the order of their stamps; see the module's head. May be called again.

        Where the stamps of the two cameras cannot be compared, it is the order in which they were received.

        Args:
            in_stamp_order: False: in the order in which they were received.
        """
        self.events.clear()
        self.messages_of = {stream.value: CameraMessages(t) for stream in Stream if (t := self.topic_of(stream))}
        streams = {topic: stream for stream in Stream if (topic := self.topic_of(stream))}
        waiting: list[tuple[int, int, str, int, BagFrame]] = []
        arrivals: list[tuple[int, int]] = []  # of those that wait, and of some that went before their turn
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
            # Those of one arrival time go on together, whatever their order; unless they are the whole drive.
            if raw.received_ns > newest_arrival_ns or waiting_bytes > _MOST_BYTES:
                newest_arrival_ns = max(newest_arrival_ns, raw.received_ns)
                while waiting:
                    while arrivals[0][1] in gone:
                        gone.remove(heapq.heappop(arrivals)[1])
                    if arrivals[0][0] >= newest_arrival_ns - self._window_ns and waiting_bytes <= _MOST_BYTES:
                        break
                    *_, ready_number, ready = heapq.heappop(waiting)
                    gone.add(ready_number)
                    waiting_bytes -= len(ready.raw)
                    yield ready
            # Stamps of clocks that have nothing in common say nothing about the order of the two cameras' frames.
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
        # A camera that was named is out of the question for the other one.
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
                f"{self.path}: both cameras on topic {found[Stream.RGB]!r}"
                if found[Stream.RGB]
                else f"{self.path}: neither camera is to be read: name at least one topic"
            )
        self.rgb_topic, self.ir_topic = found[Stream.RGB], found[Stream.IR]

    def _first_encoding(self, topic: str) -> str:
        """The encoding (or the compressed format) of a topic's first readable image; "" where there is none."""
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
