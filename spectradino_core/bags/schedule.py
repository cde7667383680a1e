"""When two cameras of a made-up drive expose: their rates, phases, jitter, losses and ends."""

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
    """One camera's rhythm.

    Attributes:
        rate_hz: frames a second, > 0.
        phase_ms: its first frame comes so much after the drive's beginning.
        jitter_ms: standard deviation of each exposure's time; at most a third of a period comes of it. Stamps tell the
            true time.
        dropout: share of the frames that are lost, each by itself, 0 to 1.
        windows: (from, to) in seconds since the beginning: all frames in them are lost.
        start_s, stop_s: the camera runs from the one to the other; stop None: to the end.
        latency_ms: from exposure to the recorder.
        offset_ms: its clock stamps every moment so much later.
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
            raise BagError(f"a camera's rate lies in 0.01 to 1000 Hz, got {self.rate_hz:g}")
        if not 0 <= self.dropout <= 1:
            raise BagError(f"a dropout is a share of frames, 0 to 1, got {self.dropout:g}")
        if self.jitter_ms < 0 or self.latency_ms < 0 or self.start_s < 0:
            raise BagError("jitter, latency and start can't be negative")
        for begin, end in self.windows:
            if not 0 <= begin < end:
                raise BagError(f"a window without frames goes from one second to a later one, got {begin:g}:{end:g}")


def exposures(stream: Stream, schedule: CameraSchedule, duration_s: float, seed: int) -> list[int]:
    """The moments at which a camera exposes the frames that are recorded, in nanoseconds since the beginning.

    Args:
        stream: which camera: its jitter and losses are its own.
        schedule: its rhythm.
        duration_s: length of the drive, > 0.
        seed: of jitter and losses.

    Raises:
        BagError: no frame is left.
    """
    if not duration_s > 0:
        raise BagError(f"a drive has a length above 0 s, got {duration_s:g}")
    rng = np.random.default_rng([seed, 11, list(Stream).index(stream)])
    period = _S / schedule.rate_hz
    first = schedule.phase_ms * _MS % period
    count = max(0, int(np.ceil((duration_s * _S - first) / period)))
    # As many draws whatever is lost: the other frames are the same with and without a dropout.
    jitter = np.clip(rng.normal(0.0, 1.0, count) * schedule.jitter_ms * _MS, -period / 3, period / 3)
    lost = rng.random(count) < schedule.dropout
    times = np.maximum(first + np.arange(count) * period + jitter, 0.0)
    end_s = duration_s if schedule.stop_s is None else schedule.stop_s
    kept = ~lost & (times >= schedule.start_s * _S) & (times < end_s * _S)
    for begin, end in schedule.windows:
        kept &= (times < begin * _S) | (times >= end * _S)
    found = [round(t) for t in times[kept].tolist()]
    if not found:
        raise BagError(f"the {stream.value} camera is left without a single frame: lengthen the drive or lose less")
    return found
