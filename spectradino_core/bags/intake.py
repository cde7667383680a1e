"""How many messages of a camera a recording holds, and why some of them can't be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from spectradino_core.streams.decode import DecodeError

__all__ = ["CameraMessages", "nothing_read"]


@dataclass
class CameraMessages:
    """The messages of one camera, as far as a recording was read.

    Attributes:
        topic: where they were recorded.
        messages: how many came.
        refused: how many of them can't be read, by cause.
        examples: the first refusal of each cause, in words.
    """

    topic: str
    messages: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def refuse(self, error: DecodeError) -> None:
        """Counts a message that can't be read."""
        self.refused[error.cause] += 1
        self.examples.setdefault(error.cause, " ".join(str(error).split()))

    @property
    def is_unreadable(self) -> bool:
        """Whether messages came and not one of them can be read."""
        return 0 < self.messages <= self.refused.total()

    def __str__(self) -> str:
        text = f"{self.topic}: {self.messages} messages"
        if not self.refused:
            return text
        causes = "; ".join(f"{count} {cause}: {self.examples[cause]}" for cause, count in sorted(self.refused.items()))
        much = "none of them can be read" if self.is_unreadable else f"{self.refused.total()} of them can't be read"
        remedy = '; convert the topic, or go on without the camera (--rgb-topic "" or --ir-topic "")'
        return f"{text}, {much} ({causes}){remedy if self.is_unreadable else ''}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "topic": self.topic,
            "messages": self.messages,
            "refused": dict(sorted(self.refused.items())),
            "examples": dict(sorted(self.examples.items())),
        }


def nothing_read(cameras: Iterable[CameraMessages]) -> str:
    """Why no camera of a recording can be read, in words; "" where one can, or there is none."""
    listed = list(cameras)
    if not listed or not all(camera.is_unreadable for camera in listed):
        return ""
    return "; ".join(map(str, listed))
