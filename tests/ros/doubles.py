"""What the node's smaller parts are tested with: a logger that keeps its lines, a clock that is set by hand."""

from __future__ import annotations

__all__ = ["Lines", "Seconds"]


class Lines(list):
    """Takes log lines as a logger does."""

    def warning(self, text: str) -> None:
        self.append(("warning", text))

    def error(self, text: str) -> None:
        self.append(("error", text))


class Seconds:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
