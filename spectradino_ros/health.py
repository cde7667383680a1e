"""How the node is doing: what it counts, and the same as a diagnostics message once a second."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

__all__ = ["Health"]

_WINDOW_S = 10.0
_RATE_WINDOW_S = 5.0
_LATENCIES = 300
_TOLERATED_LATE = 0.05
"""Share of the last answers that may miss the deadline without a warning."""
_FRAMES_OF_INVALID = 30
_TOLERATED_INVALID = 0.2
"""Fraction of an infrared frame's pixels that may be no measurement without a warning."""
_BY_DESIGN = ("overload", "engine_rebuilding", "engine_lost")
"""Drops that are no warning here: what they mean is said elsewhere."""


class Health:
    """Counts of one activation: messages and their rates, answers, drops by cause, latencies. Safe from any thread."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """
        Args:
            clock: seconds from anywhere, never going backwards.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Starts anew, as at each activation."""
        with self._lock:
            self._since = self._clock()
            self._arrivals: dict[str, deque[float]] = {}
            self._totals: Counter[str] = Counter()
            self._drops: Counter[str] = Counter()
            self._last_drop: dict[str, float] = {}
            self._latencies: deque[float] = deque(maxlen=_LATENCIES)
            self._missed: deque[bool] = deque(maxlen=_LATENCIES)
            self._ir_invalid: deque[float] = deque(maxlen=_FRAMES_OF_INVALID)
            self._late = 0
            self._errors = 0
            self._unanswered = 0

    def arrived(self, what: str) -> None:
        """A message of a camera came, by the camera's key."""
        now = self._clock()
        with self._lock:
            self._totals[what] += 1
            self._unanswered = 0 if what == "answers" else self._unanswered + 1
            self._arrivals.setdefault(what, deque(maxlen=1000)).append(now)

    def dropped(self, cause: str, count: int = 1) -> None:
        """Frames went unused."""
        with self._lock:
            self._drops[cause] += count
            self._last_drop[cause] = self._clock()

    def failed(self) -> None:
        """Inference raised an exception."""
        with self._lock:
            self._errors += 1

    def answered(self, latency_ms: float, in_time: bool) -> None:
        """An answer was made, so long after its stamp."""
        self.arrived("answers")
        with self._lock:
            self._latencies.append(latency_ms)
            self._missed.append(not in_time)
            self._late += not in_time

    def invalid_pixels(self, fraction: float) -> None:
        """Such a fraction of an infrared frame's pixels, 0..1, was no measurement."""
        with self._lock:
            self._ir_invalid.append(fraction)

    def drops(self) -> dict[str, int]:
        """Frames dropped by cause since the last reset."""
        with self._lock:
            return dict(self._drops)

    def total(self, what: str) -> int:
        """How many of a kind there were since the last reset."""
        with self._lock:
            return self._totals[what]

    @property
    def unanswered(self) -> int:
        """How many messages of the cameras came since the last answer."""
        with self._lock:
            return self._unanswered

    def silent_for(self, what: str) -> float:
        """Seconds since the last of a kind, or since the reset where there was none."""
        with self._lock:
            times = self._arrivals.get(what)
            return self._clock() - (times[-1] if times else self._since)

    def rate(self, what: str) -> float:
        """How many of a kind a second there were lately [Hz]; 0 with fewer than two, and once they have ceased."""
        with self._lock:
            return self._rate(what)

    def _rate(self, what: str) -> float:
        times = self._arrivals.get(what)
        if times is None or len(times) < 2:
            return 0.0
        now = self._clock()
        recent = [t for t in times if t >= now - _RATE_WINDOW_S]
        if len(recent) < 2 and now - times[-1] <= 2 * (times[-1] - times[-2]):
            recent = [times[-2], times[-1]]  # slower than the window, and not overdue
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return 0.0
        intervals, span = len(recent) - 1, recent[-1] - recent[0]
        # Silence of more than two intervals counts, so that the rate of a camera that died falls to 0 with the window.
        return intervals / span if now - times[-1] <= 2 * span / intervals else intervals / (now - recent[0])

    def diagnostics(
        self,
        name: str,
        node: str,
        state: str,
        facts: Mapping[str, str],
        inputs: Mapping[str, str],
        drops: Mapping[str, int],
        timeout_s: float,
        problems: Sequence[tuple[bytes, str]] = (),
    ) -> DiagnosticArray:
        """One status; its header's stamp is left to the caller.

        Args:
            name: the status's name, by convention "node: what".
            node: the node's full name, which tells several of them apart.
            state: the lifecycle state.
            facts: key values that are not counted here, such as model and engine.
            inputs: topic names of the cameras by the key under which their messages were counted.
            drops: all drops by cause, also those counted elsewhere.
            timeout_s: a camera silent for longer makes it a warning.
            problems: levels and texts of what is wrong that is not counted here.
        """
        with self._lock:
            oldest = self._clock() - _WINDOW_S
            refused = sorted(c for c, at in self._last_drop.items() if at >= oldest and c not in _BY_DESIGN)
            missed = sum(self._missed) / len(self._missed) if self._missed else 0.0
            totals = dict(self._totals)
            ir_invalid = sum(self._ir_invalid) / len(self._ir_invalid) if self._ir_invalid else None
            latencies, late, errors = list(self._latencies), self._late, self._errors
            rates = {what: self._rate(what) for what in (*inputs, "answers")}
        silent = [topic for what, topic in inputs.items() if self.silent_for(what) > timeout_s]
        values = {"state": state, **facts}
        for what, topic in inputs.items():
            values[f"{topic} rate [Hz]"] = f"{rates[what]:.2f}"
            values[f"{topic} messages"] = str(totals.get(what, 0))
            values[f"{topic} age [s]"] = f"{self.silent_for(what):.2f}" if totals.get(what) else "never"
        values["answers rate [Hz]"] = f"{rates['answers']:.2f}"
        values["answers"] = str(totals.get("answers", 0))
        if latencies:
            for share, value in zip((50, 95, 99), np.percentile(latencies, (50, 95, 99)), strict=True):
                values[f"latency p{share} [ms]"] = f"{value:.1f}"
        values["deadline missed"] = str(late)
        values["inference errors"] = str(errors)
        values["ir invalid pixels [%]"] = "no frame yet" if ir_invalid is None else f"{100 * ir_invalid:.2f}"
        values |= {f"dropped: {cause}": str(count) for cause, count in sorted(drops.items())}

        found = list(problems)
        if state == "active":
            if silent:
                found.append((DiagnosticStatus.WARN, f"no message on {', '.join(silent)}"))
            if refused:  # of one frame a warning; where nothing else comes, it is what keeps the node from its work
                level = DiagnosticStatus.WARN if rates["answers"] else DiagnosticStatus.ERROR
                found.append((level, f"dropped lately: {', '.join(refused)}"))
            if missed > _TOLERATED_LATE:
                found.append((DiagnosticStatus.WARN, f"{missed:.0%} of the last answers missed the deadline"))
            if ir_invalid is not None and ir_invalid > _TOLERATED_INVALID:
                text = (
                    f"{ir_invalid:.0%} of the infrared pixels are no measurement: check lens, shutter and "
                    "rectification, crop a border with ir_crop, or set ir_invalid_counts if these counts are real"
                )
                found.append((DiagnosticStatus.WARN, text))
            if not found and rates["answers"] == 0.0:
                found.append((DiagnosticStatus.WARN, f"no answer {'lately' if totals.get('answers') else 'yet'}"))
        level = max((level for level, _ in found), default=DiagnosticStatus.OK)
        text = "; ".join(text for _, text in sorted(found, key=lambda one: one[0], reverse=True))
        if not text:
            text = f"{rates['answers']:.1f} answers/s" if state == "active" else state
        status = DiagnosticStatus(
            level=level,
            name=name,
            message=text,
            hardware_id=node,
            values=[KeyValue(key=k, value=v) for k, v in values.items()],
        )
        return DiagnosticArray(status=[status])
