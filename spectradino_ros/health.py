"""Counters of the node: messages, results, drops and latencies, published as diagnostics."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

_WINDOW_S = 10.0
_RATE_WINDOW_S = 5.0
_LATENCIES = 300
_TOLERATED_LATE = 0.05
"""Fraction of the last results that may miss the deadline without a warning."""
_FRAMES_OF_INVALID = 30
_TOLERATED_INVALID = 0.2
"""Fraction of an IR frame's pixels that may be invalid without a warning."""
_BY_DESIGN = ("overload", "engine_rebuilding", "engine_lost", "disabled", "max_rate")
"""Drops that cause no warning in diagnostics, because they are wanted or reported elsewhere."""


class Health:
    """Counters of one activation: messages, results, drops and latencies; thread-safe."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Reset all counters; called at each activation."""
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
            self._since_result = 0

    def arrived(self, what: str) -> None:
        """Count a message of the camera with key `what`."""
        now = self._clock()
        with self._lock:
            self._totals[what] += 1
            self._since_result = 0 if what == "answers" else self._since_result + 1
            self._arrivals.setdefault(what, deque(maxlen=1000)).append(now)

    def resumed(self) -> None:
        """Restart the time without a result, as when inference is enabled again."""
        with self._lock:
            self._since, self._since_result = self._clock(), 0
            self._arrivals.pop("answers", None)

    def dropped(self, cause: str, count: int = 1) -> None:
        """Count dropped frames."""
        with self._lock:
            self._drops[cause] += count
            self._last_drop[cause] = self._clock()

    def failed(self) -> None:
        """Count an exception raised by inference."""
        with self._lock:
            self._errors += 1

    def count_result(self, latency_ms: float, in_time: bool) -> None:
        """Count a result, with its latency from the header stamp and whether it met the deadline."""
        self.arrived("answers")
        with self._lock:
            self._latencies.append(latency_ms)
            self._missed.append(not in_time)
            self._late += not in_time

    def invalid_pixels(self, fraction: float) -> None:
        """Record the fraction of invalid pixels of an IR frame, 0..1."""
        with self._lock:
            self._ir_invalid.append(fraction)

    def drops(self) -> dict[str, int]:
        """Number of frames dropped since the last reset, by cause."""
        with self._lock:
            return dict(self._drops)

    def total(self, what: str) -> int:
        """Number of messages of a camera ("rgb", "ir") or of results ("answers") since the last reset."""
        with self._lock:
            return self._totals[what]

    @property
    def messages_since_result(self) -> int:
        """Number of camera messages since the last result."""
        with self._lock:
            return self._since_result

    def seconds_silent(self, what: str) -> float:
        """Seconds since the last message of `what`, or since the reset if there was none; see `total`."""
        with self._lock:
            times = self._arrivals.get(what)
            return self._clock() - (times[-1] if times else self._since)

    def rate(self, what: str) -> float:
        """Recent rate of `what` in Hz; 0 with fewer than two messages and after they have ceased."""
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
        # Silence longer than two intervals counts, so that a dead camera's rate falls to 0 within the window.
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
        """Make a diagnostics message with one status; the caller sets its header's stamp.

        Args:
            name: the status's name, by convention "node: what".
            node: the node's fully qualified name, used as hardware id.
            state: the lifecycle state.
            facts: further key values, such as model and engine.
            inputs: camera topics by the key under which their messages are counted.
            drops: number of all dropped frames, by cause.
            timeout_s: a camera that is silent for longer causes a warning.
            problems: levels and texts of further problems.
        """
        with self._lock:
            oldest = self._clock() - _WINDOW_S
            refused = sorted(c for c, at in self._last_drop.items() if at >= oldest and c not in _BY_DESIGN)
            missed = sum(self._missed) / len(self._missed) if self._missed else 0.0
            totals = dict(self._totals)
            ir_invalid = sum(self._ir_invalid) / len(self._ir_invalid) if self._ir_invalid else None
            latencies, late, errors = list(self._latencies), self._late, self._errors
            rates = {what: self._rate(what) for what in (*inputs, "answers")}
        silent = [topic for what, topic in inputs.items() if self.seconds_silent(what) > timeout_s]
        values = {"state": state, **facts}
        for what, topic in inputs.items():
            values[f"{topic} rate [Hz]"] = f"{rates[what]:.2f}"
            values[f"{topic} messages"] = str(totals.get(what, 0))
            values[f"{topic} age [s]"] = f"{self.seconds_silent(what):.2f}" if totals.get(what) else "never"
        values["answers rate [Hz]"] = f"{rates['answers']:.2f}"
        values["answers"] = str(totals.get("answers", 0))
        if latencies:
            for percentile, value in zip((50, 95, 99), np.percentile(latencies, (50, 95, 99)), strict=True):
                values[f"latency p{percentile} [ms]"] = f"{value:.1f}"
        values["deadline missed"] = str(late)
        values["inference errors"] = str(errors)
        values["ir invalid pixels [%]"] = "no frame yet" if ir_invalid is None else f"{100 * ir_invalid:.2f}"
        values |= {f"dropped: {cause}": str(count) for cause, count in sorted(drops.items())}

        found = list(problems)
        if state == "active":
            if silent:
                found.append((DiagnosticStatus.WARN, f"no message on {', '.join(silent)}"))
            if refused:  # an error where drops are the only outcome
                level = DiagnosticStatus.WARN if rates["answers"] else DiagnosticStatus.ERROR
                found.append((level, f"dropped lately: {', '.join(refused)}"))
            if missed > _TOLERATED_LATE:
                found.append((DiagnosticStatus.WARN, f"{missed:.0%} of the last answers missed the deadline"))
            if ir_invalid is not None and ir_invalid > _TOLERATED_INVALID:
                remedy = "crop a border with ir_crop, or set ir_invalid_counts if these counts are valid"
                text = f"{ir_invalid:.0%} of the infrared pixels are invalid: check lens, shutter and rectification"
                found.append((DiagnosticStatus.WARN, f"{text}, {remedy}"))
            if not found and rates["answers"] == 0.0:
                found.append((DiagnosticStatus.WARN, f"no answer {'lately' if totals.get('answers') else 'yet'}"))
        level = max((level for level, _ in found), default=DiagnosticStatus.OK)
        text = "; ".join(text for _, text in sorted(found, key=lambda one: one[0], reverse=True))
        if not text:
            text = f"{rates['answers']:.1f} answers/s" if state == "active" else state
        pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
        status = DiagnosticStatus(level=level, name=name, message=text, hardware_id=node, values=pairs)
        return DiagnosticArray(status=[status])
