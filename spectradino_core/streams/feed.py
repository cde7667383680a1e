"""Captures from the frames of two cameras: pairs, or single frames while one camera is silent.

Shared by the node and bag evaluation, so that they decide alike: pairing (`pairing.py`), modes and frozen cameras
(`modes.py`), times to pair by (`clocks.py`) and the offset (`offset.py`).

A pair always becomes a capture. A frame without a partner becomes one while its camera is the only one alive and
`fallback_mode` allows it. Frames of a frozen infrared camera are dropped. A pair that waits for a nearer frame becomes
a capture when a camera has been silent for half a second and three of its periods.

There is no clock here. Timeouts (a camera becomes stale, a pair waits in vain) take effect at their due time, whenever
the next call comes: a node with a coarse timer and a replay without timer make the same captures and mode changes at
the same times.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np

from spectradino_core.calibration.registration import Registration
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.streams.clocks import Clocks
from spectradino_core.streams.image_offset import PixelSource
from spectradino_core.streams.modes import FrozenDetector, ModeChange, ModeMachine
from spectradino_core.streams.offset import LearntOffset, OffsetControl, OffsetEvent
from spectradino_core.streams.pairing import JUMP_EVENT, JUMP_MS, Pair, Pairer
from spectradino_core.streams.parameter_values import check
from spectradino_core.streams.queues import Payload, Stream
from spectradino_core.streams.settings import Settings

_MS = 1_000_000
_ALONE = {Mode.RGB_ONLY: Stream.RGB, Mode.IR_ONLY: Stream.IR}
_PERIODS_TO_WAIT = 3.0
_MIN_WAIT_NS = 500 * _MS
_MAX_EVENTS = 256
_MAX_REASON = 120
_MAX_UNSEEN = 4
_QUIET_NS = 5_000 * _MS
"""A clock that goes back and forth jumps many times a second; a looped bag rarely does."""


_CHECKED = ("pairing", "pair_by", "fallback_mode", "stale_ms", "frozen_ms", "sync_slop_ms")
"""Parameters whose values are checked again, because not all callers have checked them."""


@dataclass(frozen=True)
class Capture(Generic[Payload]):
    """Input of one result: a pair, or a frame of one camera while the other is silent.

    Attributes:
        rgb, ir: payloads; one of them is None if a camera is used alone.
        rgb_stamp_ns, ir_stamp_ns: header stamps.
        error_ns: IR time minus RGB time minus the offset in use, by stamps or arrival times, as frames are paired; None
            with one frame.
        ready_ns: time of the decision on the arrival clock.
        after_jump: whether time jumped back since the previous capture, so that temporal smoothing must be reset.
        time_ns: time of the RGB frame, or of an IR frame alone: its stamp or arrival time, as frames are paired, minus
            the offset in use for an IR frame. It advances where stamps do not, and through changes of the camera.
    """

    rgb: Payload | None
    ir: Payload | None
    rgb_stamp_ns: int | None
    ir_stamp_ns: int | None
    error_ns: int | None
    ready_ns: int
    after_jump: bool
    time_ns: int

    @property
    def mode(self) -> Mode:
        """Cameras used."""
        if self.rgb is None:
            return Mode.IR_ONLY
        return Mode.RGB_ONLY if self.ir is None else Mode.FUSED

    @property
    def reference(self) -> Payload:
        """The frame whose header the result gets: RGB if present, else IR."""
        frame = self.rgb if self.rgb is not None else self.ir
        assert frame is not None
        return frame

    def without(self, camera: str) -> Capture[Payload]:
        """Return a copy without the frame of the camera "rgb" or "ir"."""
        changes: dict[str, Any] = {camera: None, f"{camera}_stamp_ns": None}
        return replace(self, error_ns=None, **changes)


@dataclass(frozen=True)
class FeedEvent:
    """Event for the log: a line, whether it is a problem, its time on the arrival clock, and what it reports."""

    text: str
    warning: bool
    time_ns: int
    change: ModeChange | None = None
    offset: LearntOffset | None = None


class Feed(Generic[Payload]):
    """Captures from frames; see the module docstring. Not thread-safe, except `drops`. Memory is bounded.

    Attributes:
        settings: settings in use.
        pairer: counts pairs and jumps of time.
        modes: mode, its reason, and whether infrared results can be mapped to RGB pixels (`rgb_grid`; set it).
        offsets: estimates of the time offset between the cameras.
        ir_frozen: whether the infrared camera repeats one image.
        registration: IR to RGB pixels, for comparing images; set it when it becomes known.
    """

    def __init__(self, settings: Settings, now_ns: int) -> None:
        """`now_ns`, on the arrival clock, is when it begins to wait for frames.

        Raises:
            ParameterError: a value is out of its range.
        """
        _check(settings)
        self.settings = settings
        self.pairer: Pairer[Payload] = Pairer(
            settings.sync_slop_ms or None, settings.ir_time_offset_ms, policy=settings.pairing
        )
        self.ir_frozen = False
        self.registration: Registration | None = None
        self.modes = ModeMachine(now_ns, settings.stale_ms, settings.fallback_mode)
        self._frozen = FrozenDetector(settings.frozen_ms)
        self._clocks = Clocks(settings.pair_by)
        self.offsets = OffsetControl(round(settings.ir_time_offset_ms * _MS), settings.learn_ir_time_offset)
        self._unseen: deque[tuple[Stream, int, PixelSource]] = deque()
        self._drops: Counter[str] = Counter()
        self._events: deque[FeedEvent] = deque(maxlen=_MAX_EVENTS)
        self._now_ns = now_ns
        self._last_ns = dict.fromkeys(Stream, now_ns)
        self._last_time_ns = dict.fromkeys(Stream, 0)
        self._started = False
        self._restarts_seen = 0
        self._jump_pending = False
        self._reported_ns: dict[str, int] = {}
        self._reported_incomparable = False
        self._last_capture_ns: int | None = None
        if self.by_arrival:  # from the first frame on, as after `apply`
            self._rebase()

    # ---- in and out ----------------------------------------------------------------------------------------------

    def frame(
        self,
        stream: Stream | str,
        stamp_ns: int,
        arrival_ns: int,
        payload: Payload,
        fingerprint: PixelSource,
        pixels: PixelSource | None = None,
    ) -> list[Capture[Payload]]:
        """Add a decoded frame and return the captures that are now certain, oldest first.

        Args:
            stream: "rgb" or "ir".
            stamp_ns: header stamp.
            arrival_ns: arrival time: a monotonic clock live, the recorded time in replay.
            payload: content of the capture.
            fingerprint: array that differs if the image does (`CameraFrame.fingerprint`), or a function that returns
                it; detects an infrared camera that repeats one image.
            pixels: function that returns the image, which is sometimes used to measure the time between the cameras;
                None: `fingerprint` is the image.
        """
        stream = Stream(stream)
        captures = self.watch(arrival_ns)
        self._last_ns[stream] = arrival_ns
        frozen = stream is Stream.IR and self._repeats_image(
            fingerprint() if callable(fingerprint) else fingerprint, arrival_ns
        )
        captures += self._compare_clocks(stream, stamp_ns, arrival_ns)
        time_ns = self._time_ns(stream, arrival_ns) if self.by_arrival else None
        if time_ns is None and stamp_ns <= 0:
            change = self.modes.refused(stream, arrival_ns, "header.stamp is zero")
        else:
            change = self.modes.frame(stream, arrival_ns, frozen)
        self._started = True
        self._report_mode(change)
        if frozen:
            self._drops["frozen_ir"] += 1
            return captures
        captures += self._captures(self.pairer.push(stream, stamp_ns, payload, time_ns))
        if _ALONE.get(self.modes.mode) is stream:
            captures += self._alone(stream)
        if time_ns is not None or stamp_ns > 0:
            self._unseen.append(
                (stream, stamp_ns if time_ns is None else time_ns, fingerprint if pixels is None else pixels)
            )
        # No result waits for a frame without a capture: there is time to compare images.
        while self._unseen and (not captures or len(self._unseen) > _MAX_UNSEEN):
            self._apply_offset_events(self.offsets.images(*self._unseen.popleft(), self.registration))
        return captures

    def refused(self, stream: Stream | str, arrival_ns: int, error: Exception) -> list[Capture[Payload]]:
        """Record a frame that cannot be used, so that its camera is not reported as silent; returns as `frame`.

        The first clause of the error's text is reported.
        """
        captures = self.watch(arrival_ns)
        reason = re.split(r"[:;] ", str(error), maxsplit=1)[0][:_MAX_REASON]
        self._report_mode(self.modes.refused(stream, arrival_ns, reason))
        return captures

    def watch(self, now_ns: int) -> list[Capture[Payload]]:
        """Apply timeouts due by `now_ns`. To be called periodically, or at `due_ns`; `frame` calls it itself."""
        captures: list[Capture[Payload]] = []
        if now_ns < self._now_ns:  # simulated time restarted
            self._last_ns = dict.fromkeys(Stream, now_ns)
            self._report_mode(self.modes.update(now_ns))
        while (due := self.due_ns) is not None and due <= now_ns:
            self._now_ns = max(due, self._now_ns)  # earlier where a setting was shortened
            self._report_mode(self.modes.update(self._now_ns))
            flush_due = self._flush_due_ns
            if flush_due is not None and flush_due <= self._now_ns:
                captures += self.flush()
        self._now_ns = now_ns
        return captures

    def flush(self) -> list[Capture[Payload]]:
        """Pair now what waits for a nearer frame, for example at the end of a bag."""
        return self._captures(self.pairer.flush())

    @property
    def due_ns(self) -> int | None:
        """Time of the next timeout that `watch` applies; None: never."""
        due = [at for at in (self.modes.due_ns, self._flush_due_ns) if at is not None]
        return min(due) if due else None

    def apply(self, settings: Settings) -> None:
        """Change the settings without losing the state of the streams."""
        if settings == self.settings:
            return
        _check(settings)
        before, self.settings = self.settings, settings
        self.pairer.set_slop(settings.sync_slop_ms or None)
        self.pairer.set_policy(settings.pairing)
        self.modes.stale_ns = round(settings.stale_ms * _MS)
        self.modes.fallback = settings.fallback_mode
        self._frozen.frozen_ns = round(settings.frozen_ms * _MS)
        given = (settings.learn_ir_time_offset, settings.ir_time_offset_ms)
        if given != (before.learn_ir_time_offset, before.ir_time_offset_ms):
            self.offsets.restart(round(settings.ir_time_offset_ms * _MS), settings.learn_ir_time_offset)
            self.offsets.rebase(self.by_arrival)
        was_by_arrival, self._clocks.pair_by = self.by_arrival, settings.pair_by
        if self.by_arrival is not was_by_arrival:
            self._rebase()
        self.pairer.offset_ns = self.offsets.pairing_ns(self.by_arrival)
        self._report_mode(self.modes.update(self._now_ns))

    # ---- state ---------------------------------------------------------------------------------------------------

    @property
    def by_arrival(self) -> bool:
        """Whether frames are paired by arrival times instead of stamps."""
        return self._clocks.by_arrival

    @property
    def ir_time_offset_ms(self) -> float:
        """Offset in use: given or learnt."""
        return self.pairer.offset_ns / _MS

    def drops(self) -> dict[str, int]:
        """Count frames without a capture by cause: `Pairer.drops` and "frozen_ir". Thread-safe."""
        # Copied in one step each, because another thread may be counting. Released frames became captures.
        drops = Counter({c: n for c, n in dict(self.pairer.drops).items() if not c.startswith("released_")})
        drops.update(dict(self._drops))
        return {cause: count for cause, count in drops.items() if count}

    def take_events(self) -> list[FeedEvent]:
        """Return new events for the log, in order."""
        events = list(self._events)
        self._events.clear()
        return events

    # ---- internals -----------------------------------------------------------------------------------------------

    @property
    def _flush_due_ns(self) -> int | None:
        """Time at which a waiting pair is made without a nearer frame; None: no pair waits."""
        if not self.pairer.could_pair:
            return None
        waits = []
        for stream, last in self._last_ns.items():
            period_ns = self.pairer.period_ns(stream) or self.pairer.period_ns(stream.other) or 0
            waits.append(last + round(max(_MIN_WAIT_NS, _PERIODS_TO_WAIT * period_ns)) + 1)
        return min(waits)

    def _repeats_image(self, pixels: np.ndarray, arrival_ns: int) -> bool:
        frozen = self._frozen(pixels, arrival_ns)
        if frozen and not self.ir_frozen:
            self._report(
                f"ir repeats one image for {self.settings.frozen_ms:g} ms: it counts as silent until the image changes "
                "(shutter calibration; for a simulated camera without noise set frozen_ms to 0)",
                arrival_ns,
            )
        self.ir_frozen = frozen
        return frozen

    def _time_ns(self, stream: Stream, arrival_ns: int) -> int:
        """Return the arrival time to pair by: strictly increasing unless time restarts."""
        last_ns = self._last_time_ns[stream]
        if last_ns - JUMP_MS * _MS <= arrival_ns <= last_ns:
            arrival_ns = last_ns + 1
        self._last_time_ns[stream] = arrival_ns
        return arrival_ns

    def _compare_clocks(self, stream: Stream, stamp_ns: int, arrival_ns: int) -> list[Capture[Payload]]:
        """Record a frame's times, learn the offset, and change the times to pair by."""
        was_by_arrival = self.by_arrival
        if self.settings.pair_by != "arrival":
            self._apply_offset_events(self.offsets.stamps(stream, stamp_ns, arrival_ns))
            self._clocks.push(stream, stamp_ns, arrival_ns, self.offsets.applied_ns)
            if self._clocks.incomparable is not self._reported_incomparable and self._is_due("clocks"):
                self._reported_incomparable = self._clocks.incomparable
                self._report(self._describe_clocks(), arrival_ns, warning=self._clocks.incomparable)
        if self.by_arrival is was_by_arrival:
            return []
        captures = self.flush()
        self._rebase()
        return captures

    def _rebase(self) -> None:
        """Begin to pair by other times."""
        self.pairer.clear()
        self._unseen.clear()
        self.offsets.rebase(self.by_arrival)
        self.pairer.offset_ns = self.offsets.pairing_ns(self.by_arrival)

    def _describe_clocks(self) -> str:
        if not self._clocks.incomparable:
            return "both cameras' stamps can be compared: frames are paired by their stamps"
        if self.by_arrival:
            done = "frames are paired by their times of arrival (pair_by auto)"
            remedy = "; let the driver stamp with the system's clock"
        else:
            done, remedy = "no frame finds a partner", ": set pair_by to auto or arrival"
        if self.settings.learn_ir_time_offset:
            remedy = " until the offset is learnt"
        return f"{self._clocks.describe(self.offsets.applied_ns)}, so {done}{remedy}"

    def _apply_offset_events(self, events: list[OffsetEvent]) -> None:
        for one in events:
            self._events.append(FeedEvent(one.text, one.warning, self._now_ns, offset=one.learnt))
        if events:
            self.pairer.offset_ns = self.offsets.pairing_ns(self.by_arrival)

    def _captures(self, pairs: list[Pair[Payload]]) -> list[Capture[Payload]]:
        for event in self.pairer.take_events():
            if not event.startswith(JUMP_EVENT) or self._is_due("jump"):
                self._report(event, self._now_ns)
        return [
            self._capture(pair.rgb, pair.ir, pair.rgb_stamp_ns, pair.ir_stamp_ns, pair.error_ns, pair.time_ns)
            for pair in pairs
        ]

    def _is_due(self, what: str) -> bool:
        """Return whether the last report of a frequent kind of event is long ago."""
        reported = self._reported_ns.get(what)
        if reported is not None and 0 <= self._now_ns - reported < _QUIET_NS:
            return False
        self._reported_ns[what] = self._now_ns
        return True

    def _alone(self, stream: Stream) -> list[Capture[Payload]]:
        waiting = self.pairer.release(stream)
        if not waiting:
            return []
        if len(waiting) > 1:  # they waited for a partner until the other camera was given up
            self._drops[f"unpaired_{stream.value}"] += len(waiting) - 1
        frame = waiting[-1]
        if stream is Stream.RGB:
            return [self._capture(frame.payload, None, frame.stamp_ns, None, None, frame.time_ns)]
        return [self._capture(None, frame.payload, None, frame.stamp_ns, None, frame.time_ns)]

    def _capture(
        self,
        rgb: Payload | None,
        ir: Payload | None,
        rgb_stamp_ns: int | None,
        ir_stamp_ns: int | None,
        error_ns: int | None,
        time_ns: int,
    ) -> Capture[Payload]:
        if self.pairer.restarts != self._restarts_seen:
            self._restarts_seen, self._jump_pending = self.pairer.restarts, True
        stamp_ns = rgb_stamp_ns if rgb_stamp_ns is not None else (ir_stamp_ns or 0) - self.offsets.applied_ns
        # A jump also yields pairs from before it: the first that is earlier than its predecessor is after it.
        after_jump = self._jump_pending and (self._last_capture_ns is None or stamp_ns < self._last_capture_ns)
        self._jump_pending &= not after_jump
        self._last_capture_ns = stamp_ns
        return Capture(rgb, ir, rgb_stamp_ns, ir_stamp_ns, error_ns, self._now_ns, after_jump, time_ns)

    def _report_mode(self, change: ModeChange | None) -> None:
        if change is None:
            return
        if change.mode is not Mode.FUSED:
            self.pairer.forget_last_pair()  # or RGB frames would be fused with it although its camera is given up
        text = f"mode {change.before.value} -> {change.mode.value}: {change.reason}"
        warning = change.mode is not Mode.FUSED and self._started  # before the first frame nothing is lost
        self._events.append(FeedEvent(text, warning, change.time_ns, change=change))

    def _report(self, text: str, time_ns: int, warning: bool = True) -> None:
        self._events.append(FeedEvent(text, warning, time_ns))


def _check(settings: Settings) -> None:
    for name in _CHECKED:
        check(name, getattr(settings, name))
