"""A user's own folder: every usual layout gives the same images, boxes and classes; errors name their cause."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectradino_core.bags.sources import FolderViews
from spectradino_core.data.labels import LabelError
from spectradino_core.datasets.check import check_benchmark
from spectradino_core.datasets.own import OwnFolder, open_own
from spectradino_core.modality import Modality
from spectradino_core.text import printable
from tests.core.datasets.miniatures import voc_xml, write_image
from tests.core.datasets.own.folders import (
    NAMES,
    SIZE,
    Layout,
    colour,
    grey,
    objects_of,
    write_coco,
    write_own,
    write_yolo,
)

SPLITS = {
    "train": [("0001", "both"), ("0002", "both"), ("0003", "rgb"), ("0004", "thermal")],
    "val": [("0009", "both")],
}
LAYOUTS = {
    "cameras first": Layout("rgb/{split}/{name}", "thermal/{split}/{name}", "labels/{split}/{name}"),
    "splits first": Layout("{split}/visible/{name}", "{split}/infrared/{name}", "{split}/labels/{name}"),
    "images and labels": Layout("images/{split}/color/{name}", "images/{split}/lwir/{name}", "labels/{split}/{name}"),
    "words in names": Layout("{split}_RGB_images/{name}", "{split}-Thermal-8bit/{name}", "{split}_annotations/{name}"),
    "below a folder": Layout("export/rgb/{split}/{name}", "export/ir/{split}/{name}", "export/labels/{split}/{name}"),
}
COCO_LAYOUTS = {
    "beside the folders": Layout("rgb/{split}/{name}", "thermal/{split}/{name}", "instances_{split}"),
    "in a folder": Layout("{split}/rgb/{name}", "{split}/ir/{name}", "annotations/{split}"),
    "saying the split": Layout("images/rgb/{name}", "images/thermal/{name}", "annotations/instances_{split}"),
    "in the split": Layout("{split}/rgb/{name}", "{split}/ir/{name}", "{split}/_annotations.coco"),
}


def shown(own: OwnFolder, split: str) -> dict[str, tuple[tuple[bool, bool], list[tuple[str, list[float]]]]]:
    """Return cameras and boxes with classes by image name."""
    pairs = own.benchmark.open(own.root, split)
    found = {}
    for item in pairs:
        sample = pairs.load(item)
        assert sample.boxes is not None
        assert sample.labels is not None
        assert sample.present == item.present
        assert sample.size == SIZE
        names = [pairs.box_classes[label] for label in sample.labels]
        boxes = [[round(v, 2) for v in box] for box in sample.boxes.tolist()]
        found[Path(item.name).stem] = (item.present, list(zip(names, boxes, strict=True)))
    return found


def expected(items: list[tuple[str, str]]) -> dict[str, tuple[tuple[bool, bool], list[tuple[str, list[float]]]]]:
    cameras = {"both": (True, True), "rgb": (True, False), "thermal": (False, True)}
    return {
        name: (cameras[which], [(kind, list(box)) for kind, box in objects_of(number)])
        for number, (name, which) in enumerate(items)
    }


@pytest.mark.parametrize("form", ["YOLO", "VOC"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_of_one_image_each(tmp_path: Path, layout: str, form: str) -> None:
    write_own(tmp_path, LAYOUTS[layout], form, SPLITS)
    own = open_own(tmp_path)
    assert {split: shown(own, split) for split in own.benchmark.splits} == {
        split: expected(items) for split, items in SPLITS.items()
    }
    assert sorted(own.benchmark.box_classes) == sorted(NAMES)
    assert own.provenance["images"] == {"train": {"infrared only": 1, "pairs": 2, "rgb only": 1}, "val": {"pairs": 1}}
    assert own.provenance["formats"] == [form]
    assert own.remarks == []


@pytest.mark.parametrize("layout", COCO_LAYOUTS)
@pytest.mark.parametrize("folders", [True, False])
def test_coco(tmp_path: Path, layout: str, folders: bool) -> None:
    write_own(tmp_path, COCO_LAYOUTS[layout], "COCO", SPLITS)
    if not folders:  # file names alone, as many tools write them
        for path in tmp_path.rglob("*.json"):
            data = json.loads(path.read_text())
            for image in data["images"]:
                image["file_name"] = Path(image["file_name"]).name
            path.write_text(json.dumps(data))
    own = open_own(tmp_path)
    for split, items in SPLITS.items():
        assert shown(own, split) == expected(items)
    assert own.benchmark.box_classes == NAMES


def test_coco_names_of_other_folders_and_of_lost_images(tmp_path: Path) -> None:
    write_own(tmp_path, COCO_LAYOUTS["beside the folders"], "COCO", SPLITS)
    path = tmp_path / "instances_train.json"
    data = json.loads(path.read_text())
    for image in data["images"]:
        image["file_name"] = "D:\\export\\pictures\\" + Path(image["file_name"]).name
    data["images"].append(data["images"][0] | {"id": 99, "file_name": "pictures/lost.png"})
    path.write_text(json.dumps(data))
    own = open_own(tmp_path)
    assert shown(own, "train") == expected(SPLITS["train"])
    assert any("matched by file name only" in remark for remark in own.remarks)
    assert any("1 of the 5 images that it lists are missing, such as pictures/lost.png" in r for r in own.remarks)


def test_classes_are_those_of_objects_in_the_order_of_the_files(tmp_path: Path) -> None:
    write_own(tmp_path, LAYOUTS["cameras first"], "YOLO", {"train": SPLITS["train"][:2], "val": SPLITS["val"]})
    own = open_own(tmp_path)
    assert own.benchmark.box_classes == ("person", "forklift")
    assert any("no object of the declared classes car" in remark for remark in own.remarks)
    chosen = open_own(tmp_path, classes=["forklift"])
    assert shown(chosen, "train")["0001"][1] == [("forklift", [20, 2, 36, 18])]
    report = check_benchmark(chosen.benchmark, tmp_path, ["train"])[0]
    assert any("1 objects of the class person are skipped" in remark for remark in report.remarks)
    with pytest.raises(LabelError, match=r"no object of tram; its classes are person, forklift"):
        open_own(tmp_path, classes=["person", "tram"])


def test_unnamed_folders_are_distinguished_by_their_images(tmp_path: Path) -> None:
    write_own(tmp_path, Layout("cam_a/{name}", "cam_b/{name}", "labels/{name}"), "YOLO", {"": SPLITS["train"][:2]})
    own = open_own(tmp_path)
    assert [item.present for item in own.benchmark.open(tmp_path, "train")] == [(True, True)]
    assert any("'cam_b' are taken for infrared, because they are grey" in remark for remark in own.remarks)
    assert any("its last 1 of 2 labelled images" in remark for remark in own.remarks)
    for path in (tmp_path / "cam_a").iterdir():
        write_image(path, grey(90))
    with pytest.raises(LabelError, match="give --rgb cam_a --ir cam_b"):
        open_own(tmp_path)
    named = open_own(tmp_path, rgb_folder="cam_a", infrared_folder="cam_b", infrared="nir")
    assert named.benchmark.infrared is Modality.NIR
    assert (
        sum(
            item.present == (True, True)
            for split in named.benchmark.splits
            for item in named.benchmark.open(tmp_path, split)
        )
        == 2
    )
    with pytest.raises(LabelError, match="no folder named 'cam_c' holds images"):
        open_own(tmp_path, rgb_folder="cam_c")


def test_one_camera_alone(tmp_path: Path) -> None:
    write_own(
        tmp_path,
        Layout("x/{name}", "images/{name}", "labels/{name}"),
        "VOC",
        {"": [("a", "thermal"), ("b", "thermal")]},
    )
    own = open_own(tmp_path)
    assert own.provenance["images"] == {"train": {"infrared only": 1}, "val": {"infrared only": 1}}
    sample = next(own.benchmark.open(tmp_path, "train").samples())
    assert sample.present == (False, True)
    assert not sample.rgb.any()
    assert sample.infrared.max() > 0


@pytest.mark.parametrize("form", ["COCO", "VOC", "YOLO"])
def test_boxes_drawn_on_a_smaller_thermal_image_are_scaled(tmp_path: Path, form: str) -> None:
    label = {"COCO": "thermal/annotations", "VOC": "thermal_xml/{name}", "YOLO": "thermal_txt/{name}"}[form]
    write_own(tmp_path, Layout("rgb/{name}", "thermal/{name}", label), form, {"": [("a", "both"), ("d", "both")]}, 0.5)
    for path in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.xml")]:  # as drawn on 20 x 16 pixels
        text = path.read_text()
        if form == "COCO":
            data = json.loads(text)
            for image in data["images"]:
                image |= {"width": 20, "height": 16, "file_name": Path(image["file_name"]).name}
            for one in data["annotations"]:
                one["bbox"] = [v / 2 for v in one["bbox"]]
            path.write_text(json.dumps(data))
        else:
            half = [(name, tuple(v / 2 for v in box)) for name, box in objects_of(0)]
            path.write_text(voc_xml(half if path.stem == "a" else [], (20, 16)))  # type: ignore[arg-type]
    assert shown(open_own(tmp_path), "train") == {"a": ((True, True), expected([("a", "both")])["a"][1])}


def test_unlabelled_images_are_counted_and_an_empty_file_means_nothing_there(tmp_path: Path) -> None:
    write_own(tmp_path, LAYOUTS["cameras first"], "YOLO", SPLITS)
    (tmp_path / "labels/train/0001.txt").unlink()
    own = open_own(tmp_path)
    assert "0001" not in shown(own, "train")
    assert shown(own, "train")["0002"][1] == []
    assert any("1 of 5 images have no labels and are skipped, such as rgb/train/0001.png" in r for r in own.remarks)


def test_masks_are_not_taken_for_infrared_images(tmp_path: Path) -> None:
    items = [("a", "rgb"), ("b", "rgb")]
    write_own(tmp_path, Layout("train/rgb/{name}", "", "instances_train"), "COCO", {"train": items})
    for folder in ("train/label", "SegmentationClass", "gt_masks"):
        write_image(tmp_path / folder / "a.png", np.zeros((SIZE[1], SIZE[0]), np.uint8))
    own = open_own(tmp_path)
    assert {name: present for name, (present, _) in shown(own, "train").items()} == {"a": (True, False)}
    assert "3 images in folders of labels or masks are skipped: own folders are read for boxes" in own.remarks


@pytest.mark.parametrize(
    ("name", "images", "boxes"),
    [
        ("roadscene_rgb_lwir", {"train": {"pairs": 55}, "val": {"pairs": 23}}, 524),
        ("msrs_rgb_lwir", {"train": {"pairs": 209}, "val": {"pairs": 39}}, 1512),
        ("camel_lwir", {"train": {"infrared only": 1270}, "val": {"infrared only": 387}}, 9658),
    ],
)
def test_real_sets_are_read_as_own_data(shared_data: Path, name: str, images: dict[str, Any], boxes: int) -> None:
    own = open_own(shared_data / name)
    assert own.provenance["images"] == images
    assert own.benchmark.box_classes == ("person", "bicycle", "car")
    found = 0
    for split in own.benchmark.splits:
        pairs = own.benchmark.open(own.root, split)
        for item in pairs if name == "roadscene_rgb_lwir" else pairs[:3]:
            sample = pairs.load(item)
            assert sample.boxes is not None
            found += len(sample.boxes)
    assert found == boxes if name == "roadscene_rgb_lwir" else found > 0


def test_lists_define_the_split(tmp_path: Path) -> None:
    write_own(tmp_path, Layout("rgb/{name}", "ir/{name}", "Annotations/{name}"), "VOC", {"": SPLITS["train"]})
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("0001\r\n0002\r\n0004\r\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("data/rgb/0003.png\n")
    own = open_own(tmp_path)
    assert [sorted(shown(own, split)) for split in ("train", "val")] == [["0001", "0002", "0004"], ["0003"]]


def test_difficult_objects_are_ignored(tmp_path: Path) -> None:
    write_own(tmp_path, LAYOUTS["cameras first"], "VOC", SPLITS)
    path = tmp_path / "labels/val/0009.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1))
    pairs = open_own(tmp_path).benchmark.open(tmp_path, "val")
    sample = pairs.load(pairs[0])
    assert [pairs.box_classes[n] for n in sample.labels] == ["forklift"]  # type: ignore[union-attr]
    assert [pairs.box_classes[n] for n in sample.ignored_labels] == ["person"]  # type: ignore[union-attr]


def test_polygons_of_yolo_are_boxes_around_them(tmp_path: Path) -> None:
    write_own(tmp_path, LAYOUTS["cameras first"], "YOLO", SPLITS)
    (tmp_path / "labels/val/0009.txt").write_text(
        "\ufeff1 0.1 0.25 0.5 0.25 0.5 0.75\r\n0, 0.5, 0.5, 0.2, 0.25\r\n\r\n"
    )
    assert shown(open_own(tmp_path), "val")["0009"][1] == [
        ("forklift", [4, 8, 20, 24]),
        ("person", [16, 12, 24, 20]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7 0.5 0.5 0.1 0.1", r"0009.txt, line 1: class 7 has no name"),
        ("0 0.5 0.5 0.1 0.1\n0 0.5 0.5", r"0009.txt, line 2: '0 0.5 0.5' is not an object"),
        ("car 0.5 0.5 0.1 0.1", r"line 1: 'car 0.5"),
        ("0 nan 0.5 0.1 0.1", r"line 1"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1", "Git.LFS pointer"),
    ],
)
def test_damaged_yolo_is_named(tmp_path: Path, text: str, message: str) -> None:
    write_own(tmp_path, LAYOUTS["cameras first"], "YOLO", SPLITS)
    (tmp_path / "labels/val/0009.txt").write_text(text)
    with pytest.raises(LabelError, match=message):
        open_own(tmp_path)


def test_yolo_needs_names_of_classes(tmp_path: Path) -> None:
    write_own(tmp_path, LAYOUTS["cameras first"], "YOLO", SPLITS)
    (tmp_path / "data.yaml").write_text("path: .\n")
    with pytest.raises(LabelError, match=r"YOLO labels, such as .*, need the names .*: put a data.yaml"):
        open_own(tmp_path)
    (tmp_path / "labels/classes.txt").write_text("person\r\nforklift\r\ncar\r\n\r\n")
    assert set(open_own(tmp_path).benchmark.box_classes) == set(NAMES)
    (tmp_path / "data.yaml").write_text("names:\n  0: person\n  1: forklift\n  2: lorry\n")
    with pytest.raises(LabelError, match=r"data.yaml and labels/classes.txt name the YOLO classes differently"):
        open_own(tmp_path)
    (tmp_path / "data.yaml").write_text("names: &a [b, [c]]\n")  # no text: nothing that could be expanded without end
    assert set(open_own(tmp_path).benchmark.box_classes) == set(NAMES)


def test_wrong_folders_name_the_expected_layout(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no such folder"):
        open_own(tmp_path / "nowhere")
    with pytest.raises(LabelError, match="holds no images"):
        open_own(tmp_path)
    write_image(tmp_path / "rgb/a.png", colour(50))
    with pytest.raises(LabelError, match="none of its 1 images is labelled"):
        open_own(tmp_path)
    write_yolo(tmp_path / "labels/a.txt", [])
    (tmp_path / "classes.txt").write_text("person")
    with pytest.raises(LabelError, match="hold no object"):
        open_own(tmp_path)


def test_a_users_links_are_followed_once(tmp_path: Path) -> None:
    write_own(tmp_path / "disk", LAYOUTS["cameras first"], "YOLO", SPLITS)
    root = tmp_path / "mine"
    root.mkdir()
    for name in ("rgb", "thermal", "labels", "data.yaml"):
        (root / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk/rgb/again").symlink_to(root)  # a loop
    assert shown(open_own(root), "train") == expected(SPLITS["train"])


def test_copies_of_roboflow_and_other_folders_stay_apart(tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        for camera, image in (("rgb", colour(90)), ("thermal", grey(20))):
            write_image(tmp_path / camera / day / "0001.png", image)
        write_yolo(tmp_path / "labels" / day / "0001.txt", objects_of(0 if day == "monday" else 2))
    for copy in "ab":
        write_image(tmp_path / f"rgb/x_jpg.rf.{copy * 32}.jpg", colour(70))
        write_yolo(tmp_path / f"labels/x_jpg.rf.{copy * 32}.txt", objects_of(0 if copy == "a" else 2))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    own = open_own(tmp_path)
    found = {
        item.name: ([item.present], [own.benchmark.box_classes[n] for n in pairs.load(item).labels])
        for split in own.benchmark.splits
        for pairs in [own.benchmark.open(tmp_path, split)]
        for item in pairs
    }
    assert found == {
        "rgb/monday/0001.png": ([(True, True)], ["person", "forklift"]),
        "rgb/tuesday/0001.png": ([(True, True)], ["car"]),
        f"rgb/x_jpg.rf.{'a' * 32}.jpg": ([(True, False)], ["person", "forklift"]),
        f"rgb/x_jpg.rf.{'b' * 32}.jpg": ([(True, False)], ["car"]),
    }


def test_it_travels_to_other_processes_and_into_recordings(tmp_path: Path) -> None:
    write_own(tmp_path, LAYOUTS["cameras first"], "YOLO", SPLITS)
    own = open_own(tmp_path)
    pairs = own.benchmark.open(tmp_path, "train")[1:3]
    again = pickle.loads(pickle.dumps(pairs))  # noqa: S301 - our own
    assert [item.name for item in again] == [item.name for item in pairs]
    np.testing.assert_array_equal(again.load(again[0]).rgb, pairs.load(pairs[0]).rgb)
    recorded = FolderViews(own.benchmark.open(tmp_path, "train"), 1.0)
    assert (len(own.benchmark.open(tmp_path, "train")), recorded.classes) == (4, own.benchmark.box_classes)
    assert [pair.size for pair in recorded.items] == [SIZE, SIZE]


def test_the_check_reports_of_each_split(tmp_path: Path) -> None:
    write_own(tmp_path, COCO_LAYOUTS["beside the folders"], "COCO", SPLITS)
    write_coco(tmp_path / "instances_val.json", [("rgb/val/0009.png", [("car", (38.0, 2.0, 90.0, 9.0))])])
    reports = check_benchmark(open_own(tmp_path).benchmark, tmp_path)
    assert [report.split for report in reports] == ["train", "val"]
    assert reports[0].usable
    assert dict(reports[0].boxes) == {"person": 2, "forklift": 2, "car": 1}
    assert any("1 boxes reach beyond their image" in remark for remark in reports[1].remarks)
    assert any("lie mostly outside" in problem for problem in reports[1].problems)


def test_messages_stay_one_line_whatever_the_file_names(tmp_path: Path) -> None:
    root = tmp_path / "my\ndata"
    for name in ("a\n0", "a\x1b[2J1", "a\u20282"):
        write_image(root / f"rgb/{name}.png", colour(90))
    write_coco(root / "all\n.json", [("a\n0.png", objects_of(0)), ("a\x1b[2J1.png", objects_of(2)), ("b\n.png", [])])
    own = open_own(root)
    reports = check_benchmark(own.benchmark, root)
    lines = [*own.described(), own.benchmark.title, *(one for report in reports for one in report.remarks)]
    assert any(r"such as b\n.png" in line for line in lines)
    assert any(r"such as rgb/a\u20282.png" in line for line in lines)
    (root / "rgb/a\n0.png").write_bytes(b"damaged")
    lines += [problem for report in check_benchmark(own.benchmark, root) for problem in report.problems]
    assert any(r"rgb/a\n0.png: not an image" in line for line in lines)
    (root / "all\n.json").write_text('{"images": [], "annotations": [{"bbox": 1}], "categories": []}')
    with pytest.raises(LabelError, match=r"my\\ndata/all\\n.json: annotation 0 has") as caught:
        open_own(root)
    lines.append(str(caught.value))
    assert [line for line in lines if line != printable(line, len(line))] == []
