"""RASMD: Jin et al., "RASMD: RGB And SWIR Multispectral Driving Dataset for Robust Perception in Adverse Conditions"
(2025). The image folders are those of published code; the location of the boxes is assumed."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from spectradino_core.data.labels.coco import read_coco
from spectradino_core.data.labels.files import inside, plain_stem
from spectradino_core.datasets.benchmark import Benchmark, Found, LabelledItem
from spectradino_core.datasets.files import by_stem, locate, relative
from spectradino_core.modality import Modality

_WEATHER = ("sunny", "cloudy", "rainy", "snow")
_FRAME = re.compile(r"(\d+)$")


def _find(root: Path, split: str) -> Found:
    annotations = f"annotations/instances_{split}.json"
    home = locate(root, (annotations,), nested=("RASMD_DATASET", "RASMD"))
    file = read_coco(home / annotations)
    file.by_name()  # every image has a name, and none is there twice
    objects = {image.name: image.labels for image in file.images}
    folders: dict[Path, dict[str, Path]] = {}

    def frames(folder: Path) -> dict[str, Path]:
        if folder not in folders:
            folders[folder] = _by_frame(folder)
        return folders[folder]

    items, missing = [], []
    for text in objects:
        rgb = inside(home, text, home / annotations)
        folder, frame = rgb.parent.parent / "swir", _frame(plain_stem(rgb.name))
        infrared = frames(folder).get(frame)
        if not rgb.is_file():
            rgb = frames(rgb.parent).get(frame, rgb)
        if infrared is None:
            missing.append(f"{relative(home, folder)}/swir_original_{frame}")
        elif not rgb.is_file():
            missing.append(text)
        else:
            items.append(LabelledItem(text, rgb, infrared, subsets=_weather(text)))
    return Found(items, missing, objects=lambda item: objects[item.name], notes=file.notes)


def _by_frame(folder: Path) -> dict[str, Path]:
    return {_frame(stem): path for stem, path in by_stem(folder).items()} if folder.is_dir() else {}


def _frame(stem: str) -> str:
    """rgb_aligned_000012 and swir_original_000012 are one frame."""
    found = _FRAME.search(stem)
    return found.group(1) if found else stem


def _weather(text: str) -> tuple[str, ...]:
    words = re.split(r"[_\W]+", PurePosixPath(text).parts[0].lower())
    return tuple(word for word in _WEATHER if word in words)


RASMD = Benchmark(
    name="rasmd",
    title="RASMD",
    infrared=Modality.SWIR,
    box_classes=("car", "truck", "bus", "bicycle", "motorcycle", "person"),
    splits={"train": None, "val": None, "test": None},
    find=_find,
    stated_subsets=_WEATHER,
    layout="<1_sunny>/<data_3_urban>/croped_data/rgb/rgb_aligned_<000000>.jpg with "
    "../swir/swir_original_<000000>.jpg, and (assumed) annotations/instances_{train,val,test}.json in COCO's form, "
    "whose file_name is the RGB image's path from the root",
    source="https://yonsei-stl.github.io/RASMD/ (the data are on Hugging Face as STL-Yonsei/RASMD, after agreeing to "
    "their terms)",
    licence="by request; see its page",
    ignore="crowds are ignored, objects of other classes are skipped",
    assumed="where the boxes lie, their form (COCO) and the split: no public description was found",
    notes=(
        "Its detection labels cover a small part of the 100,000 pairs; no list of a split was found in public.",
        "Frames of one recording are neighbours in time: a split by frame, not by recording, leaks.",
        "A backbone that was pretrained on recordings of the test split has seen its images: hold these out.",
        "The weather is taken from the folder's name; day and night are not distinguished.",
    ),
)
