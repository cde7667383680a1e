"""RoadScene with the boxes of FLIR-aligned on it: a small real set in this project's own layout (see `paired_folder`).

Xu et al., "FusionDN" (AAAI 2020): crops of FLIR ADAS v1 frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spectradino_core.data.benchmarks.benchmark import Benchmark, Found, LabelledItem
from spectradino_core.data.benchmarks.boxes import LabelledObject
from spectradino_core.data.benchmarks.daylight import NIGHT
from spectradino_core.data.benchmarks.files import BenchmarkError, locate, relative
from spectradino_core.data.paired_folder import PairedFolder, PairedFolderError
from spectradino_core.modality import Modality

__all__ = ["ROADSCENE"]

_CLASSES = ("person", "bicycle", "car")
_STORED = {"train": "train", "val": "val", "train_day": "train", "night": "train"}


def _find(root: Path, split: str) -> Found:
    stored = _STORED[split]
    wanted = (f"index_{stored}.json", f"instances_{stored}.json", f"{stored}/rgb", f"{stored}/lwir")
    home = locate(root, wanted, nested=("roadscene_rgb_lwir",))
    try:
        folder = PairedFolder(home, stored, infrared="lwir", classes=_CLASSES)
    except PairedFolderError as error:
        raise BenchmarkError(str(error)) from None
    pairs = {item.id: item for item in folder if item.boxes is not None}
    items, missing = [], []
    for item in pairs.values():
        if split in ("train_day", "night") and (item.time == NIGHT) != (split == NIGHT):
            continue
        lacking = [path for path in (item.rgb_path, item.infrared_path) if not path.is_file()]
        if lacking:
            missing.append(relative(home, lacking[0]))
        else:
            subsets = () if item.time is None else (item.time,)
            items.append(LabelledItem(item.id, item.rgb_path, item.infrared_path, subsets=subsets))

    def images(item: LabelledItem) -> tuple[np.ndarray, np.ndarray]:
        return pairs[item.name].load_rgb(), pairs[item.name].load_infrared()

    def objects(item: LabelledItem) -> list[LabelledObject]:
        pair = pairs[item.name]
        assert pair.boxes is not None
        assert pair.labels is not None
        return [
            LabelledObject(_CLASSES[label], (box[0], box[1], box[2], box[3]))
            for box, label in zip(pair.boxes.tolist(), pair.labels.tolist(), strict=True)
        ]

    return Found(items, missing, images=images, objects=objects)


ROADSCENE = Benchmark(
    name="roadscene",
    title="RoadScene with FLIR-aligned boxes",
    infrared=Modality.LWIR,
    box_classes=_CLASSES,
    splits={"train": 55, "val": 23, "train_day": 41, "night": 14},
    train_split="train",
    report_split="val",
    find=_find,
    time_rule="luminance",
    layout="index_{train,val}.json, instances_{train,val}.json (COCO) and {train,val}/{rgb,lwir}/<id>",
    source="pairs: https://github.com/hanna-xu/RoadScene; boxes: those of FLIR-aligned, mapped onto its crops. The set "
    "is not published in this form",
    licence="research; FLIR's terms hold",
    ignore="large trucks and dogs are unlabelled background; crowds are left out",
    notes=(
        "Only labelled pairs are given: 55 of 130 and 23 of 31.",
        "All 23 of val are by day. For a figure by night train on train_day and report on night: the 14 labelled "
        "nights of train. A model trained on train has seen them.",
        "Day and night as a person noted them. By luminance all its pairs, labelled or not, are 87 by day and 43 by "
        "night in train, 28 and 3 in val.",
        "8-bit LWIR after automatic gain; small: differences of a few AP are noise.",
    ),
)
