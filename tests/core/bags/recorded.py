"""Bags for tests, message by message, with any arrival time, stamp and content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.bags.messages import compressed_message, header, image_message
from spectradino_core.bags.writer import BagWriter

__all__ = ["IR", "MS", "RGB", "SIZE", "START_NS", "Row", "hot", "pairs", "record", "red"]

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000
SIZE = (112, 84)
"""(width, height) of both cameras, and of the blob model's input, so that boxes come back exactly."""
RGB, IR = "/rgb/image_raw", "/ir/image_raw"


@dataclass
class Row:
    """One message to record: `form` is "raw", "png" or "jpeg"; `raw` bytes replace the message."""

    topic: str
    stamp_ns: int
    received_ns: int
    pixels: np.ndarray
    form: str = "raw"
    change: tuple[tuple[str, Any], ...] = ()
    raw: bytes | None = None

    @property
    def kind(self) -> str:
        return f"sensor_msgs/msg/{'Image' if self.form == 'raw' else 'CompressedImage'}"

    def message(self) -> Any:
        head = header(self.stamp_ns, "camera")
        if self.form == "raw":
            message = image_message(self.pixels, head)
        else:
            message = compressed_message(self.pixels, head, self.form)
        for name, value in self.change:
            setattr(message, name, value)
        return message


def red(at: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Dark RGB image with a red square of 20 pixels."""
    pixels = np.full((size[1], size[0], 3), 60, np.uint8)
    x = 4 + 3 * at % (size[0] - 28)
    pixels[10:30, x : x + 20] = (255, 0, 0)
    return pixels


def hot(at: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Cold, noisy 16-bit IR image with a hot square of 20 pixels."""
    pixels = np.random.default_rng(at).integers(1000, 1100, (size[1], size[0])).astype(np.uint16)
    x = 80 - 2 * at % 60
    pixels[50:70, x : x + 20] = 30000
    return pixels


def pairs(count: int, period_ms: int = 100, form: str = "raw", first: int = 0, shift_ns: int = 0) -> list[Row]:
    """Pairs one period apart; IR is 4 ms late, and each is recorded 3 ms after its stamp."""
    rows = []
    suffix = "" if form == "raw" else "/compressed"
    for n in range(first, first + count):
        stamp = START_NS + n * period_ms * MS + shift_ns
        rows.append(Row(RGB + suffix, stamp, stamp + 3 * MS, red(n), form))
        rows.append(Row(IR + suffix, stamp + 4 * MS, stamp + 7 * MS, hot(n), form))
    return rows


def record(path: Path, rows: Iterable[Row], storage: str | None = None, compression: str = "none") -> Path:
    """Write the rows in order of arrival."""
    listed = sorted(rows, key=lambda row: row.received_ns)
    with BagWriter(path, storage, compression) as writer:
        for row in listed:
            writer.add(row.topic, row.kind)
            if row.raw is None:
                writer.write(row.topic, row.message(), row.received_ns)
            else:
                writer.write_raw(row.topic, row.raw, row.received_ns)
    return path
