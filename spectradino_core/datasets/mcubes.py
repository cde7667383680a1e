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
from spectradino_core.datasets.files import BenchmarkError, by_stem, locate, matched, names_of, on_grid
from spectradino_core.modality import Modality

__all__ = ["MCUBES"]

_CLASSES = (
    "asphalt",
    "concrete",
    "metal",
    "road_marking",
    "fabric",
    "glass",
    "plaster",
    "plastic",
    "rubber",
    "sand",
    "gravel",
    "ceramic",
    "cobblestone",
    "brick",
    "grass",
    "wood",
    "leaf",
    "water",
    "human",
    "sky",
)
_TABLE = {value: value for value in range(len(_CLASSES))} | {UNLABELLED: UNLABELLED}

_LEFT = 192
"""Columns that the NIR camera doesn't see; the authors' code cuts them off every image."""

_SQUARE = 1024
"""Its evaluation then takes the middle 1024 columns, that is, four fewer at each side."""


def _find(root: Path, split: str) -> Found:
    wanted = ("polL_color", "NIR_warped", "NIR_warped_mask", "GT", f"list_folder/{split}.txt")
    home = locate(root, wanted, nested=("multimodal_dataset", "MCubeS"))
    names = names_of(home / "list_folder" / f"{split}.txt", (".png",))
    folders = {
        "rgb": by_stem(home / "polL_color", (".png",)),
        "infrared": by_stem(home / "NIR_warped", (".png",)),
        "mask": by_stem(home / "GT", (".png",)),
        "invalid": by_stem(home / "NIR_warped_mask", (".png",)),
    }
    whole, missing = matched(home, names, folders, dict.fromkeys(folders, "{}"))
    items = [LabelledItem(name, files["rgb"], files["infrared"], mask=files["mask"]) for name, files in whole.items()]

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
            labels = np.where(read_mask(folders["invalid"][item.name]) > 0, np.uint8(UNLABELLED), labels)
        return np.ascontiguousarray(labels[:, columns(labels.shape[1])])

    return Found(items, missing, images=images, mask=mask)


def _colour(path: Path) -> np.ndarray:
    """uint8 [h, w, 3] in RGB order: its pictures have 16 bits per channel, of which the upper 8 are kept."""
    image = read_image(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype == np.uint16:
        image = np.round(image / 257.0).astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


MCUBES = Benchmark(
    name="mcubes",
    title="MCubeS (RGB and NIR)",
    infrared=Modality.NIR,
    mask_classes=_CLASSES,
    palette=(
        (44, 160, 44),
        (31, 119, 180),
        (255, 127, 14),
        (214, 39, 40),
        (140, 86, 75),
        (127, 127, 127),
        (188, 189, 34),
        (255, 152, 150),
        (23, 190, 207),
        (174, 199, 232),
        (196, 156, 148),
        (197, 176, 213),
        (247, 182, 210),
        (199, 199, 199),
        (219, 219, 141),
        (158, 218, 229),
        (57, 59, 121),
        (107, 110, 207),
        (156, 158, 222),
        (99, 121, 57),
    ),
    splits={"train": 302, "val": 96, "test": 102},
    train_split="train",
    report_split="test",
    find=_find,
    layout="polL_color/<name>.png, NIR_warped/<name>.png, NIR_warped_mask/<name>.png, GT/<name>.png and "
    "list_folder/{train,val,test}.txt",
    source="multimodal_dataset.zip (9 GB), linked in "
    "https://github.com/kyotovision-public/multimodal-material-segmentation; unzip it and give the folder",
    licence="research; see its repository",
    ignore="255 is ignored; in training also the pixels that NIR_warped_mask marks, which the evaluation counts",
    notes=(
        "The left 192 columns have no NIR and are cut off; evaluation keeps the middle 1024 of the rest: its rule.",
        "SS/ and SSGT4MS/ hold street classes, not materials; GT/ is read.",
        "Colour and NIR may have 16 bits; colour is brought to 8, NIR is given as stored.",
        "Published four-modality figures use polarisation too; compare with RGB and NIR only.",
        "By day only.",
    ),
)
