"""RoadScene with the boxes of FLIR-aligned: a small real set in this project's own layout (see `paired_folder`).

Xu et al., "FusionDN" (AAAI 2020): crops of FLIR ADAS v1 frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spectradino_core.data.labels import ImageLabels, LabelledObject
from spectradino_core.data.paired_folder import PairedFolder, PairedFolderError, PairedItem
from spectradino_core.datasets.benchmark import NIGHT, Benchmark, Found, LabelledItem
from spectradino_core.datasets.files import BenchmarkError, locate, relative
from spectradino_core.files import errors_as
from spectradino_core.modality import Modality

_CLASSES = ("person", "bicycle", "car")
_NESTED = "roadscene_rgb_lwir"
_STORED = ("train", "val")


def _find(root: Path, split: str) -> Found:
    return _found(root, (split,), lambda stored, time: True)


def _find_by_night(root: Path, split: str) -> Found:
    if split == "train":
        return _found(root, ("train",), lambda stored, time: time != NIGHT)
    return _found(root, _STORED, lambda stored, time: stored == "val" or time == NIGHT)


def _found(root: Path, stored: Sequence[str], wanted: Callable[[str, str | None], bool]) -> Found:
    """Find the labelled pairs of the stored splits that `wanted` selects by split and time of day."""
    files = [name for one in stored for name in (f"index_{one}.json", f"instances_{one}.json")]
    home = locate(root, (*files, *(f"{one}/{band}" for one in stored for band in ("rgb", "lwir"))), nested=(_NESTED,))
    pairs: dict[str, PairedItem] = {}
    classes: dict[str, tuple[str, ...]] = {}
    notes: Counter[str] = Counter()
    for one in stored:
        with errors_as(BenchmarkError, PairedFolderError):
            folder = PairedFolder(home, one, infrared="lwir")
        notes += folder.notes
        classes |= {item.id: folder.classes for item in folder}
        pairs |= {item.id: item for item in folder if item.boxes is not None and wanted(one, item.time)}
    items, missing = [], []
    for item in pairs.values():
        assert item.rgb_path is not None
        assert item.infrared_path is not None
        lacking = [path for path in (item.rgb_path, item.infrared_path) if not path.is_file()]
        if lacking:
            missing.append(relative(home, lacking[0]))
        else:
            subsets = () if item.time is None else (item.time,)
            items.append(LabelledItem(item.id, item.rgb_path, item.infrared_path, subsets=subsets))

    def images(item: LabelledItem) -> tuple[np.ndarray, np.ndarray]:
        return pairs[item.name].load_rgb(), pairs[item.name].load_infrared()

    def objects(item: LabelledItem) -> ImageLabels:
        pair = pairs[item.name]
        rows = [
            LabelledObject(classes[item.name][label], (box[0], box[1], box[2], box[3]), ignored)
            for boxes, labels, ignored in ((pair.boxes, pair.labels, False), (pair.ignored, pair.ignored_labels, True))
            if boxes is not None and labels is not None
            for box, label in zip(boxes.tolist(), labels.tolist(), strict=True)
        ]
        return ImageLabels(rows)

    return Found(items, missing, images=images, objects=objects, notes=notes)


ROADSCENE = Benchmark(
    name="roadscene",
    title="RoadScene with FLIR-aligned boxes",
    infrared=Modality.LWIR,
    box_classes=_CLASSES,
    splits={"train": 55, "val": 23},
    report_split="val",
    find=_find,
    time_rule="luminance",
    layout="index_{train,val}.json, instances_{train,val}.json (COCO) and {train,val}/{rgb,lwir}/<id>",
    source="pairs: https://github.com/hanna-xu/RoadScene; boxes: those of FLIR-aligned, mapped onto its crops. The set "
    "is not published in this form",
    licence="research; FLIR's terms apply",
    ignore="large trucks and dogs are unlabelled background; crowds are ignored",
    notes=(
        "Only labelled pairs are read: 55 of 130 and 23 of 31.",
        "All 23 pairs of val are by day; for scores by night see roadscene_night.",
        "Day and night are annotated by hand. By luminance all pairs, labelled or not, are 87 by day and 43 by night "
        "in train, 28 and 3 in val.",
        "8-bit LWIR after automatic gain; small: differences of a few AP are noise.",
    ),
)

ROADSCENE_NIGHT = replace(
    ROADSCENE,
    name="roadscene_night",
    title="RoadScene, trained on day, tested on day and night",
    splits={"train": 41, "test": 37},
    report_split="test",
    find=_find_by_night,
    notes=(
        "The stored val has no night. Here train is the 41 labelled pairs by day of the stored train, test its 14 by "
        "night and the 23 by day of the stored val: a model trained on it has seen no night.",
        "A model trained on the stored train, such as the bundled LWIR model, has seen the nights.",
        "Fourteen pairs by night are few: report the spread over three seeds.",
    ),
)
