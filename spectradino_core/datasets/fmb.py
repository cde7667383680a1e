"""FMB: Liu et al., "Multi-interactive Feature Learning and a Full-time Multi-modality Benchmark for Image Fusion and
Segmentation" (ICCV 2023)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from spectradino_core.data.labels import UNLABELLED
from spectradino_core.data.labels.masks import mask_of
from spectradino_core.datasets.benchmark import Benchmark, Found, LabelledItem
from spectradino_core.datasets.files import by_stem, locate, matched
from spectradino_core.modality import Modality

__all__ = ["FMB"]

_CLASSES = (
    "road",
    "sidewalk",
    "building",
    "traffic_light",
    "traffic_sign",
    "vegetation",
    "sky",
    "person",
    "car",
    "truck",
    "bus",
    "motorcycle",
    "bicycle",
    "pole",
)
_TABLE = {0: UNLABELLED, UNLABELLED: UNLABELLED} | {value + 1: value for value in range(len(_CLASSES))}


def _find(root: Path, split: str) -> Found:
    home = locate(root, (f"{split}/Visible", f"{split}/Infrared", f"{split}/Label"), nested=("FMB",))
    folders = {
        "rgb": by_stem(home / split / "Visible"),
        "infrared": by_stem(home / split / "Infrared"),
        "mask": by_stem(home / split / "Label", (".png",)),
    }
    names = sorted(set().union(*folders.values()))
    whole, missing = matched(home, names, folders, dict.fromkeys(folders, "{}"))
    items = [LabelledItem(name, files["rgb"], files["infrared"], mask=files["mask"]) for name, files in whole.items()]
    return Found(items, missing, mask=_mask)


def _mask(item: LabelledItem, notes: Counter[str]) -> np.ndarray:
    assert item.mask is not None
    return mask_of(item.mask, _TABLE, notes)


FMB = Benchmark(
    name="fmb",
    title="FMB",
    infrared=Modality.LWIR,
    mask_classes=_CLASSES,
    palette=(
        (179, 228, 228),
        (181, 57, 133),
        (67, 162, 177),
        (200, 178, 50),
        (132, 45, 199),
        (66, 172, 84),
        (179, 73, 79),
        (76, 99, 166),
        (66, 121, 253),
        (137, 165, 91),
        (155, 97, 152),
        (105, 153, 140),
        (222, 215, 158),
        (135, 113, 90),
    ),
    splits={"train": 1220, "test": 280},
    train_split="train",
    report_split="test",
    find=_find,
    layout="train/{Visible,Infrared,Label}/<id>.png and test/{Visible,Infrared,Label}/<id>.png",
    source="the links in https://github.com/JinyuanLiu-CV/SegMiF; unzip train.zip and test.zip into one folder",
    licence="research; no licence is stated",
    ignore="label 0 (1.8 % of the pixels) is ignored; the stored values 1 to 14 are classes 0 to 13",
    notes=(
        "Label/ holds numbers, color/ the same as colours; only the former is read.",
        "No bicycle occurs in the test split: it has no IoU and is excluded from the mean unless it is predicted; "
        "code that counts it as zero gives scores lower by a fourteenth.",
        '"15 categories" in the abstract are these 14 and "unlabelled"; papers that train on 15 are not comparable.',
        "There is no official validation split, and no list of day and night.",
    ),
)
