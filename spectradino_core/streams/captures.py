"""Settings, captures and events of a `Feed`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from spectradino_core.runtime.perception_result import Mode
from spectradino_core.streams.clocks import pair_by_error
from spectradino_core.streams.modes import FALLBACKS, ModeChange
from spectradino_core.streams.offset import LearntOffset
from spectradino_core.streams.pairing import PAIRING
from spectradino_core.streams.queues import Payload

__all__ = ["Capture", "FeedEvent", "FeedSettings"]


@dataclass(frozen=True)
class FeedSettings:
    """Settings of a feed, named as the node's parameters.

    Attributes:
        pairing: one of `pairing.PAIRING`.
        sync_slop_ms: maximum distance of the frames of a pair; 0: derived from the slower camera's period.
        ir_time_offset_ms: how much later the infrared camera stamps the same moment.
        learn_ir_time_offset: learn that offset; until then `ir_time_offset_ms` holds.
        pair_by: one of `clocks.PAIR_BY`.
        stale_ms: a camera that is silent for longer counts as silent, > 0.
        fallback_mode: a key of `modes.FALLBACKS`.
        frozen_ms: an IR frame repeated for so long is a frozen camera; 0: never.

    Raises:
        ValueError: a value is out of its range; names it.
    """

    pairing: str = "latest"
    sync_slop_ms: float = 0.0
    ir_time_offset_ms: float = 0.0
    learn_ir_time_offset: bool = False
    pair_by: str = "auto"
    stale_ms: float = 1000.0
    fallback_mode: str = "auto"
    frozen_ms: float = 400.0

    def __post_init__(self) -> None:
        if self.pairing not in PAIRING:
            raise ValueError(f"pairing {self.pairing!r} is not one of {', '.join(PAIRING)}")
        if not self.stale_ms > 0:
            raise ValueError(f"stale_ms must be above 0, got {self.stale_ms}")
        for name in ("sync_slop_ms", "frozen_ms"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or above, got {getattr(self, name)}")
        if self.fallback_mode not in FALLBACKS:
            raise ValueError(f"fallback_mode {self.fallback_mode!r} is not one of {', '.join(FALLBACKS)}")
        if error := pair_by_error(self.pair_by):
            raise ValueError(error)


@dataclass(frozen=True)
class Capture(Generic[Payload]):
    """Input of one result.

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


@dataclass(frozen=True)
class FeedEvent:
    """Event for the log.

    Attributes:
        text: log line.
        warning: whether it is a problem.
        time_ns: time on the arrival clock.
        change: change of the mode, if it is one.
        offset: learnt offset, if it is one.
    """

    text: str
    warning: bool
    time_ns: int
    change: ModeChange | None = None
    offset: LearntOffset | None = None
