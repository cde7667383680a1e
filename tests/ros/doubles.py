"""Test doubles of the node's parts: a logger that keeps its lines, and a manual clock."""

from __future__ import annotations

__all__ = ["Lines", "Seconds"]


class Lines(list):
    """Logger that keeps its lines."""

    def warning(self, text: str) -> None:
        self.append(("warning", text))

    def error(self, text: str) -> None:
        self.append(("error", text))


class Seconds:
    """Manual clock."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
