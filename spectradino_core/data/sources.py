"""Where pretraining finds its images: sources of items that several bands see at once.

A source is a sequence of items. Each shows one view in RGB and in at least one more modality: an infrared band, or a
"depth" or "segmentation" map (for the Omnivorous recipe). `ManifestSource` (in `manifest.py`) reads files,
`SceneSource` renders streets.

Letters: h w an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spectradino_core.data.images import ImageFileError
from spectradino_core.data.scenes import SceneOptions, render_scene
from spectradino_core.data.seeds import HELD_OUT
from spectradino_core.modality import INFRARED, Modality

__all__ = ["MAPS", "MODALITY_KEYS", "ImageSet", "ImageSource", "ItemError", "Moment", "SceneSource"]

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


class SceneSource:
    """Rendered streets: every band, depth and segmentation, pixel for pixel. Each is rendered once and kept."""

    frame_gap = 1

    def __init__(
        self,
        count: int,
        size: tuple[int, int] = (320, 256),
        bands: Sequence[Modality] = INFRARED,
        maps: Sequence[str] = MAPS,
        first: int = 0,
        misregistration_px: float = 1.5,
    ) -> None:
        """
        Args:
            count: how many streets; about 1.2 MB each at 320 x 256 with everything.
            size: (width, height) of the rendering, pixels.
            bands: infrared bands that an item offers.
            maps: of `MAPS`, what an item offers.
            first: seed of item 0.
            misregistration_px: greatest shift between RGB and infrared; real pairs are never perfect.

        Raises:
            ValueError: no scenes, or a map that scenes don't have.
        """
        if count < 1:
            raise ValueError(f"a source of {count} scenes has nothing to give")
        unknown = [key for key in maps if key not in MAPS]
        if unknown:
            raise ValueError(f"scenes have no {', '.join(unknown)}: choose of {', '.join(MAPS)}")
        self.name = f"scenes {first} to {first + count - 1}"
        self._count, self._size, self._first, self._misregistration = count, size, first, misregistration_px
        self._bands = tuple(Modality.parse(band) for band in bands)
        self._maps = tuple(maps)
        self._kept: dict[int, ImageSet] = {}

    @classmethod
    def held_out(cls, count: int, size: tuple[int, int] = (320, 256)) -> SceneSource:
        """Scenes that nothing is trained on, well registered, for judgements."""
        return cls(count, size, first=HELD_OUT["pretraining"], misregistration_px=0.0)

    def __len__(self) -> int:
        return self._count

    def modalities(self, item: int) -> tuple[str, ...]:
        return (*(band.key for band in self._bands), *self._maps)

    def moment(self, item: int) -> Moment:
        return Moment(f"street {self._first + item}", 0)

    def load(self, item: int, modalities: Sequence[str]) -> ImageSet:
        if item not in self._kept:
            self._kept[item] = self._render(item)
        kept = self._kept[item]
        return ImageSet({key: kept.images[key] for key in ("rgb", *modalities)}, kept.name)

    def forget(self, item: int) -> None:
        """Frees the memory of an item that won't be asked for again."""
        self._kept.pop(item, None)

    def _render(self, item: int) -> ImageSet:
        if not 0 <= item < self._count:
            raise IndexError(f"{self.name}: no item {item}")
        seed = self._first + item
        shift = float(np.random.default_rng(seed).uniform(0, self._misregistration))
        scene = render_scene(
            seed,
            SceneOptions(*self._size, bands=(Modality.RGB, *self._bands), misregistration_px=shift),
        )
        images = {band.key: image for band, image in scene.images.items()}
        if "depth" in self._maps:
            images["depth"] = scene.depth
        if "segmentation" in self._maps:
            images["segmentation"] = scene.mask
        return ImageSet(images, f"scene {seed} ({scene.time_of_day})")
