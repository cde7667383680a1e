"""Small folders of a user's own data in every usual layout, with known objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.core.datasets.miniatures import voc_xml, write_image

__all__ = ["NAMES", "SIZE", "Layout", "colour", "grey", "objects_of", "write_coco", "write_own", "write_yolo"]

SIZE = (40, 32)
NAMES = ("person", "forklift", "car")

Objects = list[tuple[str, tuple[float, float, float, float]]]


@dataclass(frozen=True)
class Layout:
    """File paths with {split} and {name}.

    Attributes:
        rgb, thermal: paths of images, without ending.
        label: path of an image's labels, without ending; for COCO the path of the file.
    """

    rgb: str
    thermal: str
    label: str


def colour(level: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:] = (level, level // 2, level // 4)
    return image


def grey(level: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return (np.arange(size[0] * size[1]) % 60 + level).reshape(size[1], size[0]).astype(np.uint8)


def objects_of(number: int) -> Objects:
    """Image 0 has a person and a forklift, 1 nothing, 2 a car, 3 as 0, .."""
    kinds: list[Objects] = [
        [("person", (4.0, 8.0, 14.0, 24.0)), ("forklift", (20.0, 2.0, 36.0, 18.0))],
        [],
        [("car", (10.0, 4.0, 30.0, 20.0))],
    ]
    return kinds[number % 3]


def write_own(
    root: Path,
    layout: Layout,
    form: str,
    splits: Mapping[str, Sequence[tuple[str, str]]],
    scale: float = 1.0,
) -> None:
    """Write images with labels.

    Args:
        root: output folder.
        layout: file paths.
        form: "COCO", "VOC" or "YOLO".
        splits: by split, (name, cameras) of each image; cameras are "both", "rgb" or "thermal".
        scale: size of the thermal images relative to the RGB images.
    """
    small = (round(SIZE[0] * scale), round(SIZE[1] * scale))
    for split, items in splits.items():
        rows = []
        for number, (name, cameras) in enumerate(items):
            fill = {"split": split, "name": name}
            if cameras in ("both", "rgb"):
                write_image(root / (layout.rgb.format(**fill) + ".png"), colour(100 + number))
            if cameras in ("both", "thermal"):
                write_image(root / (layout.thermal.format(**fill) + ".png"), grey(10 + number, small))
            camera = layout.thermal if cameras == "thermal" else layout.rgb
            rows.append((camera.format(**fill) + ".png", objects_of(number)))
            label = root / layout.label.format(**fill)
            if form == "VOC":
                label = label.with_name(label.name + ".xml")
                label.parent.mkdir(parents=True, exist_ok=True)
                label.write_text(voc_xml(objects_of(number), SIZE))
            elif form == "YOLO":
                write_yolo(label.with_name(label.name + ".txt"), objects_of(number))
        if form == "COCO":
            write_coco(root / (layout.label.format(split=split, name="") + ".json"), rows)
    if form == "YOLO":
        (root / "data.yaml").write_text(f"nc: 3\nnames: [{', '.join(NAMES)}]\n")


def write_yolo(path: Path, objects: Objects) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = SIZE
    lines = [
        f"{NAMES.index(name)} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
        f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}"
        for name, (x1, y1, x2, y2) in objects
    ]
    path.write_text("\n".join(lines))


def write_coco(path: Path, rows: Sequence[tuple[str, Objects]], folders: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, (name, objects) in enumerate(rows):
        name = name if folders else Path(name).name
        images.append({"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for kind, (x1, y1, x2, y2) in objects:
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": NAMES.index(kind), "bbox": box}
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
