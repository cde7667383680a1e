"""Where training pairs come from: sources mixed by weight, or the pairs of one labelled set, epoch by epoch.

Sample i of a run is a pure function of (seed, i): the same whichever worker draws it, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from spectradino_core.data.augment import Augmentation, augment, shrink
from spectradino_core.data.sample import PairedSample

__all__ = [
    "ColourOnly",
    "Epochs",
    "IndexedPairs",
    "KeptPairs",
    "Mixture",
    "Source",
]


class Source(Protocol):
    """Labelled pairs by their place, each drawn as often as any other."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> PairedSample: ...


class Mixture:
    """Sources drawn from by weight, then augmented."""

    def __init__(self, sources: Sequence[tuple[float, Source]], augmentation: Augmentation, seed: int) -> None:
        weights = np.array([weight for weight, _ in sources], float)
        if not len(weights) or (weights <= 0).any():
            raise ValueError("a mixture needs at least one source, each with a positive weight")
        self._sources = [source for _, source in sources]
        self._shares = np.cumsum(weights / weights.sum())
        self._augmentation = augmentation
        self._seed = seed

    def sample(self, index: int) -> tuple[PairedSample, np.ndarray]:
        """Sample `index` of the run, and which of its two bands count: bool [2] (rgb, infrared)."""
        rng = np.random.default_rng((self._seed, index))
        which = min(int(np.searchsorted(self._shares, rng.random(), side="right")), len(self._sources) - 1)
        source = self._sources[which]
        sample = augment(source[int(rng.integers(len(source)))], self._augmentation, rng)
        return sample, _present(sample, self._augmentation, rng)


class ColourOnly:
    """Samples of which the infrared picture does not count: what a teacher that stands in for DINOv2 is shown."""

    def __init__(self, samples: Mixture | Epochs) -> None:
        self._samples = samples

    def sample(self, index: int) -> tuple[PairedSample, np.ndarray]:
        """See `Mixture.sample`."""
        return self._samples.sample(index)[0], np.array([True, False])


def _present(sample: PairedSample, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Which of the two bands count: of a pair one is hidden now and then; the only one of a sample never is."""
    present = np.array(sample.present, bool)
    if rng.random() < 2 * augmentation.band_dropout and present.all():
        present[int(rng.integers(2))] = False
    return present


class IndexedPairs(Protocol):
    """Labelled pairs that are read by their place, such as `benchmarks.LabelledPairs`."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Any: ...

    def load(self, item: Any, /) -> PairedSample: ...


class KeptPairs:
    """Pairs of a labelled set, each read once and kept in memory as far as there is room.

    Args:
        pairs: the set.
        largest: (width, height) that pairs are made to fit into; None: as they are.
        room: bytes of pixels to keep; what comes later is read again each time.
        change: what is made of each pair before it is kept.
    """

    def __init__(
        self,
        pairs: IndexedPairs,
        largest: tuple[int, int] | None = None,
        room: int = 1 << 30,
        change: Callable[[PairedSample], PairedSample] | None = None,
    ) -> None:
        self._pairs, self._largest, self._room, self._change = pairs, largest, room, change
        self._kept: dict[int, PairedSample] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, place: int) -> PairedSample:
        """The pair at a place. Its arrays are not to be written to."""
        if place in self._kept:
            return self._kept[place]
        sample = self._pairs.load(self._pairs[place])
        if self._largest is not None:
            sample = shrink(sample, self._largest)
        if self._change is not None:
            sample = self._change(sample)
        self._room -= sample.rgb.nbytes + sample.infrared.nbytes + (0 if sample.mask is None else sample.mask.nbytes)
        if self._room >= 0:
            self._kept[place] = sample
        return sample


class Epochs:
    """A labelled set, every pair once an epoch, in an order that each epoch draws anew, then augmented.

    Args:
        pairs: at least one.
        augmentation: how they are varied.
        seed: of orders and variations.
    """

    def __init__(self, pairs: KeptPairs, augmentation: Augmentation, seed: int) -> None:
        if not len(pairs):
            raise ValueError("no pairs to train on")
        self._pairs, self._augmentation, self._seed = pairs, augmentation, seed
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def sample(self, index: int) -> tuple[PairedSample, np.ndarray]:
        """Sample `index` of the run, and which of its two bands count: bool [2] (rgb, infrared)."""
        epoch, place = divmod(index, len(self._pairs))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._pairs)))
        rng = np.random.default_rng((self._seed, 1, index))
        sample = augment(self._pairs[int(self._order[1][place])], self._augmentation, rng)
        return sample, _present(sample, self._augmentation, rng)
