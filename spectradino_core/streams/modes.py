"""Mode of the node: the cameras in use, which change when a camera falls silent.

A camera is alive while its last frame is at most `stale_ms` old. A silent camera is alive again after `back_after`
frames without such a gap, so that a stuttering camera does not flip the mode. If it is lost again within 30 s, its
frames must come without a gap for 2 s, the next time 4 s, up to 32 s, so that lost messages do not flip it either. Both
cameras alive: FUSED; one: RGB_ONLY or IR_ONLY if the fallback allows it; otherwise STALE. At the start both count as
alive for `stale_ms`. A camera's very first frame makes it alive at once: its driver started late, it did not stutter.
If the first frame of both comes late, that is a new start, and the other camera has `stale_ms` again.

An infrared camera that repeats one image (its shutter closes for calibration for 1 to 3 s while the driver keeps
sending) is detected by `FrozenDetector` and counts as silent until the image changes.

There is no clock here: times in nanoseconds are passed in, of the clock by which frames are received. They are never
stamps, since a camera can be silent and its clock wrong at the same time.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectradino_core.runtime.perception_result import Mode
from spectradino_core.streams.queues import Stream

_MS = 1_000_000

FALLBACKS = {
    "auto": frozenset({Mode.RGB_ONLY, Mode.IR_ONLY}),
    "fused_only": frozenset(),
    "rgb_only": frozenset({Mode.RGB_ONLY}),
    "ir_only": frozenset({Mode.IR_ONLY}),
    "rgb_grid": frozenset({Mode.RGB_ONLY, Mode.IR_ONLY}),
}
"""Values of the parameter `fallback_mode`, and the modes with one camera that each allows.

"rgb_grid" allows infrared alone only while its results can be given in the RGB image's pixels, see `rgb_grid`.
"""

_PROBATION_NS = 30_000 * _MS
_STEADY_NS, _MAX_STEADY_NS = 1_000 * _MS, 32_000 * _MS

_STRIDE = 8  # of the pixels that are compared
_SINGLE_MODES = {Stream.RGB: Mode.RGB_ONLY, Stream.IR: Mode.IR_ONLY}


@dataclass(frozen=True)
class ModeChange:
    """A change of the mode, with the reason for the log."""

    mode: Mode
    before: Mode
    reason: str
    time_ns: int


@dataclass
class _Camera:
    """State of one camera."""

    last_frame_ns: int
    alive: bool = True
    streak: int = 0
    frozen: bool = False
    gap_ns: int = 0
    seen: bool = False
    refused_ns: int | None = None
    refusal: str = ""
    streak_since_ns: int = 0
    back_ns: int | None = None
    relapses: int = 0

    def mark_silent(self, now_ns: int) -> None:
        """Mark the camera as silent; if it was back only for a short time, it must be steady for longer next time."""
        is_relapse = self.back_ns is not None and now_ns - self.back_ns < _PROBATION_NS
        self.relapses = self.relapses + 1 if is_relapse else 0
        self.alive, self.streak = False, 0

    @property
    def steady_ns(self) -> int:
        """Time without a gap before the camera is alive again."""
        return min(_STEADY_NS << min(self.relapses, 8), _MAX_STEADY_NS) if self.relapses else 0


class ModeMachine:
    """Decides the mode by arrival times. Call `frame` for each frame and `update` periodically or at `due_ns`."""

    def __init__(self, now_ns: int, stale_ms: float, fallback: str = "auto", back_after: int = 3) -> None:
        """
        Args:
            now_ns: time at which it begins to wait for frames.
            stale_ms, fallback: the parameters `stale_ms` and `fallback_mode`.
            back_after: number of frames after which a silent camera is alive again, >= 1.
        """
        self.stale_ns = round(stale_ms * _MS)
        self.back_after = back_after
        self.fallback = fallback
        self.rgb_grid = False
        self.mode = Mode.FUSED
        self._restart(now_ns)

    @property
    def reason(self) -> str:
        """Reason for the current mode."""
        return self._reason(self.mode, [stream for stream, camera in self._cameras.items() if camera.alive])

    def frame(self, stream: Stream | str, now_ns: int, frozen: bool = False) -> ModeChange | None:
        """Record a frame received at `now_ns`; returns the change of the mode that follows, if any.

        `frozen`: `FrozenDetector` found that its image is repeated.
        """
        self._advance(now_ns)
        if not any(camera.seen for camera in self._cameras.values()):
            self._restart(now_ns)
        camera = self._cameras[Stream(stream)]
        first = not camera.seen
        camera.gap_ns = now_ns - camera.last_frame_ns
        camera.last_frame_ns, camera.seen, camera.frozen, camera.refused_ns = now_ns, True, frozen, None
        if frozen:
            camera.alive, camera.streak = False, 0
        else:
            camera.streak = camera.streak + 1 if camera.gap_ns <= self.stale_ns else 1
            if camera.streak == 1:
                camera.streak_since_ns = now_ns
            is_steady = now_ns - camera.streak_since_ns >= camera.steady_ns
            if not camera.alive and (first or (camera.streak >= self.back_after and is_steady)):
                camera.alive, camera.back_ns = True, None if first else now_ns
        return self._decide()

    def refused(self, stream: Stream | str, now_ns: int, reason: str) -> ModeChange | None:
        """Record a frame received at `now_ns` that cannot be used.

        Such a frame does not keep its camera alive, but the reason for a mode names the refusal, `reason`, instead of
        silence. Returns the change of the mode that follows from the time, if any.
        """
        self._advance(now_ns)
        camera = self._cameras[Stream(stream)]
        camera.refused_ns, camera.refusal = now_ns, reason
        return self._decide()

    def update(self, now_ns: int) -> ModeChange | None:
        """Advance the time to `now_ns`; returns the change of the mode that follows, if any."""
        self._advance(now_ns)
        return self._decide()

    @property
    def due_ns(self) -> int | None:
        """Next time at which `update` changes the mode without a frame; None: never."""
        due = [camera.last_frame_ns + self.stale_ns + 1 for camera in self._cameras.values() if camera.alive]
        return min(due) if due else None

    def is_alive(self, stream: Stream | str) -> bool:
        """Return whether a camera counts as alive."""
        return self._cameras[Stream(stream)].alive

    def _restart(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self._cameras = {stream: _Camera(last_frame_ns=now_ns) for stream in Stream}

    def _advance(self, now_ns: int) -> None:
        if now_ns < self._now_ns:  # simulated time restarted
            self._restart(now_ns)
        self._now_ns = now_ns
        for camera in self._cameras.values():
            if camera.alive and now_ns - camera.last_frame_ns > self.stale_ns:
                camera.mark_silent(now_ns)

    def _decide(self) -> ModeChange | None:
        alive_streams = [stream for stream, camera in self._cameras.items() if camera.alive]
        mode = Mode.FUSED if len(alive_streams) == 2 else Mode.STALE
        if len(alive_streams) == 1 and self._is_allowed(alive_streams[0]):
            mode = _SINGLE_MODES[alive_streams[0]]
        if mode is self.mode:
            return None
        before, self.mode = self.mode, mode
        return ModeChange(mode, before, self._reason(mode, alive_streams), self._now_ns)

    def _is_allowed(self, stream: Stream) -> bool:
        if self.fallback == "rgb_grid" and stream is Stream.IR and not self.rgb_grid:
            return False
        return _SINGLE_MODES[stream] in FALLBACKS[self.fallback]

    def _reason(self, mode: Mode, alive_streams: list[Stream]) -> str:
        if mode is Mode.FUSED:
            unseen = [stream.value for stream, camera in self._cameras.items() if not camera.seen]
            if len(unseen) == 2:
                return "started: waiting for both cameras"
            return f"waiting for the first {unseen[0]} frame" if unseen else "both cameras are alive"
        silent = "; ".join(self._describe_silence(s) for s in Stream if s not in alive_streams)
        if mode is Mode.STALE and alive_streams:
            reason = ", as no registration to the RGB image is known" if self.fallback == "rgb_grid" else ""
            return f"{silent}; fallback_mode {self.fallback} does not allow {alive_streams[0].value} alone{reason}"
        return silent

    def _describe_silence(self, stream: Stream) -> str:
        camera = self._cameras[stream]
        age_ms, stale_ms = (self._now_ns - camera.last_frame_ns) / _MS, self.stale_ns / _MS
        if camera.refused_ns is not None and self._now_ns - camera.refused_ns <= self.stale_ns:
            return f"{stream.value} sends frames that are refused ({camera.refusal})"
        if camera.streak and age_ms <= stale_ms:
            if camera.streak < self.back_after:
                return f"{stream.value} is coming back: {camera.streak} of {self.back_after} frames received"
            return (
                f"{stream.value} was lost {camera.relapses} times soon after it came back: its frames must arrive "
                f"without a gap for {camera.steady_ns / 1e9:g} s"
            )
        if not camera.seen:
            return f"{stream.value} has sent nothing for {age_ms:.0f} ms (stale_ms {stale_ms:g})"
        if camera.frozen:
            return f"{stream.value} repeats one image (shutter calibration, or it hangs)"
        text = f"{stream.value} is silent for {age_ms:.0f} ms (stale_ms {stale_ms:g})"
        if camera.gap_ns > self.stale_ns:
            text += f"; its frames arrive {camera.gap_ns / _MS:.0f} ms apart, stale_ms should be well above that"
        return text


class FrozenDetector:
    """Detection of a stream that repeats one image, by a checksum of every 8th pixel in both directions.

    Sensor noise changes some of these thousands of pixels in every real frame. Cameras that send each image two or
    three times by design (27 Hz from a 9 Hz sensor) repeat for less than `frozen_ms`; 0: nothing counts as frozen.
    """

    def __init__(self, frozen_ms: float) -> None:
        self.frozen_ns = round(frozen_ms * _MS)
        self.repeats = 0
        self._seen: tuple[Any, ...] | None = None
        self._since_ns = 0

    def __call__(self, frame: np.ndarray, now_ns: int) -> bool:
        """Return whether the image [h, w, ...], of any type, received at `now_ns` has not changed for `frozen_ms`."""
        sample = np.ascontiguousarray(frame[::_STRIDE, ::_STRIDE])
        seen = (frame.shape, frame.dtype.str, zlib.crc32(sample.tobytes()))
        if seen != self._seen or now_ns < self._since_ns:
            self._seen, self._since_ns, self.repeats = seen, now_ns, 0
            return False
        self.repeats += 1
        return bool(self.frozen_ns) and now_ns - self._since_ns >= self.frozen_ns
