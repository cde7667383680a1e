"""MCubeS: Liang et al., "Multimodal Material Segmentation" (CVPR 2022). Of its four modalities RGB and NIR are read.

Letters: h w an image.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from spectradino_core.data.images import read_counts, read_image
from spectradino_core.data.labels import UNLABELLED
from spectradino_core.data.labels.masks import mask_of, read_mask
from spectradino_core.datasets.benchmark import Benchmark, Found, LabelledItem
from spectradino_core.datasets.files import BenchmarkError, by_stem, locate, names_of, on_grid
from spectradino_core.modality import Modality

_CLASSES = {
    "asphalt": (44, 160, 44),
    "concrete": (31, 119, 180),
    "metal": (255, 127, 14),
    "road_marking": (214, 39, 40),
    "fabric": (140, 86, 75),
    "glass": (127, 127, 127),
    "plaster": (188, 189, 34),
    "plastic": (255, 152, 150),
    "rubber": (23, 190, 207),
    "sand": (174, 199, 232),
    "gravel": (196, 156, 148),
    "ceramic": (197, 176, 213),
    "cobblestone": (247, 182, 210),
    "brick": (199, 199, 199),
    "grass": (219, 219, 141),
    "wood": (158, 218, 229),
    "leaf": (57, 59, 121),
    "water": (107, 110, 207),
    "human": (156, 158, 222),
    "sky": (99, 121, 57),
}
_TABLE = {value: value for value in range(len(_CLASSES))} | {UNLABELLED: UNLABELLED}

_LEFT = 192
"""Columns that the NIR camera doesn't see; the authors' code cuts them off every image."""

_SQUARE = 1024
"""Its evaluation then takes the middle 1024 columns, that is, four fewer at each side."""


def _find(root: Path, split: str) -> Found:
    folders = {"rgb": "polL_color", "infrared": "NIR_warped", "invalid": "NIR_warped_mask", "mask": "GT"}
    list_of_split = f"list_folder/{split}.txt"
    home = locate(root, (*folders.values(), list_of_split), nested=("multimodal_dataset", "MCubeS"))
    names = names_of(home / list_of_split, (".png",))
    invalid = by_stem(home / folders["invalid"])

    def columns(width: int) -> slice:
        spare = max(0, width - _LEFT - _SQUARE) // 2 if split != "train" else 0
        return slice(_LEFT + spare, width - spare)

    def images(item: LabelledItem) -> tuple[np.ndarray, np.ndarray]:
        colour = _colour(item.rgb)
        if colour.shape[1] <= _LEFT:
            raise BenchmarkError(
                f"{item.rgb}: {colour.shape[1]} pixels wide; MCubeS's are 1224, of which {_LEFT} are cut"
            )
        infrared = on_grid(read_counts(item.infrared), colour.shape, item.infrared)
        view = columns(colour.shape[1])
        return np.ascontiguousarray(colour[:, view]), np.ascontiguousarray(infrared[:, view])

    def mask(item: LabelledItem, notes: Counter[str]) -> np.ndarray:
        assert item.mask is not None
        labels = mask_of(item.mask, _TABLE, notes)
        if split == "train":  # the authors leave these pixels out of the loss, and count them in the evaluation
            labels = np.where(read_mask(invalid[item.name]) > 0, np.uint8(UNLABELLED), labels)
        return np.ascontiguousarray(labels[:, columns(labels.shape[1])])

    return Found.matched(home, folders, names, images=images, mask=mask)


def _colour(path: Path) -> np.ndarray:
    """uint8 [h, w, 3] in RGB order: its images have 16 bits per channel, of which the upper 8 are kept."""
    image = read_image(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype == np.uint16:
        image = np.round(image / 257.0).astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


MCUBES = Benchmark(
    name="mcubes",
    title="MCubeS (RGB and NIR)",
    infrared=Modality.NIR,
    mask_classes=tuple(_CLASSES),
    palette=tuple(_CLASSES.values()),
    splits={"train": 302, "val": 96, "test": 102},
    find=_find,
    layout="polL_color/<name>.png, NIR_warped/<name>.png, NIR_warped_mask/<name>.png, GT/<name>.png and "
    "list_folder/{train,val,test}.txt",
    source="multimodal_dataset.zip (9 GB), linked in "
    "https://github.com/kyotovision-public/multimodal-material-segmentation; unzip it and give the folder",
    licence="research; see its repository",
    ignore="255 is ignored; in training also the pixels that NIR_warped_mask marks, which the evaluation counts",
    notes=(
        "The left 192 columns have no NIR and are cropped; evaluation uses the middle 1024 of the rest, as its authors "
        "do.",
        "SS/ and SSGT4MS/ hold street classes, not materials; GT/ is read.",
        "RGB and NIR may have 16 bits; RGB is converted to 8, NIR is used as stored.",
        "Published four-modality figures use polarisation too; compare with RGB and NIR only.",
        "By day only.",
    ),
)
