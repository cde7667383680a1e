"""All readers of masks accept the same forms, see `test_tolerance`."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from spectradino_core.bags.ground_truth_coco import read_coco as read_truth
from spectradino_core.data.labels import LabelError
from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.datasets import open_benchmark
from tests.blob_model import blob_info
from tests.core.data.labels.test_readers import indexed_png
from tests.core.data.labels.test_tolerance import positive
from tests.core.datasets.miniatures import MINIATURES, write_image

NUMBERS = (np.arange(24 * 32) % 4 + 1).astype(np.uint8).reshape(24, 32)


def mask_of_bag(path: Path) -> tuple[np.ndarray, Counter[str]]:
    image = {"id": 1, "stamp_ns": 7, "width": 32, "height": 24, "sem_seg_file_name": path.name}
    classes = [f"class {n}" for n in range(9)]
    data = {"images": [image], "annotations": [], "categories": [], "mask_classes": classes}
    (path.parent / "truth.json").write_text(json.dumps(data))
    info = blob_info((42, 28)).with_(mask_classes=tuple(classes), palette=tuple((n, n, n) for n in range(9)))
    truth = read_truth(path.parent / "truth.json", info)
    reader = truth.frames[0].mask
    assert reader is not None
    reader()
    return reader(), truth.notes


def mask_of_folder(path: Path) -> tuple[np.ndarray, Counter[str]]:
    root = path.parent / "folder"
    write_image(root / "rgb.png", np.zeros((24, 32, 3), np.uint8))
    shutil.copy(path, root / "mask.png")
    item = {"id": "a", "width": 32, "height": 24, "rgb": "rgb.png", "lwir": "rgb.png", "label": "mask.png"}
    index = {"items": [item], "mask_classes": [f"class {n}" for n in range(9)]}
    (root / "index_val.json").write_text(json.dumps(index))
    folder = PairedFolder(root, "val")
    mask = folder.load(folder[0]).mask
    assert mask is not None
    return mask, folder.notes


def mask_of_benchmark(name: str, label: str) -> Callable[[Path], tuple[np.ndarray, Counter[str]]]:
    def read(path: Path) -> tuple[np.ndarray, Counter[str]]:
        root = path.parent / name
        MINIATURES[name].write(root)
        shutil.copy(path, root / label)
        pairs = open_benchmark(name, root, "test")
        mask = pairs.load(pairs[0]).mask
        assert mask is not None
        return mask, pairs.notes

    return read


MASK_DOORS = {
    "bag evaluate --labels": (mask_of_bag, 0),
    "paired folder": (mask_of_folder, 0),
    "mfnet": (mask_of_benchmark("mfnet", "labels/01499D.png"), 0),
    "semanticrt": (mask_of_benchmark("semanticrt", "labels/img_00004.png"), 0),
    "fmb": (mask_of_benchmark("fmb", "test/Label/00003.png"), -1),  # its classes begin at 1
}
PALETTE = np.random.default_rng(3).integers(0, 256, (256, 3))


@pytest.mark.parametrize("door", MASK_DOORS)
def test_mask_oddities(tmp_path: Path, door: str) -> None:
    read, first = MASK_DOORS[door]
    path = tmp_path / "m.png"
    indexed_png(path, NUMBERS, PALETTE)
    mask, notes = read(path)
    np.testing.assert_array_equal(mask, NUMBERS + np.uint8(first % 256))
    assert positive(notes) == {"palette_mask": 1}
    indexed_png(path, NUMBERS, np.zeros((256, 3)))  # a palette of one colour: its indices are the classes all the same
    np.testing.assert_array_equal(read(path)[0], NUMBERS + np.uint8(first % 256))
    for image in (NUMBERS, cv2.merge([NUMBERS] * 3), NUMBERS.astype(np.uint16)):
        cv2.imwrite(str(path), image)
        mask, notes = read(path)
        np.testing.assert_array_equal(mask, NUMBERS + np.uint8(first % 256))
        assert positive(notes) == {}
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 9, (24, 32, 3), np.uint8))
    with pytest.raises(LabelError, match=r"\.png.*holds colours"):
        read(path)


def test_mcubes_takes_a_palette_too(tmp_path: Path) -> None:
    MINIATURES["mcubes"].write(tmp_path)
    path = tmp_path / "GT/outscene1210_1_0000000000.png"
    before = open_benchmark("mcubes", tmp_path, "test")
    plain = before.load(before[0]).mask
    indexed_png(path, cv2.imread(str(path), cv2.IMREAD_UNCHANGED), PALETTE)
    pairs = open_benchmark("mcubes", tmp_path, "test")
    np.testing.assert_array_equal(pairs.load(pairs[0]).mask, plain)
    assert positive(pairs.notes) == {"palette_mask": 1}
