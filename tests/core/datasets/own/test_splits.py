"""Splits of own folders by lists of images and by data.yaml: what they name is used, or the reason is reported."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

from spectradino_core.data.labels import LabelError
from spectradino_core.datasets.own import OwnFolder, open_own
from tests.core.datasets.miniatures import write_image
from tests.core.datasets.own.folders import NAMES, colour, grey, objects_of, write_coco, write_yolo

SEQUENCES = ("seq1/rgb/0", "seq1/rgb/1", "seq2/rgb/0", "seq2/rgb/1")
FOLDERS = ("images/train/a", "images/train/b", "images/val/c")
PARTLY = ("images/b1/a", "images/b2/a", "images/test/a")
SEQ2 = "seq2/rgb/0.jpg\nseq2/rgb/1.jpg"
BATCHES = ("images/b1/a", "images/b1/b", "images/b2/c")
FLAT = ("images/a Köln 0", "images/a Köln 1", "images/b.0")


def write(root: Path, images: Sequence[str], files: dict[str, str]) -> None:
    """Write images with YOLO labels, thermal counterparts of those in folders named rgb, and text files."""
    for image in images:
        write_image(root / f"{image}.jpg", colour(90))
        if "/rgb/" in image:
            write_image(root / f"{image.replace('/rgb/', '/thermal/')}.png", grey(20))
        label = image.replace("images/", "labels/").replace("/rgb/", "/labels/")
        write_yolo(root / f"{label}.txt", objects_of(0))
    for name, text in {"classes.txt": "\n".join(NAMES), **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"names: [{', '.join(NAMES)}]\n{text}" if name.endswith(".yaml") else text)


def split_of(own: OwnFolder) -> dict[str, str]:
    return {
        Path(item.name).with_suffix("").as_posix(): split
        for split in own.benchmark.splits
        for item in own.benchmark.open(own.root, split)
    }


@pytest.mark.parametrize(
    ("images", "files", "splits", "remark"),
    [
        (SEQUENCES, {"train.txt": "seq1/rgb/0.jpg\nseq1/rgb/1.jpg", "val.txt": "./" + SEQ2}, "ttvv", ""),
        (SEQUENCES, {"train.txt": "/me/x/seq1/rgb/0.jpg\nD:\\x\\seq1\\thermal\\1.png", "val.txt": SEQ2}, "ttvv", ""),
        (SEQUENCES, {"train.txt": "0\n1", "val.txt": SEQ2}, "ttvv", ""),
        (SEQUENCES, {"train.txt": "/u/seq1/visible/0.jpg\nseq1/lwir/images/1", "val.txt": "seq2/0\nx/seq2/1"}, "ttvv",
         ""),
        (SEQUENCES, {"seq1/train.txt": "rgb/0.jpg\nrgb/1.jpg", "seq2/val.txt": "0 1\n1 -1"}, "ttvv", ""),
        (SEQUENCES, {"train.txt": "seq1/0\nseq1/1\nseq3/0", "val.txt": "seq2/1"}, "tt v", "1 line without an image"),
        (FLAT, {"train.txt": "images/a Köln 0.jpg\nimages/b.0.jpg", "val.txt": "images/a Köln 1.jpg"}, "tvt", ""),
        (FLAT, {"Main/train.txt": "a Köln 0  1\nb.0 -1", "Main/val.txt": "A KÖLN 1"}, "tvt", ""),
        (BATCHES, {"align_train.txt": "c", "align_val.txt": "images/b1/a.jpg"}, "v t", "left out"),
        (BATCHES, {"train.txt": "b", "val.txt": "c"}, " tv",
         "1 image, such as images/b1/a.jpg, left out: not listed in train.txt, val.txt"),
        (BATCHES, {"val.txt": "b"}, "tvt", "2 images not listed in val.txt are for train"),
        (BATCHES, {"train.txt": "old/a.jpg\nold/b.jpg", "val.txt": "old/c.jpg"}, "ttv", "matched by file name only"),
        (BATCHES, {"train.txt": "a\nb\nlost", "val.txt": "c"}, "ttv", "train.txt: 1 line without an image"),
        (BATCHES, {"data.yaml": "train: images/b2\nval: images/b1"}, "vvt", ""),
        (BATCHES, {"data.yaml": "path: /content/x\ntrain: [images/b2]\nval: images/b1"}, "vvt", ""),
        (BATCHES, {"cfg/data.yaml": "train: ../images/b2\nval: ../images/b1"}, "vvt", ""),
        (BATCHES, {"data.yaml": "train: lists/one.txt\nval: lists/two.txt", "lists/one.txt": "./images/b1/a.jpg",
                   "lists/two.txt": "images/b1/b.jpg\nimages/b2/c.jpg"}, "tvv", ""),
        (BATCHES, {"data.yaml": "train: images/b2\nval: ../../../etc"}, "  t", "its val '../../../etc' names no"),
        (PARTLY, {"data.yaml": "train: images/b1\nval: images/b2\ntest: images/test"}, "tvs", ""),
        (PARTLY, {}, "tts", ""),
        (FOLDERS, {"data.yaml": "train: images/val\nval: images/train"}, "ttv", "lists 3 images, such as images/tr"),
        (FOLDERS, {"train.txt": "images/train/a.jpg\nlost.jpg", "val.txt": "images/val/c.jpg"}, "ttv", ""),
        (BATCHES, {"data.yaml": "train: .\nval: images/b2"}, "ttv", "its splits are not used"),
        (BATCHES, {"data.yaml": "train: images/b1\nval: ..\ntest: /"}, "tv ", "its test '/' names no images"),
        (BATCHES, {"data.yaml": "train: images\nval: images"}, "ttv", "its splits are not used"),
        (BATCHES, {"data.yaml": "train: images\nval: images/none"}, "ttv", "its val 'images/none' names no images"),
        (BATCHES, {"data.yaml": "train: images/b1\nval: images/b2\ntest: images/b2"}, "ttv", ""),
    ],
)  # fmt: skip
def test_splits_of_lists_and_yaml(
    tmp_path: Path, images: Sequence[str], files: dict[str, str], splits: str, remark: str
) -> None:
    write(tmp_path, images, files)
    own = open_own(tmp_path)
    stated = {"t": "train", "v": "val", "s": "test", " ": None}
    expected = {image: stated[one] for image, one in zip(images, splits, strict=True) if one != " "}
    assert split_of(own) == expected
    assert remark in "; ".join(own.remarks)
    assert remark or not any("split" in text or "line" in text for text in own.remarks)


def test_an_image_in_two_lists_is_refused(tmp_path: Path) -> None:
    write(tmp_path, SEQUENCES, {"train.txt": "0\n1\n", "lists/val.txt": "0\n"})
    with pytest.raises(LabelError, match=r"0.jpg is listed for train in train.txt and for val in lists/val.txt: rem"):
        open_own(tmp_path)


@pytest.mark.parametrize("folder", ["old", "rgb"])
def test_a_line_that_fits_several_recordings_is_refused(tmp_path: Path, folder: str) -> None:
    write(tmp_path, SEQUENCES, {"train.txt": f"{folder}/0.jpg\n", "val.txt": f"{folder}/1.jpg\n"})
    with pytest.raises(LabelError, match=rf"train.txt: '{folder}/0.jpg' may be seq1/.* or seq2/.*: list images"):
        open_own(tmp_path)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_match_in_either_case_and_unicode_form(tmp_path: Path, form: str) -> None:
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "labels/bild ä 1.txt")
    write_image(tmp_path / unicodedata.normalize(form, "rgb/BILD Ä 1.JPG"), colour(90))
    write_image(tmp_path / "ir/Bild ä 1.png", grey(20))
    write_image(tmp_path / unicodedata.normalize(form, "rgb/ü.jpg"), colour(90))
    write_coco(tmp_path / "coco.json", [("ü.jpg", objects_of(2))])
    write_yolo(tmp_path / other, objects_of(0))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    own = open_own(tmp_path)
    assert own.provenance["images"] == {"train": {"pairs": 1}, "val": {"rgb only": 1}}
    write_image(tmp_path / unicodedata.normalize(form, "rgb/Bild Ä 1.jpg"), colour(90))
    with pytest.raises(LabelError, match=r"BILD .* and rgb/Bild .* are two rgb images of one name"):
        open_own(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.yaml", f"names: [{', '.join(NAMES)}]\ntrain: {'a/' * 50_000}x.txt\n"),
        ("train.txt", f"rgb/0.png\n{'a/' * 100_000}0.png\n"),
        ("train.txt", f"rgb/0.png\nrgb/1.png{' ' * 100_000}x\n"),
        ("train.txt", f"rgb/0.png\n{'_jpg' * 25_000}.png\n"),
    ],
)
def test_long_lines_take_no_time(tmp_path: Path, name: str, text: str) -> None:
    """Each took minutes: of quadratic time in their length."""
    for number in range(2):
        write_image(tmp_path / f"rgb/{number}.png", colour(90))
        write_yolo(tmp_path / f"rgb/{number}.txt", objects_of(0))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    (tmp_path / name).write_text(text)
    started = time.process_time()
    open_own(tmp_path)
    assert time.process_time() - started < 10


def test_a_link_to_itself_is_no_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "rgb/0.png", colour(90))
    write_yolo(tmp_path / "rgb/0.txt", objects_of(0))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    (tmp_path / "loop").symlink_to("loop")
    assert open_own(tmp_path).provenance["images"] == {"train": {"rgb only": 1}}
