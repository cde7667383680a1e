"""Warnings that are said once and then at most every so often, however often their cause occurs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from spectradino_core.text import log_line

__all__ = ["Notices"]


class Notices:
    """Throttled logging by key. May be called from any thread.

    rclpy's own throttle goes by the calling line of code; here one line of code speaks of several topics and causes,
    and what was held back is counted and said with the next.
    """

    def __init__(self, logger: Any, period_s: float, clock: Callable[[], float] = monotonic) -> None:
        """
        Args:
            logger: has `info(text)`, `warning(text)` and `error(text)`.
            period_s: least time between two lines of one key.
            clock: seconds from anywhere, never going backwards.
        """
        self.period_s = period_s
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def warn(self, key: str, text: str, counted: bool = True) -> bool:
        """Logs a warning unless one of the same key was logged within the period.

        Args:
            key: what it is about.
            text: the line.
            counted: say with the next line how many were held back; not where a lasting state is looked at repeatedly.

        Returns:
            Whether it was logged.
        """
        line = self._due(key, text, counted)
        if line is not None:
            self._logger.warning(line)
        return line is not None

    def error(self, key: str, text: str) -> bool:
        """As `warn`, as an error."""
        line = self._due(key, text, counted=True)
        if line is not None:
            self._logger.error(line)
        return line is not None

    def info(self, key: str, text: str) -> bool:
        """As `warn`, as information."""
        line = self._due(key, text, counted=True)
        if line is not None:
            self._logger.info(line)
        return line is not None

    def forget(self) -> None:
        """The next notice of every key is said at once, as after a new start."""
        with self._lock:
            self._last.clear()
            self._held_back.clear()

    def _due(self, key: str, text: str, counted: bool) -> str | None:
        with self._lock:
            now = self._clock()
            last = self._last.get(key)
            if last is not None and now - last < self.period_s:
                self._held_back[key] = self._held_back.get(key, 0) + counted
                return None
            self._last[key] = now
            more = self._held_back.pop(key, 0)
        return log_line(f"{text} ({more} more since the last such line)" if more else text)
