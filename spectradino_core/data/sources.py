"""Where pretraining finds its images: sources of items that several bands see at once.

A source is a sequence of items. Each shows one view in RGB and in at least one more modality: an infrared band, or a
"depth" or "segmentation" map (for the Omnivorous recipe). `ManifestSource` (in `manifest.py`) reads files,
`SceneImages` (in `scene_sets.py`) renders scenes.

Letters: h w an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spectradino_core.data.images import ImageFileError
from spectradino_core.modality import Modality

__all__ = ["MAPS", "MODALITY_KEYS", "ImageSet", "ImageSource", "ItemError", "Moment"]

MAPS = ("depth", "segmentation")
"""Modalities that are no band: metres (or any monotone measure) to the surface, and class numbers."""

MODALITY_KEYS = (*(band.key for band in Modality), *MAPS)
"""What an image of an item may be called."""


class ItemError(ImageFileError):
    """One item can't be used: its file is missing or damaged. Training leaves it out, counts it, and says so."""


@dataclass
class ImageSet:
    """One item's images. They show the same field of view; their pixel counts may differ.

    Attributes:
        images: by modality key. "rgb": uint8 [h, w, 3]; infrared: raw counts, uint8 or uint16 [h, w]; "depth": uint8,
            uint16 or float32 [h, w], 0 where unknown; "segmentation": uint8 [h, w], 255 where unlabelled.
        name: where it came from, for messages.
    """

    images: dict[str, np.ndarray]
    name: str


@dataclass(frozen=True)
class Moment:
    """Where in a recording an item was taken, so that neighbours can be kept apart.

    Attributes:
        sequence: the recording's name; items of different sequences are unrelated.
        frame: place in it; None: unknown, so every other item of the sequence may be a neighbour.
    """

    sequence: str
    frame: int | None = None


class ImageSource(Protocol):
    """Items by number, 0 to len - 1."""

    name: str
    frame_gap: int
    """Items of one sequence that are fewer frames apart than this show much the same; they don't meet in a batch."""

    def __len__(self) -> int: ...

    def modalities(self, item: int) -> Sequence[str]:
        """Keys of what there is beside RGB; known without reading an image."""
        ...

    def moment(self, item: int) -> Moment: ...

    def load(self, item: int, modalities: Sequence[str]) -> ImageSet:
        """RGB and the modalities asked for.

        Raises:
            ItemError: this item is damaged; others may be sound.
        """
        ...
