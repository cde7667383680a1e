"""MFNet: Ha et al., "MFNet: Towards Real-Time Semantic Segmentation for Autonomous Vehicles with Multi-Spectral Scenes"
(IROS 2017). Each PNG holds four channels, the fourth is the thermal frame.

Letters: h w image size.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from spectradino_core.data.images import read_image
from spectradino_core.data.labels.masks import mask_of
from spectradino_core.datasets.benchmark import Benchmark, Found, LabelledItem
from spectradino_core.datasets.daylight import DAY, NIGHT
from spectradino_core.datasets.files import BenchmarkError, by_stem, locate, matched, names_of
from spectradino_core.modality import Modality

__all__ = ["MFNET"]

_CLASSES = ("unlabelled", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")
_TABLE = {value: value for value in range(len(_CLASSES))}
_FLIPPED = "_flip"


def _find(root: Path, split: str) -> Found:
    home = locate(root, ("images", "labels", f"{split}.txt"), nested=("ir_seg_dataset", "MFNet", "dataset"))
    # Flipped copies are made by a script of the data set; here augmentation flips.
    names = [name for name in names_of(home / f"{split}.txt", (".png",)) if not name.endswith(_FLIPPED)]
    folders = {"rgb": by_stem(home / "images", (".png",)), "mask": by_stem(home / "labels", (".png",))}
    whole, missing = matched(home, names, folders, {"rgb": "{}", "mask": "{}"})
    items = [
        LabelledItem(name, files["rgb"], files["rgb"], mask=files["mask"], subsets=_time(name))
        for name, files in whole.items()
    ]
    return Found(items, missing, images=_images, mask=_mask)


def _time(name: str) -> tuple[str, ...]:
    return {"D": (DAY,), "N": (NIGHT,)}.get(name[-1], ())


def _images(item: LabelledItem) -> tuple[np.ndarray, np.ndarray]:
    image = read_image(item.rgb, cv2.IMREAD_UNCHANGED)
    if image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        shape = "x".join(map(str, image.shape))
        raise BenchmarkError(
            f"{item.rgb}: {shape} {image.dtype}, but MFNet's images are 8-bit with a fourth channel, the thermal "
            "frame; was it converted? Extract the archive again"
        )
    return np.ascontiguousarray(image[..., 2::-1]), np.ascontiguousarray(image[..., 3])


def _mask(item: LabelledItem, notes: Counter[str]) -> np.ndarray:
    assert item.mask is not None
    return mask_of(item.mask, _TABLE, notes)


MFNET = Benchmark(
    name="mfnet",
    title="MFNet (MF dataset)",
    infrared=Modality.LWIR,
    mask_classes=_CLASSES,
    palette=(
        (0, 0, 0),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
        (0, 0, 192),
        (128, 128, 0),
        (64, 64, 128),
        (192, 128, 128),
        (192, 64, 0),
    ),
    splits={"train": 784, "val": 392, "test": 393},
    train_split="train",
    report_split="test",
    find=_find,
    time_rule="stated",
    layout="images/<00001D>.png with four channels, labels/<00001D>.png, train.txt, val.txt and test.txt",
    source="https://www.mi.t.u-tokyo.ac.jp/static/projects/mil_multispectral/ (ir_seg_dataset); unzip it and give the "
    "folder",
    licence="research; no licence is stated",
    ignore='"unlabelled" is class 0 and counts in mIoU, as in RTFNet and later papers; nothing is ignored',
    notes=(
        'mIoU is over nine classes, "unlabelled" (mostly above 97 %) among them; over the eight objects it is lower.',
        "Images saved by a tool that drops alpha have lost the thermal frame and are refused.",
        "train.txt also lists <id>_flip, which make_flip.py writes; they are skipped (1568 names, 784 pairs).",
        "Day and night: the D or N at the end of a name.",
        "Guardrail is nearly absent from the test split; its IoU is noise.",
    ),
)
