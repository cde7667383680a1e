"""FLIR ADAS v1, aligned: Zhang et al., "Multispectral Fusion for Object Detection with Cyclic Fuse-and-Refine Blocks"
(ICIP 2020). The split and annotations that RGB-thermal papers mean by "FLIR"."""

from __future__ import annotations

from pathlib import Path

from spectradino_core.datasets.benchmark import DAY, NIGHT, Benchmark, Found
from spectradino_core.datasets.files import BenchmarkError, locate, names_of
from spectradino_core.modality import Modality

_LISTS = {"train": "align_train.txt", "val": "align_validation.txt"}
_SUFFIXES = (".xml", ".jpeg", ".jpg", "_PreviewData", "_RGB")


def _find(root: Path, split: str) -> Found:
    home = locate(root, ("JPEGImages", "Annotations"), nested=("align", "aligned/align", "FLIR_aligned"))
    names = names_of(_list(home, _LISTS[split]), _SUFFIXES)
    folders = {"rgb": "JPEGImages", "infrared": "JPEGImages", "boxes": "Annotations"}
    stems = {"rgb": "{}_RGB", "infrared": "{}_PreviewData", "boxes": "{}_PreviewData"}
    times = _times(home, split)
    return Found.matched(home, folders, names, stems, lambda name: times.get(name, ()))


def _list(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / "ImageSets" / "Main" / name):
        if path.is_file():
            return path
    raise BenchmarkError(f"{folder}: lacks {name} (looked for it there and in ImageSets/Main)")


def _times(folder: Path, split: str) -> dict[str, tuple[str, ...]]:
    """Read lists of day and night beside the official lists, where they exist."""
    times: dict[str, tuple[str, ...]] = {}
    for time in (DAY, NIGHT):
        path = folder / _LISTS[split].replace(".txt", f"_{time}.txt")
        if path.is_file():
            times.update(dict.fromkeys(names_of(path, _SUFFIXES), (time,)))
    return times


FLIR = Benchmark(
    name="flir",
    title="FLIR ADAS v1, aligned",
    infrared=Modality.LWIR,
    box_classes=("person", "bicycle", "car"),
    splits={"train": 4128, "val": 1013},
    report_split="val",
    find=_find,
    time_rule="luminance",
    layout="JPEGImages/<FLIR_00000>_RGB.jpg and .._PreviewData.jpeg, Annotations/<FLIR_00000>_PreviewData.xml, "
    "align_train.txt and align_validation.txt (in the root or its folder align/)",
    source="the archive aligned.zip that the authors of CFR link to in "
    "https://github.com/zhanghengdev/CFR and https://github.com/CalayZhou/Multispectral-Pedestrian-Detection-Resource; "
    "unzip it and give the folder. FLIR ADAS v2 is another data set and is not read",
    licence="Teledyne FLIR's ADAS data set terms (registration)",
    ignore="objects of other classes (a few dogs) are skipped; nothing is ignored; corners are taken as stored",
    notes=(
        "Papers report on align_validation.txt, as test or val; there is no third split to choose a checkpoint by.",
        "Its authors count 4128 training pairs, many papers 4129: a pair that lacks a file is skipped, with a warning.",
        "The XML files hold dogs, although the paper names three classes.",
        "Images are read from JPEGImages/, not from AnnotatedImages/.",
        "Day and night are not part of it: align_validation_day.txt and .._night.txt beside the lists are used where "
        "they exist, otherwise the RGB image's mean luminance.",
        "FLIR v1 unaligned (8,862 and 1,366 frames) and v2 (15 classes) give other figures under the same name.",
    ),
)
