"""Synthetic scenes as a benchmark: day, dusk and night in turn, with exact boxes and masks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scene_sets import HELD_OUT, TRAINING, scene_sample
from spectradino_core.datasets.benchmark import Benchmark, Found, LabelledItem
from spectradino_core.modality import Modality
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, MASK_PALETTE, TIMES_OF_DAY

_SIZE = (640, 512)
_FIRST = {"train": TRAINING.start, "val": HELD_OUT["val"], "test": HELD_OUT["test"]}
_COUNTS = {"train": 600, "val": 60, "test": 150}


def _find(infrared: Modality, root: Path, split: str) -> Found:
    def sample(item: LabelledItem) -> PairedSample:
        assert item.seed is not None
        return scene_sample(item.seed, infrared, _SIZE, time_of_day=_time(item.seed))

    seeds = range(_FIRST[split], _FIRST[split] + _COUNTS[split])
    items = [LabelledItem(f"{split} {seed}", seed=seed, subsets=(_time(seed),)) for seed in seeds]
    return Found(items, sample=sample)


def _benchmark(name: str, infrared: Modality) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"synthetic scenes, RGB and {infrared.name}",
        infrared=infrared,
        box_classes=BOX_CLASSES,
        mask_classes=MASK_CLASSES,
        palette=tuple((int(r), int(g), int(b)) for r, g, b in MASK_PALETTE),
        splits=dict(_COUNTS),
        find=partial(_find, infrared),
        time_rule="stated",
        stated_subsets=TIMES_OF_DAY,
        layout="nothing: scenes are rendered on demand, 640x512",
        source="part of this package",
        licence="Apache-2.0",
        ignore="objects too small or too hidden to be seen have no box; 255 is ignored in masks",
        notes=("Synthetic: scores on them say nothing about real cameras.",),
        needs_root=False,
    )


def _time(seed: int) -> str:
    return TIMES_OF_DAY[seed % len(TIMES_OF_DAY)]


SCENES = _benchmark("scenes", Modality.LWIR)
SCENES_NIR = _benchmark("scenes_nir", Modality.NIR)
SCENES_SWIR = _benchmark("scenes_swir", Modality.SWIR)
