"""SemanticRT: Ji et al., "SemanticRT: A Large-Scale Dataset and Method for Robust Semantic Segmentation in
Multispectral Images" (ACM Multimedia 2023)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from spectradino_core.data.labels.masks import mask_of
from spectradino_core.datasets.benchmark import Benchmark, Found, LabelledItem
from spectradino_core.datasets.files import by_stem, locate, matched, names_of
from spectradino_core.modality import Modality

__all__ = ["SEMANTICRT"]

_CLASSES = (
    "background",
    "car_stop",
    "bike",
    "bicyclist",
    "motorcycle",
    "motorcyclist",
    "car",
    "tricycle",
    "traffic_light",
    "box",
    "pole",
    "curve",
    "person",
)
_TABLE = {value: value for value in range(len(_CLASSES))}
_SUBSETS = ("day", "night", "mc", "mo", "hard")


def _find(root: Path, split: str) -> Found:
    home = locate(root, ("rgb", "thermal", "labels", f"{split}.txt"), nested=("SemanticRT_dataset",))
    names = names_of(home / f"{split}.txt", (".jpg", ".png"))
    folders = {
        "rgb": by_stem(home / "rgb"),
        "infrared": by_stem(home / "thermal"),
        "mask": by_stem(home / "labels", (".png",)),
    }
    whole, missing = matched(home, names, folders, dict.fromkeys(folders, "{}"))
    subsets = _subsets(home, split)
    items = [
        LabelledItem(name, files["rgb"], files["infrared"], mask=files["mask"], subsets=subsets.get(name, ()))
        for name, files in whole.items()
    ]
    return Found(items, missing, mask=_mask)


def _subsets(home: Path, split: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for subset in _SUBSETS:
        path = home / f"{split}_{subset}.txt"
        if path.is_file():
            for name in names_of(path, (".jpg", ".png")):
                found[name] = (*found.get(name, ()), subset)
    return found


def _mask(item: LabelledItem, notes: Counter[str]) -> np.ndarray:
    assert item.mask is not None
    return mask_of(item.mask, _TABLE, notes)


SEMANTICRT = Benchmark(
    name="semanticrt",
    title="SemanticRT",
    infrared=Modality.LWIR,
    mask_classes=_CLASSES,
    palette=(
        (0, 0, 0),
        (72, 61, 39),
        (0, 0, 255),
        (148, 0, 211),
        (128, 128, 0),
        (64, 64, 128),
        (0, 139, 139),
        (131, 139, 139),
        (192, 64, 0),
        (126, 192, 238),
        (244, 164, 96),
        (211, 211, 211),
        (205, 155, 155),
    ),
    splits={"train": 6830, "val": 1705, "test": 2836},
    train_split="train",
    report_split="test",
    find=_find,
    stated_subsets=_SUBSETS,
    layout="rgb/<name>.jpg, thermal/<name>.jpg, labels/<name>.png, train.txt, val.txt, test.txt and, for subsets, "
    "test_day.txt, test_night.txt, test_mc.txt, test_mo.txt, test_hard.txt",
    source="the link in https://github.com/jiwei0921/SemanticRT; unzip SemanticRT_dataset.zip and give the folder",
    licence="non-commercial research; its sources' terms (LLVIP, OSU, INO) apply too",
    ignore="background is class 0 and counts in mIoU, as in its authors' code; nothing is ignored",
    notes=(
        "mIoU is over 13 classes, including background; papers' tables show nine of them.",
        "Thermal frames are JPEG with three equal channels.",
        "Most images are LLVIP's: do not train on one and test on the other.",
        "Day, night and the other subsets are stated for the test split only.",
    ),
)
