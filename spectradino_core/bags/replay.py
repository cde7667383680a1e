"""Replay a recording through the node's pairing and pipeline, with the same results every time.

The node's own code decides: `streams.feed` on captures and modes, `streams.detecting` on detections. Two things differ
from a robot: time is the recording time of each frame, so that the machine's speed does not matter, and no frame is
skipped because the model is busy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from spectradino_core.bags import BagError
from spectradino_core.bags.reader import BagFrame, BagReader
from spectradino_core.bags.topics import base_topic
from spectradino_core.calibration.registration import Registration, RegistrationError
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.engine import Engine, RawPredictions
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.detecting import (
    UnreadableError,
    different_shapes,
    drop_cause,
    find,
    modes_alone,
    no_temperatures,
    own_pixels,
    unpack,
)
from spectradino_core.streams.feed import Capture, Feed, FeedEvent
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.queues import Stream
from spectradino_core.streams.registering import Registering
from spectradino_core.streams.settings import Settings
from spectradino_core.streams.throttle import Throttle
from spectradino_core.streams.topics import TF_STATIC
from spectradino_core.thermal import NoValidPixelError

CLOCKS = ("received", "stamp")

_MAX_EVENTS = 10_000


@dataclass(frozen=True)
class ReplayOptions:
    """Options of every replay: the node's parameters, topics as for `BagReader`, and a clock as for `Replay`."""

    settings: Settings = field(default_factory=Settings)
    rgb_topic: str | None = field(default=None, kw_only=True)
    ir_topic: str | None = field(default=None, kw_only=True)
    clock: str = field(default="received", kw_only=True)

    def reader(self, bag: str | Path) -> BagReader:
        """Open a bag; raises as `BagReader`."""
        return BagReader(bag, self.rgb_topic, self.ir_topic, decoding=self.settings.decoding)


@dataclass(frozen=True)
class ReplayResult:
    """Result of one capture.

    Attributes:
        number: 0, 1, 2, ... in order of captures, including failed ones.
        mode: cameras used: FUSED, RGB_ONLY or IR_ONLY.
        stamp_ns: stamp of the reference frame (RGB, or IR if it is alone), as in published headers.
        rgb_stamp_ns, ir_stamp_ns: header stamps of the frames; None without frame.
        ir_reused: whether the IR frame was in an earlier capture.
        error_ns: pairing error: IR stamp minus RGB stamp minus the offset in use; None with one frame.
        ready_ns, received_ns: bag time of the decision, and of the reference frame's arrival.
        frame_id: of the camera whose pixels the result is in: RGB, or IR if it is alone and no registration is known.
        perception: detections and mask, in pixels of that camera; None if the capture failed.
        cause, error: cause of the failure, as the node counts it ("rgb_corrupt_data", ..), and its message; else "".
        steps_ms: wall-clock milliseconds by step: decode, preprocess, engine, postprocess, tracking with it.
        drops: frames dropped since the start, by cause, as in the node's reports.
        rgb, ir: the frames, with decoded `pixels` and message headers.
        registration: IR-to-RGB mapping by which the two were fused, with the motion of a reused IR frame.
    """

    number: int
    mode: Mode
    stamp_ns: int
    rgb_stamp_ns: int | None
    ir_stamp_ns: int | None
    ir_reused: bool
    error_ns: int | None
    ready_ns: int
    received_ns: int
    frame_id: str
    perception: PerceptionResult | None
    cause: str
    error: str
    steps_ms: dict[str, float]
    drops: dict[str, int]
    rgb: CameraFrame | None = field(repr=False)
    ir: CameraFrame | None = field(repr=False)
    registration: Registration | None = field(default=None, repr=False)

    @property
    def wait_ms(self) -> float:
        """Waiting time of the reference frame for its partner, in bag time."""
        return (self.ready_ns - self.received_ns) / 1e6


@dataclass(frozen=True)
class _ReplayFrame:
    frame: CameraFrame
    received_ns: int
    source: BagFrame


class SkippingEngine:
    """Engine that returns no detections, at no cost, while `skip` is set; always, if it was made from metadata only.

    A replay then pairs frames and follows the thermal range without running the network.
    """

    def __init__(self, engine: Engine | ModelInfo) -> None:
        self._engine = None if isinstance(engine, ModelInfo) else engine
        self.info = engine if isinstance(engine, ModelInfo) else engine.info
        self.skip = self._engine is None

    @property
    def label(self) -> str:
        return "no network" if self._engine is None else self._engine.label

    @property
    def on_cpu(self) -> bool:
        return self._engine is None or self._engine.on_cpu

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine`."""
        if self._engine is not None and not self.skip:
            return self._engine.run(*inputs)
        return np.empty((0, 4), np.float32), np.empty((0, len(self.info.box_classes)), np.float32), None


class Replay:
    """Replay of one recording: frames in, results out, with bounded memory. Not thread-safe.

    Attributes:
        feed: decides on captures and modes; read-only. None before the first frame.
        registering: holds the registration in use.
        begin_ns: time of recording of the first frame.
        frames, results: number of frames by "rgb" and "ir", and of successful captures by mode.
        failures: the first error of each cause by which captures failed, in order.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings | None = None,
        clock: str = "received",
        floor: float | None = None,
    ) -> None:
        """
        Args:
            pipeline: see `detecting.open_pipeline`; the replay uses its threshold, registration and state exclusively.
            settings: the node's parameters.
            clock: one of `CLOCKS`: a frame's arrival time is its recording time ("received") or its stamp ("stamp"),
                for recordings converted from another format, whose recording times are meaningless.
            floor: see `detecting.find`.

        Raises:
            BagError: unknown clock.
            ParameterError: two parameters give a registration.
            RegistrationError: the registration is invalid, or the calibration file cannot be read.
        """
        if clock not in CLOCKS:
            raise BagError(f"the clock of a replay must be one of {', '.join(CLOCKS)}, got {clock!r}")
        self._pipeline = pipeline
        self._settings = settings or Settings()
        self._by_stamp = clock == "stamp"
        self._floor = floor
        self.registering = Registering(self._settings)
        offset_ms = self._settings.calibrated(self.registering.time_offset_ms).ir_time_offset_ms
        self._ir_offset_ns = round(offset_ms * 1_000_000)
        self.feed: Feed[_ReplayFrame] | None = None
        self._throttle = Throttle(max_rate_hz=self._settings.max_rate_hz)
        self.begin_ns = 0
        self.frames: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self._drops: Counter[str] = Counter()
        self._events: list[FeedEvent] = []
        self._reported: set[str] = set()
        self._topics: dict[str, str] = {}
        self._arrival_ns = 0
        self._captures = 0

    def run(
        self, frames: BagReader | Iterable[BagFrame], tick: Callable[[], object] = lambda: None
    ) -> Iterator[ReplayResult]:
        """Yield the results of a recording in order, including failed captures.

        Args:
            frames: an open bag, or its frames in stamp order, possibly filtered or modified.
            tick: called after each frame.

        Raises:
            RegistrationError: the registration comes from camera_info, and the bag has none that fits.
        """
        if isinstance(frames, BagReader):
            if self.registering.from_camera_info:
                self.take_camera_infos(frames)
            frames.decoding = self._settings.decoding
            frames = self.frames_of(frames)
        self._pipeline.reset()
        for frame in frames:
            yield from self.frame(frame)
            tick()
        if self.feed is not None:
            yield from self._results(self.feed.flush())

    def frames_of(self, reader: BagReader) -> Iterator[BagFrame]:
        """Return a recording's frames in replay order: by arrival if frames are paired by arrival, else by stamp."""
        return reader.frames(in_stamp_order=self._settings.pair_by != "arrival" or self._by_stamp)

    def frame(self, frame: BagFrame) -> Iterator[ReplayResult]:
        """Process one frame and yield the results that are now decided."""
        key = frame.stream.value
        self.begin_ns = self.begin_ns or frame.received_ns
        self.frames[key] += 1
        self._topics[key] = frame.topic
        arrival_ns = frame.received_ns
        if self._by_stamp:
            arrival_ns = frame.stamp_ns - (self._ir_offset_ns if frame.stream is Stream.IR else 0)
        # Frames are in stamp order, so arrival times may step back a little; the bag clock must not.
        restarted = arrival_ns < self._arrival_ns - 1_000_000_000
        self._arrival_ns = arrival_ns if restarted else max(self._arrival_ns, arrival_ns)
        if self.feed is None:
            self.feed = Feed(self._settings.calibrated(self.registering.time_offset_ms), self._arrival_ns)
        try:
            decoded = frame.decode()
        except DecodeError as error:
            error.camera = key
            frame.camera.refuse(error)
            self._refuse(error)
            yield from self._results(self.feed.refused(frame.stream, self._arrival_ns, error))
            return
        if frame.stream is Stream.RGB and decoded.size is not None:
            self.registering.note_rgb(decoded.size, str(decoded.header.frame_id))
        shot = _ReplayFrame(decoded, self._arrival_ns, frame)
        self.feed.registration = self.registering.current
        self.feed.modes.rgb_grid = self.registering.rgb_size is not None
        captures = self.feed.frame(
            frame.stream, frame.stamp_ns, self._arrival_ns, shot, decoded.fingerprint, decoded.small_pixels
        )
        yield from self._results(captures)

    def take_camera_infos(self, reader: BagReader) -> None:
        """Compute the registration from the first camera_info of each camera, beside its images.

        With extrinsics_from_tf the recording's last transform of each frame holds for all of it. Raises
        RegistrationError if a message is missing or not usable.
        """
        if self.registering.from_tf:
            if TF_STATIC not in reader.topics or reader.topics[TF_STATIC].kind != "tf2_msgs/msg/TFMessage":
                raise RegistrationError(
                    f"{reader.path}: extrinsics_from_tf needs {TF_STATIC} (tf2_msgs/msg/TFMessage), which is not in "
                    "the bag: record it too, or set extrinsic_rotation and extrinsic_translation instead"
                )
            for row in reader.messages(TF_STATIC):
                self.registering.take_transforms(row.message.transforms)
        for stream in Stream:
            image = base_topic(reader.topic_of(stream), reader.topics)
            topic = f"{image.rpartition('/')[0]}/camera_info"
            if topic not in reader.topics or not reader.topics[topic].count:
                raise RegistrationError(
                    f"{reader.path}: registration_from_camera_info needs {topic}, which is not in the bag"
                )
            self.registering.take(stream.value, next(iter(reader.messages(topic))).message)
        if self.registering.from_tf:
            self.registering.check()

    def drops(self) -> dict[str, int]:
        """Count frames and captures without a result so far, by cause, as in the node."""
        drops = Counter(self._drops)
        drops.update({} if self.feed is None else self.feed.drops())
        drops.update(self._throttle.drops())
        return dict(sorted(drops.items()))

    def take_events(self) -> list[FeedEvent]:
        """Return the node's log events since the last call; each kind of warning once per recording."""
        self._collect()
        events, self._events = self._events, []
        return events

    def _collect(self) -> None:
        if self.feed is not None:
            self._events += self.feed.take_events()
        del self._events[:-_MAX_EVENTS]

    def _drop(self, cause: str, text: str) -> None:
        self._drops[cause] += 1
        self._report(cause, text)

    def _refuse(self, error: DecodeError) -> None:
        """Count a frame that cannot be decoded."""
        if error.counted:
            return
        error.counted = True
        topic = self._topics.get(error.camera, error.camera)
        self._drop(f"{error.camera}_{error.cause}", f"dropped a frame of {topic}: {error}")

    def _refuse_shots(self, capture: Capture[_ReplayFrame], errors: Iterable[DecodeError]) -> None:
        """Count the frames of a capture whose pixels are damaged."""
        for error in errors:
            shot = capture.rgb if error.camera == "rgb" else capture.ir
            if shot is not None and not error.counted:
                shot.source.camera.refuse(error)
            self._refuse(error)

    def _report(self, key: str, text: str) -> None:
        if key not in self._reported:
            self._reported.add(key)
            self._events.append(FeedEvent(text, True, self._arrival_ns))

    def _results(self, captures: list[Capture[_ReplayFrame]]) -> Iterator[ReplayResult]:
        self._collect()
        for capture in captures:
            shot = capture.rgb or capture.ir
            assert shot is not None
            admitted = self._throttle(capture, shot.received_ns)
            if admitted is not None:
                yield self._result(admitted)

    def _found(self, capture: Capture[_ReplayFrame]) -> PerceptionResult:
        return find(
            self._pipeline, self.registering, self._settings, *_frames(capture), capture.after_jump, capture.time_ns,
            self._floor,
        )  # fmt: skip

    def _unpacked(self, capture: Capture[_ReplayFrame]) -> Capture[_ReplayFrame]:
        """Decode a capture and drop undecodable frames, as in the node.

        Raises:
            UnreadableError: no usable frame is left.
        """
        errors = unpack(self._settings, self.registering, *_frames(capture))
        self._refuse_shots(capture, errors)
        for error in errors:
            capture = capture.without(error.camera)
        return capture

    def _result(self, capture: Capture[_ReplayFrame]) -> ReplayResult:
        perception, cause, error = None, "", ""
        start = perf_counter()
        try:
            capture = self._unpacked(capture)
            try:
                perception = self._found(capture)
            except NoValidPixelError as failure:  # as in the node
                if capture.rgb is None or Mode.RGB_ONLY not in modes_alone(self._settings, self.registering):
                    raise
                if capture.ir is not None and not capture.ir.frame.used:
                    capture.ir.frame.used = True
                    self._drop(drop_cause(failure), f"dropped a frame of {self._topics['ir']}: {failure}")
                capture = capture.without("ir")
                perception = self._found(capture)
            rgb, ir = _frames(capture)
            if text := different_shapes(self.registering, rgb, ir, self._topics):
                self._report("aspect", text)
            if text := own_pixels(perception, self._topics):
                self._report("grid", text)
            if text := no_temperatures(self._settings, ir, self._topics):
                self._report("temperatures", text)
            self.results[perception.mode.value] += 1
        except Exception as failure:  # as in the node: the capture is dropped and counted
            cause, error = drop_cause(failure), f"{failure}"
            self.failures.setdefault(cause, error)
            if isinstance(failure, UnreadableError):
                self._refuse_shots(capture, failure.errors)
            else:
                self._drop(cause, f"dropped a capture ({type(failure).__name__}): {failure}")
        elapsed_ms = (perf_counter() - start) * 1e3
        rgb, ir = _frames(capture)
        shot = capture.rgb or capture.ir
        stamp_ns = capture.rgb_stamp_ns if capture.rgb is not None else capture.ir_stamp_ns
        assert shot is not None
        assert stamp_ns is not None
        ir_reused = ir is not None and ir.used
        read = (rgb, None if ir_reused else ir)
        if ir is not None:
            ir.used = True
        steps_ms = {"decode": sum(frame.decode_ms for frame in read if frame is not None)}
        steps_ms |= {"failed": elapsed_ms} if perception is None else perception.steps_ms
        number, self._captures = self._captures, self._captures + 1
        return ReplayResult(
            number=number,
            mode=capture.mode,
            stamp_ns=stamp_ns,
            rgb_stamp_ns=capture.rgb_stamp_ns,
            ir_stamp_ns=capture.ir_stamp_ns,
            ir_reused=ir_reused,
            error_ns=capture.error_ns,
            ready_ns=capture.ready_ns,
            received_ns=shot.received_ns,
            frame_id=self.registering.rgb_frame_id
            if perception is not None and perception.registered
            else str(shot.frame.header.frame_id),
            perception=perception,
            cause=cause,
            error=error,
            steps_ms=steps_ms,
            drops=self.drops(),
            rgb=rgb,
            ir=ir,
            registration=self._pipeline.used_registration,
        )


def _frames(capture: Capture[_ReplayFrame]) -> tuple[CameraFrame | None, CameraFrame | None]:
    return (
        None if capture.rgb is None else capture.rgb.frame,
        None if capture.ir is None else capture.ir.frame,
    )
