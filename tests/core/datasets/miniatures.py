"""Miniatures of published data sets: a few tiny images in the real folders, with real names and label values."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

__all__ = ["MINIATURES", "Miniature", "voc_xml", "write_image"]

Objects = Sequence[tuple[str, tuple[float, float, float, float]]]


@dataclass(frozen=True)
class Miniature:
    """Writer of a miniature, and what its reader should find.

    Attributes:
        write: writes it into a folder.
        pairs: names of the pairs of each split.
        size: (width, height) of a loaded pair.
        nested: name of the folder in its archive.
        parts: files and folders without which it is only partly extracted.
        lists: list files whose lines are names.
    """

    write: Callable[[Path], None]
    pairs: dict[str, list[str]]
    size: tuple[int, int]
    nested: str
    parts: tuple[str, ...]
    lists: tuple[str, ...] = ()


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB or grey image in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
    assert cv2.imwrite(str(path), stored)


def voc_xml(objects: Objects, size: tuple[int, int] = (32, 24)) -> str:
    parts = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{parts}</annotation>"


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _colour(level: int, size: tuple[int, int] = (32, 24)) -> np.ndarray:
    """Orange-like, with a brighter left half, so that mixed up channels and sides show."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:] = (level, level // 2, level // 4)
    image[:, : size[0] // 2] += 20
    return image


def _grey(level: int, size: tuple[int, int] = (32, 24)) -> np.ndarray:
    return (np.arange(size[0] * size[1]) % 50 + level).reshape(size[1], size[0]).astype(np.uint8)


FLIR_PAIRS = {"train": ["FLIR_00002", "FLIR_00006", "FLIR_01059"], "val": ["FLIR_08865", "FLIR_08872"]}


def _flir(root: Path) -> None:
    night = {"FLIR_00006", "FLIR_08872"}
    for split, name in (("train", "align_train.txt"), ("val", "align_validation.txt")):
        _text(root / name, "".join(f"{pair}_PreviewData\n" for pair in FLIR_PAIRS[split]))
        for pair in FLIR_PAIRS[split]:
            write_image(root / f"JPEGImages/{pair}_RGB.jpg", _colour(60 if pair in night else 230))
            write_image(root / f"JPEGImages/{pair}_PreviewData.jpeg", _grey(40))
            objects = [("person", (2.0, 3.0, 8.0, 20.0)), ("car", (10.0, 5.0, 30.0, 20.0))]
            if pair == "FLIR_01059":
                objects.append(("dog", (1.0, 1.0, 9.0, 9.0)))
            _text(root / f"Annotations/{pair}_PreviewData.xml", voc_xml(objects))


LLVIP_PAIRS = {"train": ["010001", "010002"], "test": ["190001", "190002"]}


def _llvip(root: Path) -> None:
    for split, names in LLVIP_PAIRS.items():
        for name in names:
            write_image(root / f"visible/{split}/{name}.jpg", _colour(70))
            write_image(root / f"infrared/{split}/{name}.jpg", cv2.merge([_grey(30)] * 3))
            # the size in the file is wrong, as in some of the real ones, and one box reaches beyond the image
            _text(
                root / f"Annotations/{name}.xml",
                voc_xml([("person", (1, 2, 11, 22)), ("person", (25, 2, 36, 23))], size=(1080, 720)),
            )


RASMD_PAIRS = {
    split: [
        f"{weather}/data_{place}_urban/croped_data/rgb/rgb_aligned_{frame:06d}.jpg"
        for weather, place in scenes
        for frame in (0, 7)
    ]
    for split, scenes in (
        ("train", [("1_sunny", 3)]),
        ("val", [("2_cloudy", 1)]),
        ("test", [("3_rainy", 2), ("4_snow", 5)]),
    )
}


def _rasmd(root: Path) -> None:
    classes = ("person", "car", "truck", "bus", "bicycle", "motorcycle")
    for split, names in RASMD_PAIRS.items():
        images, annotations = [], []
        for number, name in enumerate(names):
            write_image(root / name, _colour(200))
            partner = name.replace("/rgb/rgb_aligned_", "/swir/swir_original_")
            write_image(root / partner, _grey(20))
            images.append({"id": number, "file_name": name, "width": 32, "height": 24})
            annotations += [
                {"id": 10 * number, "image_id": number, "category_id": 2, "bbox": [4, 5, 10, 8], "iscrowd": 0},
                {"id": 10 * number + 1, "image_id": number, "category_id": 1, "bbox": [0, 0, 20, 20], "iscrowd": 1},
            ]
        data = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
        }
        _text(root / f"annotations/instances_{split}.json", json.dumps(data))


MFNET_PAIRS = {"train": ["00001D", "00002N"], "val": ["00932D"], "test": ["01499D", "01606N"]}


def _mfnet(root: Path) -> None:
    for split, names in MFNET_PAIRS.items():
        listed = [line for name in names for line in ((name, f"{name}_flip") if split == "train" else (name,))]
        _text(root / f"{split}.txt", "\n".join(listed) + "\n")
        for name in names:
            four = np.dstack([_colour(100)[..., ::-1], _grey(80)])  # OpenCV stores B, G, R, fourth
            write_image(root / f"images/{name}.png", four)
            mask = np.zeros((24, 32), np.uint8)
            mask[4:10, 4:10], mask[12:20, 12:20] = 1, 8
            write_image(root / f"labels/{name}.png", mask)


SEMANTICRT_PAIRS = {"train": ["img_00001", "img_00002"], "val": ["img_00003"], "test": ["img_00004", "img_00005"]}


def _semanticrt(root: Path) -> None:
    for split, names in SEMANTICRT_PAIRS.items():
        _text(root / f"{split}.txt", "\n".join(names))
        for name in names:
            write_image(root / f"rgb/{name}.jpg", _colour(120))
            write_image(root / f"thermal/{name}.jpg", cv2.merge([_grey(60)] * 3))
            mask = np.zeros((24, 32), np.uint8)
            mask[4:10, 4:10], mask[12:20, 12:20] = 6, 12
            write_image(root / f"labels/{name}.png", mask)
    _text(root / "test_day.txt", "img_00004\n")
    _text(root / "test_night.txt", "img_00005\n")
    _text(root / "test_hard.txt", "img_00005\n")


FMB_PAIRS = {"train": ["00001", "00002"], "test": ["00003"]}


def _fmb(root: Path) -> None:
    for split, names in FMB_PAIRS.items():
        for name in names:
            write_image(root / f"{split}/Visible/{name}.png", _colour(150))
            write_image(root / f"{split}/Infrared/{name}.png", cv2.merge([_grey(90)] * 3))
            mask = np.zeros((24, 32), np.uint8)
            mask[:, 8:16], mask[:, 16:24], mask[:, 24:] = 1, 14, 255
            write_image(root / f"{split}/Label/{name}.png", mask)
            write_image(root / f"{split}/color/{name}.png", _colour(30))


MCUBES_PAIRS = {
    "train": ["outscene1208_2_0000000150", "outscene1208_2_0000000180"],
    "val": ["outscene1208_3_0000000060"],
    "test": ["outscene1210_1_0000000000"],
}
MCUBES_SIZE = (1224, 12)


def _mcubes(root: Path) -> None:
    """At the real width, because columns are cut; flat, to be quick."""
    width, height = MCUBES_SIZE
    for split, names in MCUBES_PAIRS.items():
        _text(root / f"list_folder/{split}.txt", "\n".join(names) + "\n")
        for name in names:
            columns = np.arange(width, dtype=np.uint16)
            colour = np.zeros((height, width, 3), np.uint16)
            colour[..., 0], colour[..., 1] = 40000, columns * 50
            write_image(root / f"polL_color/{name}.png", colour)
            write_image(root / f"NIR_warped/{name}.png", np.tile(columns * 50, (height, 1)))
            mask = np.full((height, width), 19, np.uint8)
            mask[:, 600:], mask[:, 1000:] = 0, 255
            write_image(root / f"GT/{name}.png", mask)
            invalid = np.zeros((height, width), np.uint8)
            invalid[:, :400] = 255
            write_image(root / f"NIR_warped_mask/{name}.png", invalid)


ROADSCENE_PAIRS = {
    "train": ["FLIR_00122", "FLIR_00231", "FLIR_00300"],
    "val": ["FLIR_04929"],
}
NIGHTS = {"FLIR_00231"}


def _roadscene(root: Path) -> None:
    for split in ("train", "val"):
        names = [*ROADSCENE_PAIRS[split], f"unlabelled_{split}"]
        items, images, annotations = [], [], []
        for number, name in enumerate(names):
            paths = {"rgb": f"{split}/rgb/{name}.jpg", "lwir": f"{split}/lwir/{name}.png"}
            write_image(root / paths["rgb"], _colour(200))
            write_image(root / paths["lwir"], _grey(10))
            items.append({"id": name, "width": 32, "height": 24, **paths, "label": None})
            if not name.startswith("unlabelled"):
                time = "night" if name in NIGHTS else "day"
                images.append({"id": number, "file_name": paths["rgb"], "width": 32, "height": 24, "time": time})
                annotations.append({"id": number, "image_id": number, "category_id": 2, "bbox": [4, 5, 10, 8]})
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(("person", "bike", "car"))]
        _text(root / f"index_{split}.json", json.dumps({"set": "roadscene", "items": items}))
        data = {"images": images, "annotations": annotations, "categories": categories}
        _text(root / f"instances_{split}.json", json.dumps(data))


MINIATURES: dict[str, Miniature] = {
    "flir": Miniature(
        _flir,
        FLIR_PAIRS,
        (32, 24),
        "align",
        ("JPEGImages", "Annotations", "align_validation.txt"),
        ("align_train.txt", "align_validation.txt"),
    ),
    "llvip": Miniature(_llvip, LLVIP_PAIRS, (32, 24), "LLVIP", ("visible/test", "infrared/test", "Annotations")),
    "rasmd": Miniature(_rasmd, RASMD_PAIRS, (32, 24), "RASMD_DATASET", ("annotations/instances_test.json",)),
    "mfnet": Miniature(
        _mfnet, MFNET_PAIRS, (32, 24), "ir_seg_dataset", ("images", "labels", "test.txt"), ("train.txt", "test.txt")
    ),
    "semanticrt": Miniature(
        _semanticrt,
        SEMANTICRT_PAIRS,
        (32, 24),
        "SemanticRT_dataset",
        ("rgb", "thermal", "labels", "test.txt"),
        ("train.txt", "test.txt"),
    ),
    "fmb": Miniature(_fmb, FMB_PAIRS, (32, 24), "FMB", ("test/Visible", "test/Infrared", "test/Label")),
    "mcubes": Miniature(
        _mcubes,
        MCUBES_PAIRS,
        (1024, 12),
        "multimodal_dataset",
        ("polL_color", "NIR_warped", "NIR_warped_mask", "GT", "list_folder/test.txt"),
        ("list_folder/train.txt", "list_folder/test.txt"),
    ),
    "roadscene": Miniature(
        _roadscene,
        ROADSCENE_PAIRS,
        (32, 24),
        "roadscene_rgb_lwir",
        ("index_val.json", "instances_val.json", "val/rgb", "val/lwir"),
    ),
    "roadscene_night": Miniature(
        _roadscene,
        {"train": ["FLIR_00122", "FLIR_00300"], "test": ["FLIR_00231", "FLIR_04929"]},
        (32, 24),
        "roadscene_rgb_lwir",
        ("index_val.json", "instances_val.json", "val/rgb", "val/lwir"),
    ),
}
"""By the name of the benchmark."""
