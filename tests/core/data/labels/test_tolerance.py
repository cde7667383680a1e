"""All readers of labels accept the same files, with the same boxes, masks and counts.

Every reader (bags, folders of pairs, each published data set) is given the same deviations of real label files.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectradino_core.bags.ground_truth import GroundTruth
from spectradino_core.bags.ground_truth_coco import read_coco as read_truth
from spectradino_core.data.labels import LabelError
from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.datasets import open_benchmark
from tests.blob_model import blob_info
from tests.core.datasets.miniatures import MINIATURES, voc_xml

SIZE = (32, 24)
HASH = ".rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n"


@dataclass
class Read:
    """Result of a reader for its first image: boxes as (class, x1, y1, x2, y2), the ignored ones, and the notes."""

    boxes: list[tuple[str, float, float, float, float]]
    ignored: list[tuple[str, float, float, float, float]]
    notes: dict[str, int]


def rows(names: Any, boxes: Any, labels: Any) -> list[tuple[str, float, float, float, float]]:
    return [(names[label], *box) for label, box in zip(labels.tolist(), boxes.tolist(), strict=True)]


def positive(notes: Counter[str]) -> dict[str, int]:
    return {kind: count for kind, count in notes.items() if count}


# ------------------------------------------------------------------------------------------------ doors with COCO files


@dataclass
class CocoDoor:
    """Reader of COCO files: `write` makes a valid set in a folder, `label` is its file, `read` opens it."""

    write: Callable[[Path], None]
    label: str
    images: str
    read: Callable[[Path], Read]
    name: str = "car"


def write_bag_labels(root: Path) -> None:
    image = {"id": 0, "file_name": "1700000000.000000000.png", "width": 32, "height": 24}
    data = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}]}
    root.mkdir()
    (root / "truth.json").write_text(json.dumps(data))


def of_bag(root: Path) -> Read:
    names = ("person", "bicycle", "car")
    truth: GroundTruth = read_truth(root / "truth.json", blob_info((42, 28)).with_(box_classes=names))
    frame = truth.frames[0]
    assert frame.boxes is not None
    assert frame.labels is not None
    assert frame.crowd is not None
    assert frame.stamp_ns == 1_700_000_000_000_000_000
    keep = ~frame.crowd
    found = rows(names, frame.boxes[keep], frame.labels[keep]), rows(names, frame.boxes[~keep], frame.labels[~keep])
    return Read(*found, positive(truth.notes))


def of_folder(root: Path) -> Read:
    folder = PairedFolder(root, "val", "lwir", ("person", "bicycle", "car"))
    sample = folder.load(folder[0])
    found = [rows(folder.classes, *part) for part in _parts(sample)]
    return Read(*found, positive(folder.notes))


def of_benchmark(name: str, split: str) -> Callable[[Path], Read]:
    def read(root: Path) -> Read:
        pairs = open_benchmark(name, root, split)
        sample = pairs.load(pairs[0])
        return Read(*(rows(pairs.box_classes, *part) for part in _parts(sample)), positive(pairs.notes))

    return read


def _parts(sample: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    ignored = sample.ignored if sample.ignored is not None else np.zeros((0, 4))
    labels = sample.ignored_labels if sample.ignored_labels is not None else np.zeros(0, int)
    return [(sample.boxes, sample.labels), (ignored, labels)]


COCO_DOORS = {
    "bag evaluate --labels": CocoDoor(write_bag_labels, "truth.json", "", of_bag),
    "paired folder": CocoDoor(MINIATURES["roadscene"].write, "instances_val.json", "val/rgb", of_folder),
    "roadscene": CocoDoor(
        MINIATURES["roadscene"].write, "instances_val.json", "val/rgb", of_benchmark("roadscene", "val")
    ),
    "roadscene_night": CocoDoor(
        MINIATURES["roadscene"].write, "instances_train.json", "train/rgb", of_benchmark("roadscene_night", "train")
    ),
    "rasmd": CocoDoor(
        MINIATURES["rasmd"].write, "annotations/instances_test.json", "3_rainy", of_benchmark("rasmd", "test")
    ),
}


def annotate(data: dict[str, Any], *boxes: list[float], **more: Any) -> None:
    """Give the first image these boxes, of the class car, in place of all annotations."""
    car = next(one["id"] for one in data["categories"] if one["name"] == "car")
    image = data["images"][0]["id"]
    data["annotations"] = [
        {"id": n, "image_id": image, "category_id": car, "bbox": box, **more} for n, box in enumerate(boxes)
    ]


def as_text(data: dict[str, Any]) -> None:
    annotate(data, [4, 5, 10, 8])
    for image in data["images"]:
        image["id"] = str(image["id"])
    data["annotations"][0]["image_id"] = str(data["annotations"][0]["image_id"])


def as_float(data: dict[str, Any]) -> None:
    annotate(data, [4, 5, 10, 8])
    data["annotations"][0]["image_id"] = float(data["annotations"][0]["image_id"])
    data["annotations"][0]["category_id"] = str(data["annotations"][0]["category_id"])


def roboflow(data: dict[str, Any]) -> None:
    annotate(data, [4, 5, 10, 8])
    image = data["images"][0]
    path = Path(image["file_name"])
    stem = path.stem.replace(".", "-")
    image["file_name"] = str(path.with_name(f"{stem}_{path.suffix[1:]}{HASH}.jpg"))


def windows(data: dict[str, Any]) -> None:
    annotate(data, [4, 5, 10, 8])
    name = data["images"][0]["file_name"]
    data["images"][0]["file_name"] = ".\\" + name.replace("/", "\\")


BOX = (4.0, 5.0, 14.0, 13.0)
COCO_CASES: dict[str, tuple[Callable[[dict[str, Any]], None], list[Any], list[Any], dict[str, int]]] = {
    "plain": (lambda d: annotate(d, [4, 5, 10, 8]), [BOX], [], {}),
    "zero size": (lambda d: annotate(d, [4, 5, 10, 8], [3, 3, 0, 5], [3, 3, 4, -1]), [BOX], [], {"zero_size": 2}),
    "outside": (lambda d: annotate(d, [4, 5, 10, 8], [32, 3, 5, 5]), [BOX], [], {"outside": 1}),
    "clipped": (lambda d: annotate(d, [-6, 5, 20, 8]), [(0, 5, 14, 13)], [], {"clipped": 1}),
    "crowd as text": (lambda d: annotate(d, [4, 5, 10, 8], iscrowd="1"), [], [BOX], {"text_flags": 1}),
    "no crowd as text": (lambda d: annotate(d, [4, 5, 10, 8], iscrowd="0"), [BOX], [], {"text_flags": 1}),
    "crowd in words": (lambda d: annotate(d, [4, 5, 10, 8], iscrowd="False"), [BOX], [], {"text_flags": 1}),
    "ignore": (lambda d: annotate(d, [4, 5, 10, 8], ignore=True), [], [BOX], {}),
    "ids as text": (as_text, [BOX], [], {"converted_ids": -1}),
    "ids as decimals": (as_float, [BOX], [], {"converted_ids": 2}),
    "roboflow names": (roboflow, [BOX], [], {"renamed": 1}),
    "windows paths": (windows, [BOX], [], {"backslashes": 1}),
}


def prepared(door: CocoDoor, root: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    door.write(root)
    data = json.loads((root / door.label).read_text())
    change(data)
    (root / door.label).write_text(json.dumps(data))
    return data


@pytest.mark.parametrize("case", COCO_CASES)
@pytest.mark.parametrize("door", COCO_DOORS)
def test_coco_oddities(tmp_path: Path, door: str, case: str) -> None:
    change, boxes, ignored, notes = COCO_CASES[case]
    data = prepared(COCO_DOORS[door], tmp_path / "set", change)
    if "converted_ids" in notes and notes["converted_ids"] < 0:  # every image and one reference to it
        notes = {"converted_ids": len(data["images"]) + 1}
    assert COCO_DOORS[door].read(tmp_path / "set") == Read(
        [("car", *box) for box in boxes], [("car", *box) for box in ignored], notes
    )


@pytest.mark.parametrize("door", COCO_DOORS)
def test_coco_bytes(tmp_path: Path, door: str) -> None:
    root, way = tmp_path / "set", COCO_DOORS[door]
    prepared(way, root, lambda d: annotate(d, [4, 5, 10, 8]))
    label = root / way.label
    text = json.dumps(json.loads(label.read_text()), indent=1)
    for data, notes in (
        (text.encode("utf-8-sig"), {"byte_order_mark": 1}),
        (text.encode("utf-16"), {"byte_order_mark": 1}),
        (text.replace("\n", "\r\n").encode(), {}),
        (text.replace("person", "行人").replace("dog", "行人").encode("gbk"), {"other_encoding": 1}),
    ):
        label.write_bytes(data)
        assert way.read(root) == Read([("car", *BOX)], [], notes)
    label.write_text(LFS)
    with pytest.raises(LabelError, match=rf"{label.name}.*Git.LFS pointer"):
        way.read(root)


@pytest.mark.parametrize("door", COCO_DOORS)
def test_coco_behind_a_users_own_links(tmp_path: Path, door: str) -> None:
    root, way = tmp_path / "set", COCO_DOORS[door]
    prepared(way, root, lambda d: annotate(d, [4, 5, 10, 8]))
    label = root / way.label
    for part in {label, *([root / way.images] if way.images else [])}:
        elsewhere = tmp_path / f"other disk {part.name}"
        part.rename(elsewhere)
        part.symlink_to(elsewhere)
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    assert way.read(linked) == Read([("car", *BOX)], [], {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: annotate(d, [4, 5, 10]), r"annotation 0 has no bbox"),
        (lambda d: annotate(d, [4, 5, 10, float("inf")]), r"annotation 0 has a bbox that is not finite"),
        (lambda d: annotate(d, [4, 5, 10, 8], iscrowd="often"), r"annotation 0 has iscrowd 'often'"),
        (lambda d: annotate(d, [4, 5, 10, 8], category_id=99), r"annotation 0 has category_id 99"),
        (lambda d: annotate(d, [4, 5, 10, 8], image_id="x"), r"annotation 0 has image_id 'x'"),
        (lambda d: d["images"].append(d["images"][0]), "two entries of kind image"),
        (lambda d: d.pop("annotations"), "it lacks a list of annotations"),
    ],
)
@pytest.mark.parametrize("door", COCO_DOORS)
def test_what_is_damaged_is_refused_by_all(tmp_path: Path, door: str, change: Any, message: str) -> None:
    way = COCO_DOORS[door]
    prepared(way, tmp_path / "set", change)
    with pytest.raises(LabelError, match=message) as failed:
        way.read(tmp_path / "set")
    assert Path(way.label).name in str(failed.value)


# ------------------------------------------------------------------------------------------------- doors with VOC files


VOC_DOORS = {
    "flir": ("val", "Annotations/FLIR_08865_PreviewData.xml"),
    "llvip": ("test", "Annotations/190001.xml"),
}
SOUND = voc_xml([("person", (4, 5, 14, 13))])


def declared(encoding: str, text: str = SOUND) -> str:
    return f'<?xml version="1.0" encoding="{encoding}"?>\r\n' + text.replace(
        "<size>", "<folder>街道图像</folder>\r\n<size>"
    )


VOC_CASES: dict[str, tuple[bytes, dict[str, int]]] = {
    "plain": (SOUND.encode(), {}),
    "zero size": (voc_xml([("person", (4, 5, 14, 13)), ("person", (9, 9, 9, 12))]).encode(), {"zero_size": 1}),
    "inside out": (voc_xml([("person", (4, 5, 14, 13)), ("person", (9, 9, 3, 12))]).encode(), {"zero_size": 1}),
    "outside": (voc_xml([("person", (4, 5, 14, 13)), ("person", (40, 9, 50, 12))]).encode(), {"outside": 1}),
    "byte order mark": (SOUND.encode("utf-8-sig"), {"byte_order_mark": 1}),
    "mark and declaration": (declared("utf-8").encode("utf-8-sig"), {"byte_order_mark": 1}),
    "utf-16": (declared("utf-16").encode("utf-16"), {"byte_order_mark": 1}),
    "windows lines": (SOUND.replace("><", ">\r\n<").encode(), {}),
    "gb2312": (declared("GB2312").encode("gb2312"), {"other_encoding": 1}),
    "gbk": (declared("gbk").encode("gbk"), {"other_encoding": 1}),
    "gb18030": (declared("GB18030").encode("gb18030"), {"other_encoding": 1}),
    "gbk, not declared": (declared("utf-8").encode("gbk"), {"other_encoding": 1}),
    "gbk without declaration": (declared("x").split("?>", 1)[1].encode("gbk"), {"other_encoding": 1}),
    "unknown": (declared("x-mac-klingon").encode(), {}),
    "unknown and not utf-8": (declared("x-mac-klingon").encode("gbk"), {"other_encoding": 1}),
    "a slow codec": (declared("punycode").encode(), {}),
    "no text codec": (declared("zlib").encode(), {}),
    "latin-1": (declared("x").replace("街道图像", "véhicules à l'arrêt").encode("latin-1"), {"other_encoding": 1}),
    "ascii in gbk": (declared("gbk").replace("街道图像", "street").encode(), {}),
}


@pytest.mark.parametrize("case", VOC_CASES)
@pytest.mark.parametrize("door", VOC_DOORS)
def test_voc_oddities(tmp_path: Path, door: str, case: str) -> None:
    data, notes = VOC_CASES[case]
    split, label = VOC_DOORS[door]
    MINIATURES[door].write(tmp_path)
    (tmp_path / label).write_bytes(data)
    assert of_benchmark(door, split)(tmp_path) == Read([("person", *BOX)], [], notes)


@pytest.mark.parametrize("door", VOC_DOORS)
def test_voc_pointers_links_and_roboflow_names(tmp_path: Path, door: str) -> None:
    split, label = VOC_DOORS[door]
    root = tmp_path / "set"
    MINIATURES[door].write(root)
    (root / label).write_bytes(SOUND.encode())
    (root / "Annotations").rename(tmp_path / "other disk")
    (root / "Annotations").symlink_to(tmp_path / "other disk")
    read = of_benchmark(door, split)
    assert read(root) == Read([("person", *BOX)], [], {})
    for path in sorted(root.rglob("*.jp*g")) + sorted((tmp_path / "other disk").glob("*.xml")):
        if path.stem == Path(label).stem or path.stem == Path(label).stem.replace("_PreviewData", "_RGB"):
            path.rename(path.with_name(f"{path.stem}_jpg{HASH}{path.suffix}"))
    assert read(root) == Read([("person", *BOX)], [], {"renamed": 1})
    next((tmp_path / "other disk").glob(f"*{HASH}.xml")).write_text(LFS)
    with pytest.raises(LabelError, match=r"xml.*Git.LFS pointer"):
        read(root)


def test_copies_that_roboflow_made_stay_apart(tmp_path: Path) -> None:
    MINIATURES["llvip"].write(tmp_path)
    for folder, ending in (("visible/test", "jpg"), ("infrared/test", "jpg"), ("Annotations", "xml")):
        whole = tmp_path / folder / f"190001.{ending}"
        for number in "ab":
            shutil.copy(whole, whole.with_name(f"190001_jpg.rf.{number * 32}.{ending}"))
        whole.unlink()
    names = [item.name for item in open_benchmark("llvip", tmp_path, "test")]
    assert names == [f"190001_jpg.rf.{'a' * 32}", f"190001_jpg.rf.{'b' * 32}", "190002"]
