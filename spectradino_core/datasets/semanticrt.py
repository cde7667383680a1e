"""SemanticRT: Ji et al., "SemanticRT: A Large-Scale Dataset and Method for Robust Semantic Segmentation in
Multispectral Images" (ACM Multimedia 2023)."""

from __future__ import annotations

from pathlib import Path

from spectradino_core.datasets.benchmark import Benchmark, Found
from spectradino_core.datasets.files import locate, names_of
from spectradino_core.modality import Modality

_CLASSES = {
    "background": (0, 0, 0),
    "car_stop": (72, 61, 39),
    "bike": (0, 0, 255),
    "bicyclist": (148, 0, 211),
    "motorcycle": (128, 128, 0),
    "motorcyclist": (64, 64, 128),
    "car": (0, 139, 139),
    "tricycle": (131, 139, 139),
    "traffic_light": (192, 64, 0),
    "box": (126, 192, 238),
    "pole": (244, 164, 96),
    "curve": (211, 211, 211),
    "person": (205, 155, 155),
}
_TABLE = {value: value for value in range(len(_CLASSES))}
_SUBSETS = ("day", "night", "mc", "mo", "hard")


def _find(root: Path, split: str) -> Found:
    folders = {"rgb": "rgb", "infrared": "thermal", "mask": "labels"}
    home = locate(root, (*folders.values(), f"{split}.txt"), nested=("SemanticRT_dataset",))
    names = names_of(home / f"{split}.txt", (".jpg", ".png"))
    subsets = _subsets(home, split)
    return Found.matched(home, folders, names, subsets=lambda name: subsets.get(name, ()), table=_TABLE)


def _subsets(folder: Path, split: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for subset in _SUBSETS:
        path = folder / f"{split}_{subset}.txt"
        if path.is_file():
            for name in names_of(path, (".jpg", ".png")):
                found[name] = (*found.get(name, ()), subset)
    return found


SEMANTICRT = Benchmark(
    name="semanticrt",
    title="SemanticRT",
    infrared=Modality.LWIR,
    mask_classes=tuple(_CLASSES),
    palette=tuple(_CLASSES.values()),
    splits={"train": 6830, "val": 1705, "test": 2836},
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
