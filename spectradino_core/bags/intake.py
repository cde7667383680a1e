"""Counts of a camera's messages in a recording, and of those that cannot be decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from spectradino_core.streams.decode import DecodeError

__all__ = ["CameraMessages", "nothing_read"]


@dataclass
class CameraMessages:
    """Messages of one camera, as far as a recording was read.

    Attributes:
        topic: the recorded topic.
        messages: number of messages.
        refused: number of messages that cannot be decoded, by cause.
        examples: the first error of each cause.
    """

    topic: str
    messages: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def refuse(self, error: DecodeError) -> None:
        """Count a message that cannot be decoded."""
        self.refused[error.cause] += 1
        self.examples.setdefault(error.cause, " ".join(str(error).split()))

    @property
    def is_unreadable(self) -> bool:
        """Whether there are messages and none of them can be decoded."""
        return 0 < self.messages <= self.refused.total()

    def __str__(self) -> str:
        text = f"{self.topic}: {self.messages} messages"
        if not self.refused:
            return text
        causes = "; ".join(f"{count} {cause}: {self.examples[cause]}" for cause, count in sorted(self.refused.items()))
        much = "none of them can be read" if self.is_unreadable else f"{self.refused.total()} of them cannot be read"
        remedy = '; convert the topic, or continue without the camera (--rgb-topic "" or --ir-topic "")'
        return f"{text}, {much} ({causes}){remedy if self.is_unreadable else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON data."""
        return {
            "topic": self.topic,
            "messages": self.messages,
            "refused": dict(sorted(self.refused.items())),
            "examples": dict(sorted(self.examples.items())),
        }


def nothing_read(cameras: Iterable[CameraMessages]) -> str:
    """Why no camera of a recording can be read; "" if one can, or there is none."""
    listed = list(cameras)
    if not listed or not all(camera.is_unreadable for camera in listed):
        return ""
    return "; ".join(map(str, listed))
