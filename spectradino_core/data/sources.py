"""Image sources of pretraining: sequences of items, each with several modalities of one view.

An item has RGB and at least one more modality: an infrared band, or a "depth" or "segmentation" map (for the Omnivorous
recipe). `ManifestSource` (in `manifest.py`) reads files, `SceneImages` (in `scene_sets.py`) renders scenes.

Letters: h x w image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spectradino_core.data.images import ImageFileError
from spectradino_core.modality import INFRARED, Modality

MAPS = ("depth", "segmentation")
"""Modalities that are not bands: distance to the surface in metres (or a monotone function of it), class indices."""

MODALITY_KEYS = (*(band.key for band in Modality), *MAPS)
"""Allowed keys of an item's images."""


class ItemError(ImageFileError):
    """A file of an item is missing or damaged. Training skips, counts and reports the item."""


@dataclass
class ImageSet:
    """Images of one item by modality key, with the same field of view but possibly different sizes.

    "rgb": uint8 [h, w, 3]; infrared: raw counts, uint8 or uint16 [h, w]; "depth": uint8, uint16 or float32 [h, w], 0
    where unknown; "segmentation": uint8 [h, w], 255 where unlabelled. The name says the origin of the item, for
    messages.
    """

    images: dict[str, np.ndarray]
    name: str


@dataclass(frozen=True)
class FramePosition:
    """Recording and frame of an item, used to keep neighbouring frames in different batches.

    Items of different sequences are unrelated. An unknown frame counts as a neighbour of all others of its sequence.
    """

    sequence: str
    frame: int | None = None


class ImageSource(Protocol):
    """Items by index, 0 to len - 1."""

    name: str
    frame_gap: int
    """Items of one sequence that are fewer frames apart are too similar to share a batch."""

    def __len__(self) -> int: ...

    def modalities(self, item: int) -> Sequence[str]:
        """Return the keys of the modalities beside RGB without reading an image."""
        ...

    def position(self, item: int) -> FramePosition: ...

    def load(self, item: int, modalities: Sequence[str]) -> ImageSet:
        """Load RGB and the given modalities; raises ItemError if this item is missing or damaged."""
        ...


def infrared_keys(names: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of infrared bands by name, as given on a command line; raises ValueError for none or others."""
    known = [band.key for band in INFRARED]
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        fault = f"{wrong[0]!r} is no infrared band" if wrong else "no infrared band is named"
        raise ValueError(f"{fault}: choose from {', '.join(known)}")
    return tuple(key for key in known if key in names)


def fingerprint(source: ImageSource) -> str:
    """Return a hash of what a source lists: its own (`fingerprint`), or one of its name and its items' modalities."""
    own = getattr(source, "fingerprint", None)
    if own is not None:
        return str(own())
    digest = hashlib.sha256(source.name.encode())
    for item in range(len(source)):
        digest.update(",".join(source.modalities(item)).encode() + b"\n")
    return digest.hexdigest()


def refuse_overlap(training: Sequence[ImageSource], validation: Sequence[ImageSource]) -> None:
    """Raise ValueError for validation items that are trained on; compares sources that have `identity`."""
    trained = set(_identities(training))
    common = sorted(trained.intersection(_identities(validation)))
    if common:
        raise ValueError(
            f"{len(common)} validation items are training items too, for example {common[0]}: validate on others "
            "(--val-manifest), or remove them from the training data"
        )


def _identities(sources: Sequence[ImageSource]) -> Iterator[str]:
    for source in sources:
        identity = getattr(source, "identity", None)
        if identity is not None:
            yield from (identity(item) for item in range(len(source)))
