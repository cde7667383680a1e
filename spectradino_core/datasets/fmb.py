"""FMB: Liu et al., "Multi-interactive Feature Learning and a Full-time Multi-modality Benchmark for Image Fusion and
Segmentation" (ICCV 2023)."""

from __future__ import annotations

from pathlib import Path

from spectradino_core.data.labels import UNLABELLED
from spectradino_core.datasets.benchmark import Benchmark, Found
from spectradino_core.datasets.files import locate
from spectradino_core.modality import Modality

_CLASSES = {
    "road": (179, 228, 228),
    "sidewalk": (181, 57, 133),
    "building": (67, 162, 177),
    "traffic_light": (200, 178, 50),
    "traffic_sign": (132, 45, 199),
    "vegetation": (66, 172, 84),
    "sky": (179, 73, 79),
    "person": (76, 99, 166),
    "car": (66, 121, 253),
    "truck": (137, 165, 91),
    "bus": (155, 97, 152),
    "motorcycle": (105, 153, 140),
    "bicycle": (222, 215, 158),
    "pole": (135, 113, 90),
}
_TABLE = {0: UNLABELLED, UNLABELLED: UNLABELLED} | {value + 1: value for value in range(len(_CLASSES))}


def _find(root: Path, split: str) -> Found:
    folders = {"rgb": f"{split}/Visible", "infrared": f"{split}/Infrared", "mask": f"{split}/Label"}
    return Found.matched(locate(root, tuple(folders.values()), nested=("FMB",)), folders, table=_TABLE)


FMB = Benchmark(
    name="fmb",
    title="FMB",
    infrared=Modality.LWIR,
    mask_classes=tuple(_CLASSES),
    palette=tuple(_CLASSES.values()),
    splits={"train": 1220, "test": 280},
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
