"""MFNet: Ha et al., "MFNet: Towards Real-Time Semantic Segmentation for Autonomous Vehicles with Multi-Spectral Scenes"
(IROS 2017). Each PNG holds four channels, the fourth is the thermal frame.

Letters: h w image size.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from spectradino_core.data.images import read_image
from spectradino_core.datasets.benchmark import DAY, NIGHT, Benchmark, Found, LabelledItem
from spectradino_core.datasets.files import BenchmarkError, locate, names_of
from spectradino_core.modality import Modality

_CLASSES = {
    "unlabelled": (0, 0, 0),
    "car": (64, 0, 128),
    "person": (64, 64, 0),
    "bike": (0, 128, 192),
    "curve": (0, 0, 192),
    "car_stop": (128, 128, 0),
    "guardrail": (64, 64, 128),
    "color_cone": (192, 128, 128),
    "bump": (192, 64, 0),
}
_TABLE = {value: value for value in range(len(_CLASSES))}
_FLIPPED = "_flip"


def _find(root: Path, split: str) -> Found:
    home = locate(root, ("images", "labels", f"{split}.txt"), nested=("ir_seg_dataset", "MFNet", "dataset"))
    # Flipped copies are made by a script of the data set; here augmentation flips.
    names = [name for name in names_of(home / f"{split}.txt", (".png",)) if not name.endswith(_FLIPPED)]
    folders = {"rgb": "images", "infrared": "images", "mask": "labels"}
    return Found.matched(home, folders, names, subsets=_time, images=_images, table=_TABLE)


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


MFNET = Benchmark(
    name="mfnet",
    title="MFNet (MF dataset)",
    infrared=Modality.LWIR,
    mask_classes=tuple(_CLASSES),
    palette=tuple(_CLASSES.values()),
    splits={"train": 784, "val": 392, "test": 393},
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
