"""Synthetic scenes as data sets: labelled pairs for training and reports, images of all bands for pretraining."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from spectradino_core.data.prefetch import prefetched
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.sources import MAPS, FramePosition, ImageSet
from spectradino_core.modality import INFRARED, Modality
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, Scene, SceneOptions, render_scene

# A scene is determined by its seed. Every use has its own range of seeds, so that no model is evaluated on its training
# scenes.

TRAINING = range(1_000_000)

FIRST_TEST_SEED = 9_000_000
"""First seed of the scenes that are never used for training."""

HELD_OUT: Mapping[str, int] = {
    "report": FIRST_TEST_SEED,  # evaluate --scenes, model cards, demos, parity of exports, benchmarks
    "conversion": FIRST_TEST_SEED + 1_000,  # loss of accuracy of a converted graph
    "test": FIRST_TEST_SEED + 100_000,  # splits of the data sets "scenes", "scenes_nir" and "scenes_swir"
    "val": FIRST_TEST_SEED + 200_000,
    "ablation": FIRST_TEST_SEED + 300_000,
    "calibration": FIRST_TEST_SEED + 400_000,  # value ranges for 8-bit quantisation
    "curves": FIRST_TEST_SEED + 500_000,  # validation scores during fine-tuning
    "pretraining": FIRST_TEST_SEED + 700_000,  # validation losses, retrieval
}
"""First seed by use."""


def held_out_seeds(use: str, count: int) -> range:
    """Return the first `count` seeds of a use of `HELD_OUT`."""
    return range(HELD_OUT[use], HELD_OUT[use] + count)


TRAINING_MISREGISTRATION_PX = 1.5
"""Maximum shift between RGB and infrared in training, as real pairs are never registered exactly."""


class ScenePairs:
    """Labelled pairs, rendered on access: a source of a `Mixture`, and a data set for reports."""

    box_classes = BOX_CLASSES
    mask_classes = MASK_CLASSES

    def __init__(
        self,
        seeds: Sequence[int],
        infrared: Modality,
        size: tuple[int, int],
        times: Sequence[str] = (),
        misregistration_px: float = 0.0,
        keep: bool = False,
    ) -> None:
        """
        Args:
            seeds: one per scene.
            infrared, size: the band beside RGB, and (width, height) in pixels.
            times: times of day, used in turn; empty: each seed's own.
            misregistration_px: maximum shift between the bands in pixels.
            keep: keep rendered scenes in memory (0.6 MB each at 360 x 288): augmentation costs a tenth of rendering.
        """
        self.seeds, self.infrared = seeds, infrared
        self.name = f"{len(seeds)} {times[0] if len(times) == 1 else 'mixed'} scenes"
        self._size, self._times, self._misregistration_px = size, tuple(times), misregistration_px
        self._cached: dict[int, PairedSample] | None = {} if keep else None

    @classmethod
    def training(cls, infrared: Modality, size: tuple[int, int], pool: int | None = None) -> ScenePairs:
        """Return scenes for training: `pool` different ones kept in memory, or unlimited new ones."""
        seeds = TRAINING if pool is None else range(pool)
        return cls(seeds, infrared, size, (), TRAINING_MISREGISTRATION_PX, keep=pool is not None)

    @classmethod
    def held_out(
        cls,
        use: str,
        count: int,
        infrared: Modality,
        size: tuple[int, int] = (640, 512),
        time_of_day: str | None = None,
    ) -> ScenePairs:
        """Return the first `count` scenes of a use of `HELD_OUT`."""
        return cls(held_out_seeds(use, count), infrared, size, () if time_of_day is None else (time_of_day,))

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> PairedSample:
        if self._cached is not None and index in self._cached:
            return self._cached[index]
        time = self._times[index % len(self._times)] if self._times else None
        sample = scene_sample(self.seeds[index], self.infrared, self._size, self._misregistration_px, time)
        if self._cached is not None:
            self._cached[index] = sample
        return sample

    def __iter__(self) -> Iterator[PairedSample]:
        return (self[index] for index in range(len(self)))

    def samples(self, workers: int = 0) -> Iterator[PairedSample]:
        """Iterate over the pairs; see `prefetched` for workers."""
        return prefetched(self.__getitem__, range(len(self)), workers)


class SceneImages:
    """`ImageSource` of all bands, depth and segmentation, pixel-aligned; rendered scenes are kept in memory."""

    frame_gap = 1

    def __init__(
        self,
        count: int,
        size: tuple[int, int] = (320, 256),
        bands: Sequence[Modality] = INFRARED,
        maps: Sequence[str] = MAPS,
        first: int = 0,
        misregistration_px: float = TRAINING_MISREGISTRATION_PX,
    ) -> None:
        """
        Args:
            count: number of scenes; about 1.2 MB each at 320 x 256 with all modalities.
            size: (width, height) in pixels.
            bands, maps: infrared bands, and subset of `MAPS`, of an item.
            first: seed of item 0.
            misregistration_px: maximum shift between RGB and infrared in pixels.
        """
        if count < 1:
            raise ValueError(f"the number of scenes must be at least 1, not {count}")
        if unknown := [key for key in maps if key not in MAPS]:
            raise ValueError(f"scenes have no {', '.join(unknown)}: choose from {', '.join(MAPS)}")
        self.name = f"scenes {first} to {first + count - 1}"
        self._count, self._size, self._first, self._misregistration_px = count, size, first, misregistration_px
        self._bands = tuple(Modality.parse(band) for band in bands)
        self._maps = tuple(maps)
        self._cached: dict[int, ImageSet] = {}

    @classmethod
    def held_out(
        cls,
        count: int,
        size: tuple[int, int] = (320, 256),
        bands: Sequence[Modality] = INFRARED,
        maps: Sequence[str] = MAPS,
    ) -> SceneImages:
        """Return validation scenes, which are never trained on and exactly registered."""
        return cls(count, size, bands, maps, HELD_OUT["pretraining"], misregistration_px=0.0)

    def __len__(self) -> int:
        return self._count

    def modalities(self, item: int) -> tuple[str, ...]:
        return (*(band.key for band in self._bands), *self._maps)

    def position(self, item: int) -> FramePosition:
        return FramePosition(f"street {self._first + item}", 0)

    def identity(self, item: int) -> str:
        return f"scene {self._first + item}"

    def load(self, item: int, modalities: Sequence[str]) -> ImageSet:
        if item not in self._cached:
            self._cached[item] = self._render(item)
        kept = self._cached[item]
        return ImageSet({key: kept.images[key] for key in ("rgb", *modalities)}, kept.name)

    def forget(self, item: int) -> None:
        self._cached.pop(item, None)

    def _render(self, item: int) -> ImageSet:
        if not 0 <= item < self._count:
            raise IndexError(f"{self.name}: no item {item}")
        scene = _scene(self._first + item, self._size, self._bands, self._misregistration_px)
        images = {band.key: image for band, image in scene.images.items()}
        maps = {"depth": scene.depth, "segmentation": scene.mask}
        return ImageSet(images | {key: maps[key] for key in self._maps}, _name(scene))


def scene_sample(
    seed: int,
    infrared: Modality,
    size: tuple[int, int],
    misregistration_px: float = 0.0,
    time_of_day: str | None = None,
) -> PairedSample:
    """Render the scene of `seed` as a labelled pair; see `ScenePairs` for the arguments."""
    scene = _scene(seed, size, (infrared,), misregistration_px, time_of_day)
    return PairedSample(
        rgb=scene.images[Modality.RGB],
        infrared=scene.images[infrared],
        boxes=scene.boxes,
        labels=scene.labels,
        mask=scene.mask,
        name=_name(scene),
        subsets=(scene.time_of_day,),
    )


def _scene(
    seed: int,
    size: tuple[int, int],
    bands: Sequence[Modality],
    misregistration_px: float,
    time_of_day: str | None = None,
) -> Scene:
    shift = float(np.random.default_rng(seed).uniform(0, misregistration_px))
    return render_scene(
        seed, SceneOptions(*size, bands=(Modality.RGB, *bands), misregistration_px=shift, time_of_day=time_of_day)
    )


def _name(scene: Scene) -> str:
    return f"scene {scene.seed} ({scene.time_of_day})"
