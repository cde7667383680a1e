"""Which labels an own folder's image gets: those of its folder, camera and size, or an error or a remark."""

from __future__ import annotations

import cProfile
import json
import pstats
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from spectradino_core.data.labels import LabelError
from spectradino_core.data.labels.files import ImageNames
from spectradino_core.datasets.check import check_benchmark
from spectradino_core.datasets.own import OwnFolder, open_own
from tests.core.datasets.miniatures import voc_xml, write_image
from tests.core.datasets.own.folders import NAMES, SIZE, Objects, colour, grey, write_coco, write_yolo

A: Objects = [("person", (4.0, 8.0, 14.0, 24.0))]
B: Objects = [("car", (10.0, 4.0, 30.0, 20.0))]
NONE: Objects = []
HALF = (SIZE[0] // 2, SIZE[1] // 2)


_SPLITS = "a_train.json and .*a_val.json list rgb/0.png for train and for val: remove it from one"


def images(root: Path, *folders: str, thermal_size: tuple[int, int] = SIZE, name: str = "0") -> None:
    """Write an image into each folder: grey in thermal ones and in DroneVehicle's."""
    for folder in folders:
        is_thermal = "thermal" in folder or folder.endswith("imgr")
        write_image(root / folder / f"{name}.png", grey(20, thermal_size) if is_thermal else colour(90))


def labels(root: Path, files: Mapping[str, Objects], form: str) -> None:
    """Write a YOLO or VOC file for each path without ending."""
    for path, objects in files.items():
        if form == "YOLO":
            write_yolo(root / f"{path}.txt", objects)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / f"{path}.xml").write_text(voc_xml(objects, SIZE))
    (root / "classes.txt").write_text("\n".join(NAMES))


def coco(root: Path, path: str, rows: Mapping[str, Objects], **entry: Any) -> None:
    write_coco(root / path, list(rows.items()))
    data = json.loads((root / path).read_text())
    for image in data["images"]:
        image |= entry
    (root / path).write_text(json.dumps(data))


def found(own: OwnFolder) -> dict[str, Objects]:
    """Return the boxes of each item by the folder of its image."""
    rows = {}
    for split in own.benchmark.splits:
        pairs = own.benchmark.open(own.root, split)
        for item in pairs:
            sample = pairs.load(item)
            assert sample.boxes is not None
            assert sample.labels is not None
            boxes = [tuple(round(v, 2) for v in box) for box in sample.boxes.tolist()]
            kinds = [pairs.box_classes[label] for label in sample.labels]
            rows[item.name.rpartition("/")[0]] = list(zip(kinds, boxes, strict=True))
    return rows  # type: ignore[return-value]


@pytest.mark.parametrize("form", ["YOLO", "VOC"])
@pytest.mark.parametrize(
    ("folders", "files", "expected"),
    [
        (["rgb/seq1", "rgb/seq2", "thermal/seq2"], {"labels/seq1/0": A}, {"rgb/seq1": A}),
        (["a/visible", "a/lwir", "b/visible"], {"xml/b/0": B}, {"b/visible": B}),
        (["rgb/train/s1", "rgb/val/s2"], {"labels/s1/0": A, "labels/s2/0": B}, {"rgb/train/s1": A, "rgb/val/s2": B}),
        (["s1/rgb", "s2/rgb"], {"s1/rgb/0": A, "s2/rgb/0": B}, {"s1/rgb": A, "s2/rgb": B}),
        (["s1/rgb", "s2/rgb", "s2/thermal"], {"s1/rgb/0": A}, {"s1/rgb": A}),
        (["rgb", "rgb/late"], {"labels/0": A}, {"rgb": A}),
        (["rgb/mon", "rgb/thu"], {"labels/mon/0": A, "labels/tue/0": B}, {"rgb/mon": A}),
        (
            ["rgb/2024-1-12", "rgb/2024-11-2"],
            {"labels/2024-1-12/0": A, "labels/2024-11-2/0": B},
            {"rgb/2024-1-12": A, "rgb/2024-11-2": B},
        ),
        (
            ["rgb/seq1", "rgb/seq11", "rgb/seq1_1"],
            {"labels/seq_1/0": A, "labels/seq1_1/0": B, "labels/seq_11/0": NONE},
            {"rgb/seq1": A, "rgb/seq1_1": B, "rgb/seq11": NONE},
        ),
        (["rgb/-5", "rgb/5"], {"labels/-5/0": A, "labels/5/0": B}, {"rgb/-5": A, "rgb/5": B}),
        (["rgb/ley", "rgb/valley"], {"labels/valley/0": A}, {"rgb/valley": A}),
        (["rgb/北", "rgb/南"], {"nightlabels/北/0": A, "nightlabels/南/0": B}, {"rgb/北": A, "rgb/南": B}),
        (["raw/rgb/s1", "raw/rgb/s2"], {"gt/s1/0": A, "gt/s2/0": B}, {"raw/rgb/s1": A, "raw/rgb/s2": B}),
        (["s1/rgb/day", "s3/rgb/day"], {"s3/day/0": A, "s3/night/0": B}, {"s3/rgb/day": A}),
        (["rgb/s1", "rgb/s2"], {"labels_s1/0": A, "s2_labels/0": B}, {"rgb/s1": A, "rgb/s2": B}),
        (
            ["rgb/s1", "rgb/s2"],
            {"labels/day/0": A},
            "such as labels/day/0.* for rgb/s1/0.png: if they are theirs, name",
        ),
        (["rgb/seq1", "rgb/seq2"], {"labels/0": A, "labels/seq2/0": B}, "labels/0.* fits rgb/seq1/0.png and rgb/seq2"),
        (["rgb/train", "rgb/val"], {"labels/0": A}, "labels/0.* fits rgb/train/0.png and rgb/val/0.png: put it"),
        (["Vehicles512"], {"Labels512/0": A}, {"Vehicles512": A}),
        (["rgb"], {"first/0": A, "second/0": B}, "first/0.* and second/0.* both fit rgb/0.png: keep one"),
        (["rgb"], {"labels/0": A, "annotations/0": B}, "annotations/0.* and .*labels/0.* label the same image diff"),
        (["rgb"], {"labels/0": A, "annotations/0": A}, {"rgb": A}),
        (["rgb/seq1", "rgb/seq_1"], {"seq1_labels/0": A}, {"rgb/seq1": A}),
        (["x/rgb", "y/rgb"], {"x/gt/0": A, "y/gt/0": B}, {"x/rgb": A, "y/rgb": B}),
        (
            ["train/trainimg", "val/valimg"],
            {"train/trainlabel/0": A, "val/vallabel/0": B},
            {"train/trainimg": A, "val/valimg": B},
        ),
        (
            ["t/trainimg", "t/trainimgr"],
            {"t/trainlabel/0": A, "t/trainlabelr/0": B},
            {"t/trainimg": A},
        ),
    ],
)
def test_files_of_other_folders_are_not_used(
    tmp_path: Path, form: str, folders: Sequence[str], files: Mapping[str, Objects], expected: Any
) -> None:
    images(tmp_path, *folders)
    labels(tmp_path, files, form)
    if isinstance(expected, str):
        with pytest.raises(LabelError, match=expected):
            open_own(tmp_path)
    else:
        own = open_own(tmp_path)
        assert found(own) == expected
        unlabelled = {folder for folder in folders if "rgb" in folder or "visible" in folder} - expected.keys()
        assert any("have no labels and are skipped" in remark for remark in own.remarks) == bool(unlabelled)


def test_the_same_of_several_errors_is_reported_in_every_run(tmp_path: Path) -> None:
    images(tmp_path, "rgb/x/a/b/c/d", "rgb/y/a/b/c/d")
    labels(tmp_path, dict.fromkeys(("d/0", "c/0", "b/0", "a/0"), A), "YOLO")
    with pytest.raises(LabelError, match="1 label files can't be used: .*/a/0.txt fits rgb/x/.* and rgb/y"):
        open_own(tmp_path)


def test_the_only_file_of_a_name_is_not_used_if_the_image_has_labels_elsewhere(tmp_path: Path) -> None:
    for name in "01":
        images(tmp_path, "rgb/seq2", "thermal/seq2", name=name)
    labels(tmp_path, {"labels/seq1/0": A, "labels/seq2/1": B}, "YOLO")
    own = open_own(tmp_path)
    assert found(own) == {"rgb/seq2": B}
    assert any("1 of 2 images have no labels and are skipped, such as rgb/seq2/0.png" in r for r in own.remarks)


@pytest.mark.parametrize(
    ("folders", "files", "expected"),
    [
        (["s1/rgb", "s2/rgb"], {"s1/a.json": {"0.png": A}, "s2/a.json": {"0.png": B}}, {"s1/rgb": A, "s2/rgb": B}),
        (["s1/rgb", "s2/rgb"], {"ann/s1.json": {"0.png": A}, "ann/s2.json": {"0.png": B}}, {"s1/rgb": A, "s2/rgb": B}),
        (["s1/rgb", "s2/rgb"], {"s1/a.json": {"images/0.png": A}}, {"s1/rgb": A}),
        (["rgb_s_1", "rgb_s_2"], {"ann/s_1.json": {"0.png": A}, "s2.json": {"0.png": B}}, {"rgb_s_1": A, "rgb_s_2": B}),
        (
            ["rgb/night", "rgb/night_rain"],
            {"night.json": {"0.png": A}, "ann/night_rain.json": {"0.png": B}},
            {"rgb/night": A, "rgb/night_rain": B},
        ),
        (["rgb/night", "rgb/night_rain"], {"train_night_rain.json": {"0.png": B}}, {"rgb/night_rain": B}),
        (
            ["rgb/seq1", "rgb/seq11", "rgb/seq1_1"],
            {"seq1.json": {"0.png": A}, "seq1_1.json": {"0.png": B}, "seq11.json": {"0.png": NONE}},
            {"rgb/seq1": A, "rgb/seq1_1": B, "rgb/seq11": NONE},
        ),
        (
            ["rgb/1", "rgb/2"],
            {"labels_v1.json": {"0.png": A}},
            "lists '0.png' once, but rgb/1/0.png and rgb/2/0.png both",
        ),
        (["rgb/s1"], {"thermal.json": {"rgb/s1/0.png": A}}, {"rgb/s1": A}),
        (["rgb/s1", "rgb/s2"], {"s2.json": {"rgb/s1/0.png": A}}, {"rgb/s1": A}),
        (["rgb", "thermal"], {"a_train.json": {"0.png": A}, "a_val.json": {"0.png": A}}, _SPLITS),
        (["rgb", "thermal"], {"a_train.json": {"rgb/0.png": A}, "a_val.json": {"thermal/0.png": B}}, _SPLITS),
        (["rgb/val", "thermal/val"], {"a_train.json": {"0.png": B}, "a_val.json": {"0.png": A}}, {"rgb/val": A}),
        (["s1/rgb", "s2/rgb"], {"a.json": {"x/s1/0.png": A, "x/s2/0.png": B}}, {"s1/rgb": A, "s2/rgb": B}),
        (["rgb", "rgb/late"], {"a.json": {"0.png": A, "late/0.png": B}}, {"rgb": A, "rgb/late": B}),
        (["rgb/s1", "rgb/s2"], {"a.json": {"0.png": A}}, "a.json: lists '0.png' once, but rgb/s1/0.png and rgb/s2/0"),
        (["rgb/train", "rgb/val"], {"a.json": {"0.png": A}}, "lists '0.png' once, but rgb/train/0.png and rgb/val"),
        (["rgb"], {"a.json": {"0.png": A}, "b.json": {"0.png": B}}, {"rgb": [*A, *B]}),
        (["rgb"], {"a.json": {"0.png": A}, "b.json": {"0.png": NONE}}, {"rgb": A}),
        (["rgb"], {"a.json": {"0.png": A}, "b.json": {"0.png": A}}, {"rgb": A}),
        (["rgb"], {"a.json": {"0.png": [*A, *B]}, "person.json": {"0.png": A}}, {"rgb": [*A, *B]}),
        (
            ["rgb"],
            {"a.json": {"0.png": A}, "b.json": {"0.png": [("person", (1, 2, 3, 4))]}},
            "a.json and .*b.json list the same images with different objects of the same classes",
        ),
    ],
)
def test_coco_files_of_several_folders(
    tmp_path: Path, folders: Sequence[str], files: Mapping[str, Mapping[str, Objects]], expected: Any
) -> None:
    images(tmp_path, *folders)
    for path, rows in files.items():
        coco(tmp_path, path, rows)
    if isinstance(expected, str):
        with pytest.raises(LabelError, match=expected):
            open_own(tmp_path)
    else:
        assert found(open_own(tmp_path)) == expected


def test_cvat_is_read_like_coco(tmp_path: Path) -> None:
    images(tmp_path, "rgb", "thermal")
    box = '<box label="person" xtl="4" ytl="8" xbr="14" ybr="24"/>'
    image = f'<image id="0" name="0.png" width="{SIZE[0]}" height="{SIZE[1]}">{box}</image>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{image}</annotations>")
    own = open_own(tmp_path)
    assert found(own) == {"rgb": A}
    assert own.provenance["formats"] == ["CVAT"]
    (tmp_path / "thermal.xml").write_text(f"<annotations>{image.replace('person', 'car')}</annotations>")
    (tmp_path / "annotations.xml").rename(tmp_path / "rgb.xml")
    own = open_own(tmp_path)
    assert found(own) == {"rgb": A}
    assert "1 pairs are labelled on both cameras; those of RGB are used" in own.remarks
    (tmp_path / "thermal.xml").unlink()
    (tmp_path / "rgb.xml").rename(tmp_path / "annotations.xml")
    (tmp_path / "annotations.xml").write_text("<annotations><track/></annotations>")
    with pytest.raises(LabelError, match="none of .*; 1 XML files are not 'CVAT for images', skipped, such as annota"):
        open_own(tmp_path)


def test_cvat_of_another_band_is_skipped(tmp_path: Path) -> None:
    images(tmp_path, "lwir_thermal", "nir_thermal")
    for band, label in ("lwir", "person"), ("nir", "car"):
        box = f'<box label="{label}" xtl="4" ytl="8" xbr="14" ybr="24"/>'
        (tmp_path / f"{band}.xml").write_text(f'<annotations><image name="0.png">{box}</image></annotations>')
    assert found(open_own(tmp_path, infrared="lwir")) == {"lwir_thermal": A}


@pytest.mark.parametrize("form", ["YOLO", "VOC", "COCO"])
@pytest.mark.parametrize("thermal", ["thermal", "ir"])
def test_labels_of_both_cameras(tmp_path: Path, form: str, thermal: str) -> None:
    """RGB's are used, whichever folder is the first; an empty label does not hide the other camera's objects."""
    rows = {"both": (A, B), "rgb_only": (A, NONE), "other_only": (NONE, B), "none": (NONE, NONE)}
    files = {}
    for name, (rgb, other) in rows.items():
        write_image(tmp_path / f"rgb/{name}.png", colour(90))
        write_image(tmp_path / f"{thermal}/{name}.png", grey(20))
        files |= {f"rgb/{name}": rgb, f"{thermal}/{name}": other}
    if form == "COCO":
        coco(tmp_path, "a.json", {f"{path}.png": objects for path, objects in files.items()})
    else:
        labels(tmp_path, files, form)
    own = open_own(tmp_path)
    assert "1 pairs are labelled on both cameras; those of RGB are used" in own.remarks
    pairs = [own.benchmark.open(tmp_path, split) for split in own.benchmark.splits]
    kinds = {
        Path(item.name).stem: [own.benchmark.box_classes[n] for n in part.load(item).labels]  # type: ignore[union-attr]
        for part in pairs
        for item in part
    }
    assert kinds == {"both": ["person"], "rgb_only": ["person"], "other_only": ["car"], "none": []}


@pytest.mark.parametrize("form", ["YOLO", "VOC"])
@pytest.mark.parametrize("val", ["labels/val/0", "labels/val/thermal/0"])
def test_equal_labels_of_two_splits_are_refused(tmp_path: Path, form: str, val: str) -> None:
    images(tmp_path, "rgb", "thermal")
    labels(tmp_path, {"labels/train/0": A, val: A}, form)
    with pytest.raises(LabelError, match="0.* and .*0.* list .*0.png for .* and for .*: remove it from one of them"):
        open_own(tmp_path)


def test_a_file_of_another_recording_is_not_used(tmp_path: Path) -> None:
    """Unless no folder of labels has a folder of images, which is reported."""
    images(tmp_path, "rgb/mon", "thermal/mon")
    images(tmp_path, "rgb/thu", name="1")
    labels(tmp_path, {"labels/tue/1": B}, "YOLO")
    own = open_own(tmp_path)
    assert found(own) == {"rgb/thu": B}
    assert any("labels/tue/1.txt for rgb/thu/1.png: check that they are theirs" in remark for remark in own.remarks)
    labels(tmp_path, {"labels/mon/0": A}, "YOLO")
    own = open_own(tmp_path)
    assert found(own) == {"rgb/mon": A}
    assert any("such as labels/tue/1.txt for rgb/thu/1.png: if they are theirs" in remark for remark in own.remarks)


def test_a_file_name_of_missing_images_does_not_give_labels_to_others(tmp_path: Path) -> None:
    images(tmp_path, "rgb/night", name="1")
    images(tmp_path, "rgb/night_rain")
    coco(tmp_path, "night_rain.json", {"1.png": A})
    with pytest.raises(
        LabelError,
        match="night_rain.json: 1 of the 1 images that it lists are in folders of .* not labelled by it, such as 1.png",
    ):
        open_own(tmp_path)


def test_images_that_a_file_of_another_split_lists_are_not_called_missing(tmp_path: Path) -> None:
    """An exporter may list all images in the file of each split."""
    for split, name in (("train", "0"), ("val", "1")):
        images(tmp_path, f"{split}/rgb", name=name)
    coco(tmp_path, "annotations/train.json", {"0.png": A, "1.png": B, "2.png": B, "lost/1.png": B})
    coco(tmp_path, "annotations/val.json", {"1.png": B})
    remarks = open_own(tmp_path).remarks
    assert any(
        "annotations/train.json: 2 of the 4 images that it lists are missing, such as 2.png" in r for r in remarks
    )
    assert any("1 of the 4 images that it lists are in folders of another split" in remark for remark in remarks)


@pytest.mark.parametrize("name", ["thermal", "val"])
def test_a_listed_path_has_precedence_over_the_file_name(tmp_path: Path, name: str) -> None:
    images(tmp_path, "rgb/train", "thermal/train", thermal_size=HALF)
    coco(tmp_path, f"{name}.json", {"rgb/train/0.png": A}, width=None)
    own = open_own(tmp_path)
    assert found(own) == {"rgb/train": A}
    assert any(f"{name}.json: lists 1 image, such as rgb/train/0.png, of another camera" in one for one in own.remarks)
    assert list(own.benchmark.splits) == ["train"]


@pytest.mark.parametrize(("name", "listed"), [("{}", "0.png"), ("job{}", "s{}/0.png")])
def test_each_table_is_compared_with_its_own_images_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, listed: str
) -> None:
    calls = []
    find = ImageNames.find
    monkeypatch.setattr(ImageNames, "find", lambda names, path: [calls.append(path), find(names, path)][1])
    for number in range(11, 31):
        images(tmp_path, f"rgb/s{number}")
        coco(tmp_path, f"{name.format(f's{number}')}.json", {listed.format(number): A})
    assert len(found(open_own(tmp_path))) == 20
    assert len(calls) == 20


@pytest.mark.parametrize("listed", ["s{}/0.png", "home/data/raw/s{}/rgb/0.png", "raw/s{}/0.png"])
def test_the_time_of_one_table_is_linear_in_the_recordings(tmp_path: Path, listed: str) -> None:
    """By function calls: four times as many recordings would take 16 times as many if compared with each other."""
    calls = []
    for count in (30, 120):
        root = tmp_path / str(count)
        numbers = range(100, 100 + count)
        for number in numbers:
            (root / f"raw/s{number}/rgb").mkdir(parents=True)
            (root / f"raw/s{number}/rgb/0.png").touch()
        coco(root, "all.json", {listed.format(number): A for number in numbers})
        profile = cProfile.Profile()
        own = profile.runcall(open_own, root)
        assert sum(sum(kinds.values()) for kinds in own.provenance["images"].values()) == count
        calls.append(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]
    assert calls[1] < 6 * calls[0]


def test_names_without_the_cameras_suffix_match(tmp_path: Path) -> None:
    write_image(tmp_path / "s1/0_rgb.png", colour(90))
    write_image(tmp_path / "s1/0_ir.png", grey(20))
    coco(tmp_path, "a.json", {"0.png": A})
    assert found(open_own(tmp_path)) == {"s1": A}


def test_labels_of_another_format_are_reported(tmp_path: Path) -> None:
    images(tmp_path, "rgb", "thermal")
    labels(tmp_path, {"labels/0": A}, "YOLO")
    labels(tmp_path, {"xml/0": B}, "VOC")
    own = open_own(tmp_path)
    assert found(own) == {"rgb": B}
    message = "images are also labelled in files of another format, which are not used"
    assert any(message in one and "such as labels/0.txt (xml/0.xml is used)" in one for one in own.remarks)


@pytest.mark.parametrize("table", ["instances_train.json", "labels/train/_annotations.coco.json"])
def test_formats_may_differ_between_splits(tmp_path: Path, table: str) -> None:
    """Classes are matched by name, whatever their numbers in each format."""
    images(tmp_path, "rgb/train", "thermal/train", "rgb/val", "thermal/val")
    coco(tmp_path, table, {"0.png": [*A, *B]})
    labels(tmp_path, {"labels/val/0": B}, "YOLO")
    (tmp_path / "classes.txt").write_text("forklift\nbus\nCar\n")
    own = open_own(tmp_path)
    assert own.provenance["formats"] == ["COCO", "YOLO"]
    assert list(own.benchmark.splits) == ["train", "val"]
    assert found(own) == {"rgb/train": [*A, *B], "rgb/val": B}
    assert not any("another format" in remark or "skipped" in remark for remark in own.remarks)


def test_other_formats_are_reported(tmp_path: Path) -> None:
    images(tmp_path, "rgb", "thermal")
    labels(tmp_path, {"labels/0": A}, "YOLO")
    (tmp_path / "thermal/0.xml").write_text("<CameraInfo/>")
    own = open_own(tmp_path)
    assert found(own) == {"rgb": A}
    assert "1 XML files are not VOC labels, skipped, such as thermal/0.xml" in own.remarks
    coco(tmp_path, "a.json", {"0.png": NONE})
    images(tmp_path, "rgb", name="1")
    labels(tmp_path, {"labels/1": B}, "YOLO")
    own = open_own(tmp_path)
    assert any("1 images have no object in the labels that are used, but some in others" in r for r in own.remarks)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rgb/0.json", {"shapes": [{"label": "car", "points": [[1, 2], [3, 4]]}], "imagePath": "0.png"}),
        ("default.json", {"categories": {"label": {}}, "items": [{"id": "0", "annotations": []}]}),
        ("project.json", [{"data": {"image": "0.png"}, "annotations": []}]),
        ("captions.json", {"images": [], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}),
        ("panoptic.json", {"images": [], "categories": [], "annotations": [{"image_id": 1, "segments_info": []}]}),
    ],
)
def test_json_of_other_formats_is_skipped_and_named(tmp_path: Path, name: str, content: object) -> None:
    images(tmp_path, "rgb")
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(LabelError, match=f"none of its 1 images is labelled: .*; 1 .* skipped, such as {name}"):
        open_own(tmp_path)
    coco(tmp_path, "instances.json", {"0.png": A})
    own = open_own(tmp_path)
    assert found(own) == {"rgb": A}
    assert any(f"skipped, such as {name}" in remark for remark in own.remarks)


@pytest.mark.parametrize(
    ("names", "label", "message"),
    [
        (
            "data.yaml: names: [person,",
            "0 0.5 0.5 0.1 0.1",
            "need the names .*; unusable: .*data.yaml is no valid YAML",
        ),
        ("data.yaml: nc: 3", "0 0.5 0.5 0.1 0.1", "need the names .*; unusable: .*data.yaml: holds no 'names'"),
        ("classes.txt: a\n\nb", "0 0.5 0.5 0.1 0.1", "unusable: .*classes.txt: the name of class 1 is empty: write it"),
        ("", "Car 0.00 0 -1.58 1 2 3 4", "line 1: 'Car 0.00 .*' is not an object .*: correct the line, or convert"),
        ("", "% bbGt version=3\nperson 1 2 3 4", "line 1: '% bbGt version=3' is not an object"),
    ],
)
def test_the_reason_of_missing_names_is_given(tmp_path: Path, names: str, label: str, message: str) -> None:
    images(tmp_path, "rgb")
    (tmp_path / "rgb/0.txt").write_text(label)
    if names:
        name, _, text = names.partition(": ")
        (tmp_path / name).write_text(text)
    with pytest.raises(LabelError, match=message):
        open_own(tmp_path)


def half(objects: Objects) -> Objects:
    return [(name, (a / 2, b / 2, c / 2, d / 2)) for name, (a, b, c, d) in objects]


@pytest.mark.parametrize("form", ["COCO", "COCO, file names", "VOC"])
@pytest.mark.parametrize("thermal_size", [SIZE, HALF])
def test_boxes_are_scaled_from_the_stated_size(tmp_path: Path, form: str, thermal_size: tuple[int, int]) -> None:
    """Also if a folder is listed that does not show the camera."""
    images(tmp_path, "rgb/train", "thermal/train", thermal_size=thermal_size)
    if form == "VOC":
        (tmp_path / "xml").mkdir()
        (tmp_path / "xml/0.xml").write_text(voc_xml(half(B), HALF))
    else:
        name = "train/0.png" if form == "COCO" else "0.png"
        coco(tmp_path, "a.json", {name: half(B)}, width=HALF[0], height=HALF[1])
    own = open_own(tmp_path)
    assert found(own) == {"rgb/train": B}
    remarks = check_benchmark(own.benchmark, tmp_path)[0].remarks
    assert any("another size than their label file states" in one for one in remarks) == (thermal_size == SIZE)


def test_an_assumed_camera_is_reported(tmp_path: Path) -> None:
    images(tmp_path, "rgb", "thermal", thermal_size=HALF)
    coco(tmp_path, "a.json", {"0.png": B}, width=None)
    own = open_own(tmp_path)
    assert found(own) == {"rgb": B}
    assert any(
        "state neither size nor camera; RGB's" in one for one in check_benchmark(own.benchmark, tmp_path)[0].remarks
    )
    coco(tmp_path, "a.json", {"thermal/0.png": half(B)}, width=None)
    own = open_own(tmp_path)
    assert found(own) == {"rgb": B}
    assert not any("neither" in one for one in check_benchmark(own.benchmark, tmp_path)[0].remarks)


@pytest.mark.parametrize("form", ["COCO", "VOC"])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((32, 40), "states 32x40 pixels for rgb/0.png, which has 40x32, another shape: correct"),
        ((20, 16), "states 20x16 pixels for rgb/0.png, which has 40x32, but has boxes beyond that size"),
    ],
)
def test_a_wrong_stated_size_is_a_problem(tmp_path: Path, form: str, size: tuple[int, int], message: str) -> None:
    images(tmp_path, "rgb")
    if form == "VOC":
        (tmp_path / "rgb/0.xml").write_text(voc_xml(B, size))
    else:
        coco(tmp_path, "a.json", {"0.png": B}, width=size[0], height=size[1])
    report = check_benchmark(open_own(tmp_path).benchmark, tmp_path)[0]
    assert not report.usable
    assert any(message in problem for problem in report.problems)


@pytest.mark.parametrize("folder", ["{}", "{}/labels"])
def test_each_folders_list_names_its_yolo_classes(tmp_path: Path, folder: str) -> None:
    """Of labelImg, which numbers the classes in the order in which they were drawn."""
    for name, camera in ("0", "rgb"), ("1", "thermal"):
        images(tmp_path, "rgb", "thermal", name=name)
        write_yolo(tmp_path / folder.format(camera) / f"{name}.txt", B)
    (tmp_path / "rgb/classes.txt").write_text("person\nforklift\ncar\n")
    (tmp_path / "thermal/classes.txt").write_text("car\nperson\nforklift\n")
    own = open_own(tmp_path)
    assert sorted(own.benchmark.box_classes) == ["car", "forklift"]
    (tmp_path / "thermal/classes.txt").unlink()
    remark = "no names of classes in this folder or above it; those of rgb/classes.txt are used"
    assert any(remark in one for one in open_own(tmp_path).remarks)
    (tmp_path / "thermal/obj.names").write_text("car\n")
    (tmp_path / "thermal/classes.txt").write_text("person\n")
    with pytest.raises(LabelError, match="thermal/obj.names and thermal/classes.txt name the YOLO classes differently"):
        open_own(tmp_path)


@pytest.mark.parametrize(
    ("yaml", "points", "expected"),
    [
        ("kpt_shape: [2, 2]", ["0.5 0.5 0.5 0.5"], {"rgb": B}),
        ("", ["0.5 0.5 0.5 0.5"], "0.txt: its lines of 9 values are either boxes with key points, .* or polygons"),
        ("kpt_shape: []", ["0.5 0.5 0.5 0.5"], {"rgb": [("car", (16.0, 12.0, 25.0, 16.0))]}),
        ("", ["0.5 0.5 0.5 0.5", "0.5 0.5 0.5 0.5 0.5 0.5"], {"rgb": [("car", (16.0, 12.0, 25.0, 16.0))] * 2}),
    ],
)
def test_key_points_and_polygons_of_yolo(tmp_path: Path, yaml: str, points: Sequence[str], expected: Any) -> None:
    images(tmp_path, "rgb")
    write_yolo(tmp_path / "rgb/0.txt", B)
    box = "2 0.5 0.375 0.5 0.5" if isinstance(expected, str) or "2" in yaml else "2 0.4 0.375 0.625 0.4"
    (tmp_path / "rgb/0.txt").write_text("\n".join(f"{box} {one}" for one in points))
    (tmp_path / "data.yaml").write_text(f"names: [{', '.join(NAMES)}]\n{yaml}\n")
    if isinstance(expected, str):
        with pytest.raises(LabelError, match=expected):
            open_own(tmp_path)
    else:
        assert found(open_own(tmp_path)) == expected


def test_merged_classes_are_reported(tmp_path: Path) -> None:
    images(tmp_path, "rgb")
    coco(tmp_path, "a.json", {"0.png": [*A, *B]})
    path = tmp_path / "a.json"
    path.write_text(path.read_text().replace('"car"', '"pedestrian"'))
    assert "the classes person, pedestrian are one, person: rename those that differ" in open_own(tmp_path).remarks
