"""Cameras and images of own folders: by folder, file name, colour or option; what is not used is reported."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from spectradino_core.data.labels import LabelError
from spectradino_core.datasets.own import open_own
from spectradino_core.modality import Modality
from tests.core.datasets.miniatures import voc_xml, write_image
from tests.core.datasets.own.folders import NAMES, SIZE, colour, grey, objects_of, write_coco, write_yolo

ONE = {"rgb only": 1}
PAIR = {"pairs": 1}


def write(root: Path, rgb: str, thermal: str, label: str, count: int = 2, small: bool = False) -> None:
    """Write images and labels at paths with {}; an empty path writes none."""
    for number in range(count):
        if rgb:
            write_image(root / rgb.format(number), colour(90 + number))
        if thermal:
            write_image(root / thermal.format(number), grey(20 + number, (20, 16) if small else SIZE))
        if label.endswith(".xml"):
            (root / label.format(number)).parent.mkdir(parents=True, exist_ok=True)
            boxes = [(name, tuple(v / 2 for v in box) if small else box) for name, box in objects_of(0)]
            (root / label.format(number)).write_text(voc_xml(boxes, (20, 16) if small else SIZE))  # type: ignore[arg-type]
        elif label:
            write_yolo(root / label.format(number), objects_of(0))
    (root / "classes.txt").write_text("\n".join(NAMES))


@pytest.mark.parametrize(
    ("rgb", "thermal", "label", "band"),
    [
        ("images/{}_rgb.jpg", "images/{}_ir.jpg", "labels/{}_rgb.txt", Modality.LWIR),
        ("images/{}_RGB.jpg", "images/{}_PreviewData.jpeg", "xml/{}_PreviewData.xml", Modality.LWIR),
        ("images/{}_co.png", "images/{}_nir.png", "labels/{}.txt", Modality.NIR),
        ("images/{}-visible.png", "images/{}-SWIR.png", "labels/{}-swir.txt", Modality.SWIR),
        ("images/{}.png", "images/{}_thermal.png", "images/{}.txt", Modality.LWIR),
        ("rgb/{}_rgb.jpg", "thermal/{}_thermal.png", "labels/{}_thermal.txt", Modality.LWIR),
        ("rgb/{}_color.jpg", "nir/{}.png", "labels/{}_color.txt", Modality.NIR),
        ("a/{}_color.jpg", "lwir/{}_color.png", "labels/{}_color.txt", Modality.LWIR),
        ("images/{}_vis_jpg.rf.0a1b2c3d4e.jpg", "images/{}_ir_jpg.rf.1a1b2c3d4e.jpg",
         "labels/{}_ir_jpg.rf.1a1b2c3d4e.txt", Modality.LWIR),
        ("thermal_kit/{}_rgb.jpg", "thermal_kit/{}_ir.jpg", "thermal_kit/{}_ir.txt", Modality.LWIR),
        ("images/{}_visual.jpg", "images/{}_tir.jpg", "images/{}_tir.txt", Modality.LWIR),
        ("images/rgb_{}.jpg", "images/thermal_{}.jpg", "labels/rgb_{}.txt", Modality.LWIR),
        ("images/RGB{}.jpg", "images/NIR{}.jpg", "images/NIR{}.txt", Modality.NIR),
        ("images/cam_rgb_{}.jpg", "images/cam_nir_{}.jpg", "images/cam_nir_{}.txt", Modality.NIR),
        ("{}/rgb.jpg", "{}/mwir.jpg", "{}/rgb.txt", Modality.LWIR),
        ("{}/VIS.jpg", "{}/SWIR.jpg", "labels/{}/SWIR.txt", Modality.SWIR),
    ],
)  # fmt: skip
def test_the_suffix_of_a_name_shows_the_camera(
    tmp_path: Path, rgb: str, thermal: str, label: str, band: Modality
) -> None:
    write(tmp_path, rgb, thermal, label, small=True)
    own = open_own(tmp_path)
    assert own.provenance["images"] == {"train": {"pairs": 1}, "val": {"pairs": 1}}
    assert own.benchmark.infrared is band
    pairs = own.benchmark.open(tmp_path, "train")
    sample = pairs.load(pairs[0])
    assert (sample.rgb.max(), sample.infrared.shape) == (90, (32, 40)) or rgb.endswith("jpg")
    np.testing.assert_allclose(sample.boxes, [[4, 8, 14, 24], [20, 2, 36, 18]], atol=0.01)


def test_coco_of_suffixed_thermal_images_is_in_their_pixels(tmp_path: Path) -> None:
    write(tmp_path, "images/{}_rgb.png", "images/{}_ir.png", "", small=True)
    write_coco(tmp_path / "coco.json", [(f"{n}_ir.png", [("car", (1.0, 2.0, 5.0, 6.0))]) for n in range(2)])
    text = (tmp_path / "coco.json").read_text()
    (tmp_path / "coco.json").write_text(text.replace('"width": 40, "height": 32', '"license": 0'))
    pairs = open_own(tmp_path).benchmark.open(tmp_path, "train")
    np.testing.assert_allclose(pairs.load(pairs[0]).boxes, [[2, 4, 10, 12]])


@pytest.mark.parametrize(
    ("rgb", "thermal", "label", "images", "remark"),
    [
        ("rgb/{}.jpg", "thermal/t{}.png", "rgb/{}.txt", ONE, "rgb/1.jpg and thermal/t1.png: each"),
        ("images/{}_V.jpg", "images/{}_T.jpg", "labels/{}_V.txt", ONE,
         "2 of 4 images sampled in 'images' are in colour"),
        ("coco_annotations/images/{}.jpg", "", "labels/{}.txt", ONE, ""),
        ("annotations_done/{}.jpg", "", "annotations_done/{}.xml", ONE, ""),
        ("labels/rgb/{}.jpg", "labels/ir/{}.png", "labels/{}.txt", PAIR, ""),
        ("rgb/{}.jpg", "labels/rgb/{}.png", "labels/{}.txt", ONE, "2 images in folders of labels or masks"),
        ("rgb/{}.jpg", "gt/{}.png", "gt/{}.txt", ONE, "2 images in folders of labels or masks"),
        ("rgb/{}.jpg", "ir/{}.pgm", "labels/{}.txt", PAIR, ""),
    ],
)  # fmt: skip
def test_images_are_used_or_reported(
    tmp_path: Path, rgb: str, thermal: str, label: str, images: dict[str, int], remark: str
) -> None:
    write(tmp_path, rgb, thermal, label)
    own = open_own(tmp_path)
    assert own.provenance["images"] == {"train": images, "val": images}
    assert remark in "; ".join(own.remarks)


def test_folders_without_usable_images_are_named(tmp_path: Path) -> None:
    write(tmp_path, "annotations_done/{}.jpg", "", "")
    with pytest.raises(LabelError, match=r"no images .*; 2 in folders of labels or masks, such as annotations_done"):
        open_own(tmp_path)
    (tmp_path / "annotations_done").rename(tmp_path / "rgb")
    (tmp_path / "thermal").mkdir()
    for number in range(2):
        np.save(tmp_path / f"thermal/{number}.npy", grey(9))
    write_yolo(tmp_path / "labels/0.txt", objects_of(0))
    assert any("files that are not read: 2 .npy" in remark for remark in open_own(tmp_path).remarks)


def test_two_sequences_of_one_camera(tmp_path: Path) -> None:
    write(tmp_path, "seq1/{}.png", "", "seq1/{}.txt")
    write(tmp_path, "seq2/{}.png", "", "seq2/{}.txt")
    own = open_own(tmp_path)
    assert own.provenance["images"] == {"train": {"rgb only": 3}, "val": {"rgb only": 1}}
    assert any("taken for two sequences of the RGB camera; if" in remark for remark in own.remarks)
    write(tmp_path, "", "seq1/{}.png", "")
    write(tmp_path, "", "seq2/{}.png", "")
    with pytest.raises(LabelError, match=r"--rgb seq1 --ir seq2, .* if one camera took both, move them into"):
        open_own(tmp_path)
    (tmp_path / "thermal").mkdir()
    for name in ("seq1", "seq2"):
        (tmp_path / name).rename(tmp_path / "thermal" / name)
    assert open_own(tmp_path).provenance["images"] == {"train": {"infrared only": 3}, "val": {"infrared only": 1}}


@pytest.mark.parametrize("prefix", ["", "./", "my data/", "/"])
def test_folders_of_cameras_are_given_by_name_or_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path("my data")
    write(root, "cam_a/{}.png", "x/cam_b/{}.png", "labels/{}.txt")
    prefix = f"{tmp_path}/my data/" if prefix == "/" else prefix
    own = open_own(root, rgb_folder=f"{prefix}x/cam_b/", infrared_folder=f"{prefix}cam_a")
    assert own.benchmark.open(root, "train")[0].rgb == root / "x/cam_b/0.png"
    with pytest.raises(LabelError, match=r"no folder named 'cam_c' holds images; choose from cam_a, x/cam_b"):
        open_own(root, rgb_folder="cam_c")
    with pytest.raises(LabelError, match=r"--rgb and --ir name the same folder"):
        open_own(root, rgb_folder=f"{prefix}cam_a", infrared_folder="cam_a/")


@pytest.mark.parametrize(("folder", "remark"), [("test_track", True), ("train2017", False), ("val_thermal_day", False)])
def test_a_split_in_a_part_of_a_name_is_reported(tmp_path: Path, folder: str, remark: bool) -> None:
    write(tmp_path, "", f"{folder}/{{}}.png", f"{folder}/{{}}.txt")
    found = [text for text in open_own(tmp_path).remarks if "is taken for the split" in text]
    assert found == ([f"the folder {folder!r} is taken for the split test: rename it if it is not"] if remark else [])


def test_folders_that_are_too_deep_are_reported(tmp_path: Path) -> None:
    deep = "/".join("abcdefgh")
    write(tmp_path, f"rgb/{deep}/{{}}.png", "", f"rgb/{deep}/{{}}.txt")
    with pytest.raises(LabelError, match=r"holds no images .*; folders more than 8 deep, such as rgb/a/b/c/d/e/f/g/h,"):
        open_own(tmp_path)
    write(tmp_path, f"rgb/{deep[:-2]}/{{}}.png", "", f"rgb/{deep[:-2]}/{{}}.txt")
    own = open_own(tmp_path)
    assert own.provenance["images"] == {"train": ONE, "val": ONE}
    assert any("folders more than 8 deep" in remark for remark in own.remarks)


def test_images_stored_turned_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "rgb/{}.jpg", "", "labels/{}.txt")
    path = tmp_path / "rgb/1.jpg"
    exif = b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    path.write_bytes(path.read_bytes()[:2] + exif + path.read_bytes()[2:])
    assert any("1 image, such as rgb/1.jpg, with an EXIF orientation" in text for text in open_own(tmp_path).remarks)


@pytest.mark.parametrize(
    ("folders", "paired", "remark"),
    [
        (("day/rgb", "night/thermal"), False, "day/rgb/0.png and night/thermal/0.png: each is used alone"),
        (("day/cam_a", "night/cam_ir"), False, "each is used alone"),
        (("s2/rgb", "s3/thermal"), False, "each is used alone"),
        (("rgb", "flir/thermal"), True, "folders named flir are taken for a camera's"),
        (("zed/rgb", "flir/thermal"), True, "zed/rgb/0.png and flir/thermal/0.png, are taken for pairs: if"),
        (("zed/left", "flir"), True, "taken for pairs: if"),
        (("zed/1/rgb", "zed/2/rgb", "flir/1/thermal", "flir/2/thermal"), True, "taken for pairs: if"),
        (("a/rgb", "b/rgb", "a/thermal_16bit", "b/thermal_16bit"), True, ""),
        (("a/left", "b/left", "a/ir", "b/ir"), True, "(and of 1 other folder) are taken for RGB"),
        (("cam_a/1", "cam_a/2", "cam_ir/1", "cam_ir/2"), True, ""),
        (("rgb_day", "rgb_night", "thermal_day", "thermal_night"), True, ""),
        (("1/rgb_left", "2/rgb_left", "1/ir_right", "2/ir_right"), True, "ir_right/0.png, are taken for pairs: if"),
        (("s1", "s2", "thermal/s1", "thermal/s2"), True, ""),
        (("rgb", "thermal_8bit", "thermal_16bit"), False, "not paired, as one camera has several images of that name"),
    ],
)
def test_only_folders_of_cameras_may_differ_in_a_pair(
    tmp_path: Path, folders: tuple[str, ...], paired: bool, remark: str
) -> None:
    for folder in folders:
        is_grey = any(word in folder for word in ("ir", "thermal"))  # also flir
        write_image(tmp_path / folder / "0.png", grey(20) if is_grey else colour(90))
        write_yolo(tmp_path / folder / "0.txt", objects_of(0))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    own = open_own(tmp_path)
    kinds = {kind for split in own.provenance["images"].values() for kind in split}
    assert kinds == ({"pairs"} if paired else {"rgb only", "infrared only"})
    assert remark in "; ".join(own.remarks)


@pytest.mark.parametrize(
    ("images", "options", "infrared", "band"),
    [
        (("RGB/{}", "FIR/{}", "MIR/{}", "NIR/{}"), {"infrared_folder": "FIR"}, "FIR/0.png", Modality.LWIR),
        (("RGB/{}", "FIR/{}", "MIR/{}", "NIR/{}"), {"infrared_folder": "NIR"}, "NIR/0.png", Modality.NIR),
        (("RGB/{}", "FIR/{}", "MIR/{}", "NIR/{}"), {"infrared": "nir"}, "NIR/0.png", Modality.NIR),
        (("x/{}_rgb", "x/{}_lwir", "x/{}_nir"), {"infrared_folder": "x"}, "two .* or without these .* --band", None),
        (("rgb/{}", "ir_16/{}", "ir_8/{}"), {"infrared_folder": "ir_8"}, "ir_8/0.png", Modality.LWIR),
        (("x/{}_rgb", "x/{}_lwir", "x/{}_nir"), {"infrared": "nir"}, "x/0_nir.png", Modality.NIR),
        (("x/{}_rgb", "x/{}_lwir", "x/{}_nir"), {"infrared": "lwir"}, "x/0_lwir.png", Modality.LWIR),
        (("x/{}_rgb", "x/{}_lwir", "x/{}_nir"), {}, "LWIR and NIR; .* with --ir, or the band .* with --band", None),
        (
            ("RGB/{}", "FIR/{}", "MIR/{}"),
            {},
            "FIR/0.png and MIR/0.png are two .*, or choose the camera's .* --ir",
            None,
        ),
    ],
)
def test_one_of_several_infrared_cameras_is_used(
    tmp_path: Path, images: tuple[str, ...], options: dict[str, str], infrared: str, band: Modality | None
) -> None:
    for number in range(2):
        for image in images:
            write_image(tmp_path / f"{image.format(number)}.png", (colour if "rgb" in image.lower() else grey)(20))
            write_yolo(tmp_path / f"{image.format(number)}.txt", objects_of(0))
    write(tmp_path, "", "", "")
    if band is None:
        with pytest.raises(LabelError, match=infrared):
            open_own(tmp_path, **options)  # type: ignore[arg-type]
        return
    own = open_own(tmp_path, **options)  # type: ignore[arg-type]
    assert own.provenance["images"] == {"train": PAIR, "val": PAIR}
    assert own.benchmark.open(tmp_path, "train")[0].infrared == tmp_path / infrared
    assert own.benchmark.infrared is band
    assert any(f"{2 * (len(images) - 2)} images of another infrared camera" in remark for remark in own.remarks)


def test_one_view_in_two_splits_is_reported(tmp_path: Path) -> None:
    for folder, number in (("train/rgb", 0), ("train/thermal", 0), ("train/rgb", 1), ("val/thermal", 1)):
        write_image(tmp_path / folder / f"{number}.png", grey(20) if "thermal" in folder else colour(90))
        write_yolo(tmp_path / folder / f"{number}.txt", objects_of(0))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    assert any("1 name, such as 1, have their RGB image in one split" in text for text in open_own(tmp_path).remarks)


def test_other_folders_beside_named_cameras_are_no_cameras(tmp_path: Path) -> None:
    for folder in ("rgb", "thermal", "depth", "confidence"):
        write_image(tmp_path / folder / "0.png", colour(90) if folder == "rgb" else grey(20))
    write_yolo(tmp_path / "labels/0.txt", objects_of(0))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    assert open_own(tmp_path).provenance["images"] == {"train": PAIR}


@pytest.mark.parametrize("is_night", [False, True])
@pytest.mark.parametrize(
    ("rgb", "infrared", "splits"),
    [
        ("{}img", "{}imgr", ("train", "val")),
        ("{0}/{0}img", "{0}/{0}imgr", ("train", "test")),
        ("{}RGB", "{}T", ("Train", "Test")),
        ("{}rgb", "{}ir", ("train", "val")),
        ("{}_vi", "{}_ir", ("train", "val")),
        ("RGB", "T", ()),
        ("visible", "infrared", ()),
        ("vi", "ir", ()),
        ("img", "imgr", ()),
        ("s1/color", "s1/thermal", ()),
        ("00_vis", "01_ir", ()),
    ],
)
def test_names_of_published_sets_show_camera_and_split(
    tmp_path: Path, rgb: str, infrared: str, splits: tuple[str, ...], is_night: bool
) -> None:
    """Also of grey RGB images at night."""
    for split in splits or ("",):
        for number in range(2):
            write_image(tmp_path / rgb.format(split) / f"{number}.png", (grey if is_night else colour)(90))
            write_image(tmp_path / infrared.format(split) / f"{number}.png", grey(20))
            write_yolo(tmp_path / rgb.format(split) / f"{number}.txt", objects_of(0))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    own = open_own(tmp_path)
    expected = {split.lower(): {"pairs": 2} for split in splits} or {"train": PAIR, "val": PAIR}
    assert own.provenance["images"] == expected
    for split in expected:
        item = own.benchmark.open(tmp_path, split)[0]
        folders = [path.parent.relative_to(tmp_path).as_posix() for path in (item.rgb, item.infrared)]
        name = next((one for one in splits if one.lower() == split), "")
        assert folders == [rgb.format(name), infrared.format(name)]


@pytest.mark.parametrize(
    ("folders", "images"),
    [
        (("vi", "vii"), "is not known which are infrared"),
        (("s1/t", "s2/rgb"), {"infrared only": 1, "rgb only": 1}),
        (("s1/vi", "s2/ir"), {"infrared only": 2}),
        (("img", "imgs"), "are two infrared images of one name"),
        (("testbed", "testbedr"), "is not known which are infrared"),
    ],
)
def test_other_names_show_no_camera(tmp_path: Path, folders: tuple[str, ...], images: dict[str, int] | str) -> None:
    for folder in folders:
        write_image(tmp_path / folder / "0.png", colour(90) if folder.endswith("rgb") else grey(20))
        write_yolo(tmp_path / folder / "0.txt", objects_of(0))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    if isinstance(images, str):
        with pytest.raises(LabelError, match=images):
            open_own(tmp_path)
    else:
        counts = sum((Counter(kinds) for kinds in open_own(tmp_path).provenance["images"].values()), Counter())
        assert counts == images
