"""Training samples: sources mixed by weight, or one labelled data set in epochs.

Sample i of a run is a pure function of (seed, i), independent of the worker that draws it and of resuming.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from spectradino_core.data.augment import Augmentation, augment, shrink
from spectradino_core.data.sample import PairedSample


class Source(Protocol):
    """Labelled pairs by index, sampled uniformly."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> PairedSample: ...


class Mixture:
    """Samples drawn from sources by weight, then augmented."""

    def __init__(self, sources: Sequence[tuple[float, Source]], augmentation: Augmentation, seed: int) -> None:
        weights = np.array([weight for weight, _ in sources], float)
        if not len(weights) or (weights <= 0).any():
            raise ValueError("a mixture needs at least one source, each with a positive weight")
        self._sources = [source for _, source in sources]
        self._cumulative = np.cumsum(weights / weights.sum())
        self._augmentation = augmentation
        self._seed = seed

    def sample(self, index: int) -> tuple[PairedSample, np.ndarray]:
        """Sample `index` of the run, and which of its two bands count: bool [2] (rgb, infrared)."""
        rng = np.random.default_rng((self._seed, index))
        which = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self._sources) - 1)
        source = self._sources[which]
        sample = augment(source[int(rng.integers(len(source)))], self._augmentation, rng)
        return sample, _present(sample, self._augmentation, rng)


class RGBOnly:
    """Samples with the infrared stream switched off, to train a teacher that replaces DINOv2."""

    def __init__(self, samples: Mixture | Epochs) -> None:
        self._samples = samples

    def sample(self, index: int) -> tuple[PairedSample, np.ndarray]:
        """See `Mixture.sample`."""
        return self._samples.sample(index)[0], np.array([True, False])


def _present(sample: PairedSample, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Return the streams that are used: band dropout hides one of a pair, never the only one of a sample."""
    present = np.array(sample.present, bool)
    if rng.random() < 2 * augmentation.band_dropout and present.all():
        present[int(rng.integers(2))] = False
    return present


class IndexedPairs(Protocol):
    """Labelled pairs that are read by index, such as `datasets.benchmark.LabelledPairs`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def load(self, item: Any, /) -> PairedSample: ...


class CachedPairs:
    """Pairs of a labelled data set, cached in memory.

    Args:
        pairs: the data set.
        largest: maximum (width, height), to which larger pairs are scaled down; None: original size.
        max_bytes: maximum bytes of cached pixels; further pairs are read on each access.
        transform: applied to each pair before it is cached.
    """

    def __init__(
        self,
        pairs: IndexedPairs,
        largest: tuple[int, int] | None = None,
        max_bytes: int = 1 << 30,
        transform: Callable[[PairedSample], PairedSample] | None = None,
    ) -> None:
        self._pairs, self._largest, self._bytes_left, self._transform = pairs, largest, max_bytes, transform
        self._cached: dict[int, PairedSample] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> PairedSample:
        """Return a pair, whose arrays must not be modified."""
        if index in self._cached:
            return self._cached[index]
        sample = self._pairs.load(self._pairs[index])
        if self._largest is not None:
            sample = shrink(sample, self._largest)
        if self._transform is not None:
            sample = self._transform(sample)
        self._bytes_left -= (
            sample.rgb.nbytes + sample.infrared.nbytes + (0 if sample.mask is None else sample.mask.nbytes)
        )
        if self._bytes_left >= 0:
            self._cached[index] = sample
        return sample


class Epochs:
    """Samples of a labelled data set, each pair once per epoch in a new random order, then augmented."""

    def __init__(self, pairs: CachedPairs, augmentation: Augmentation, seed: int) -> None:
        if not len(pairs):
            raise ValueError("no pairs to train on")
        self._pairs, self._augmentation, self._seed = pairs, augmentation, seed
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def sample(self, index: int) -> tuple[PairedSample, np.ndarray]:
        """See `Mixture.sample`."""
        epoch, position = divmod(index, len(self._pairs))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._pairs)))
        rng = np.random.default_rng((self._seed, 1, index))
        sample = augment(self._pairs[int(self._order[1][position])], self._augmentation, rng)
        return sample, _present(sample, self._augmentation, rng)
