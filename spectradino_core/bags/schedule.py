"""Exposure times of the two cameras of a synthetic recording: rate, phase, jitter, losses, start and end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.bags.errors import BagError
from spectradino_core.streams.queues import Stream

__all__ = ["CameraSchedule", "exposures"]

_MS = 1_000_000
_S = 1_000_000_000


@dataclass(frozen=True)
class CameraSchedule:
    """Schedule of one camera.

    Attributes:
        rate_hz: frames per second, > 0.
        phase_ms: delay of the first frame from the start of the recording.
        jitter_ms: standard deviation of each exposure time, clipped at a third of the period. Stamps are the true
            exposure times.
        dropout: fraction of the frames lost independently, 0 to 1.
        windows: (from, to) in seconds from the start, in which all frames are lost.
        start_s, stop_s: the camera runs from start to stop; stop None: to the end.
        latency_ms: from exposure to the recorder.
        offset_ms: delay of the camera's clock, added to its stamps.
    """

    rate_hz: float
    phase_ms: float = 0.0
    jitter_ms: float = 0.0
    dropout: float = 0.0
    windows: tuple[tuple[float, float], ...] = ()
    start_s: float = 0.0
    stop_s: float | None = None
    latency_ms: float = 5.0
    offset_ms: float = 0.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.rate_hz <= 1000:
            raise BagError(f"a camera's rate must lie in 0.01 to 1000 Hz, got {self.rate_hz:g}")
        if not 0 <= self.dropout <= 1:
            raise BagError(f"a dropout must be a fraction of frames, 0 to 1, got {self.dropout:g}")
        if self.jitter_ms < 0 or self.latency_ms < 0 or self.start_s < 0:
            raise BagError("jitter, latency and start must not be negative")
        for begin, end in self.windows:
            if not 0 <= begin < end:
                raise BagError(f"a window without frames must be FROM:TO in rising seconds, got {begin:g}:{end:g}")


def exposures(stream: Stream, schedule: CameraSchedule, duration_s: float, seed: int) -> list[int]:
    """Exposure times of a camera's recorded frames, in nanoseconds from the start.

    Args:
        stream: which camera; each has its own jitter and losses.
        schedule: its schedule.
        duration_s: length of the recording, > 0.
        seed: of jitter and losses.

    Raises:
        BagError: no frame is left.
    """
    if not duration_s > 0:
        raise BagError(f"a recording must be longer than 0 s, got {duration_s:g}")
    rng = np.random.default_rng([seed, 11, list(Stream).index(stream)])
    period = _S / schedule.rate_hz
    first = schedule.phase_ms * _MS % period
    count = max(0, int(np.ceil((duration_s * _S - first) / period)))
    # The number of draws does not depend on losses: the other frames are the same with and without a dropout.
    jitter = np.clip(rng.normal(0.0, 1.0, count) * schedule.jitter_ms * _MS, -period / 3, period / 3)
    lost = rng.random(count) < schedule.dropout
    times = np.maximum(first + np.arange(count) * period + jitter, 0.0)
    end_s = duration_s if schedule.stop_s is None else schedule.stop_s
    kept = ~lost & (times >= schedule.start_s * _S) & (times < end_s * _S)
    for begin, end in schedule.windows:
        kept &= (times < begin * _S) | (times >= end * _S)
    found = [round(t) for t in times[kept].tolist()]
    if not found:
        raise BagError(f"no frame of the {stream.value} camera is left: lengthen the recording or lose fewer frames")
    return found
