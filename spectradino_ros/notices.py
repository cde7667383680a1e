"""Log lines of the node: throttled ones, each kind at most once per period, and those of `spectradino_core`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from spectradino_core.text import log_line


class CoreWarnings(logging.Handler):
    """Passes warnings and errors of `spectradino_core` to a ROS logger, so that they carry its name and reach /rosout.

    It is in effect from its creation to `close`.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger
        logging.getLogger("spectradino_core").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = log_line(self.format(record))
            if record.levelno >= logging.ERROR:
                self._logger.error(line)
            else:
                self._logger.warning(line)  # on a line of its own: rclpy ties the severity to the line of code
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        logging.getLogger("spectradino_core").removeHandler(self)
        super().close()


class Notices:
    """Throttled logging by key, the subject of a line; thread-safe. Each method returns whether the line was logged.

    rclpy throttles by calling line of code. Here one line of code reports several topics and causes, and the number of
    suppressed lines is added to the next one, unless they are not `counted`, as of a state that is polled.
    """

    def __init__(self, logger: Any, period_s: float, clock: Callable[[], float] = monotonic) -> None:
        """`period_s` is the minimum time between two lines of one key."""
        self.period_s = period_s
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def info(self, key: str, text: str) -> bool:
        line = self._due(key, text, counted=True)
        if line is not None:
            self._logger.info(line)
        return line is not None

    def warn(self, key: str, text: str, counted: bool = True) -> bool:
        line = self._due(key, text, counted)
        if line is not None:
            self._logger.warning(line)
        return line is not None

    def error(self, key: str, text: str) -> bool:
        line = self._due(key, text, counted=True)
        if line is not None:
            self._logger.error(line)
        return line is not None

    def forget(self) -> None:
        """Reset the throttle of all keys, as at each activation."""
        with self._lock:
            self._last.clear()
            self._suppressed.clear()

    def _due(self, key: str, text: str, counted: bool) -> str | None:
        with self._lock:
            now = self._clock()
            last = self._last.get(key)
            if last is not None and now - last < self.period_s:
                self._suppressed[key] = self._suppressed.get(key, 0) + counted
                return None
            self._last[key] = now
            more = self._suppressed.pop(key, 0)
        return log_line(f"{text} ({more} more such lines suppressed)" if more else text)
