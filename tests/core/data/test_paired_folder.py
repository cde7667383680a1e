"""Reading a miniature data set from real files, and every kind of error in one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from spectradino_core.data.paired_folder import PairedFolder, PairedFolderError

CLASSES = ("person", "bicycle", "car")


def write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pairs of 40x30: `a` with boxes and a 16-bit IR image, `b` without annotations, 8-bit, with a mask."""
    folder = tmp_path / "mini"
    for kind in ("rgb", "lwir", "label"):
        (folder / "val" / kind).mkdir(parents=True)
    rgb = np.zeros((30, 40, 3), np.uint8)
    rgb[:, :20] = (200, 30, 60)  # R, G, B
    counts = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 40
    for name in "ab":
        cv2.imwrite(str(folder / f"val/rgb/{name}.png"), rgb[..., ::-1])
    cv2.imwrite(str(folder / "val/lwir/a.png"), counts)
    cv2.imwrite(str(folder / "val/lwir/b.png"), (counts // 256).astype(np.uint8))
    cv2.imwrite(str(folder / "val/label/b.png"), np.full((30, 40), 3, np.uint8))
    items = [
        {"id": n, "width": 40, "height": 30, "rgb": f"val/rgb/{n}.png", "lwir": f"val/lwir/{n}.png", "label": None}
        for n in "ab"
    ]
    items[1]["label"] = "val/label/b.png"
    write_json(folder / "index_val.json", {"set": "mini", "split": "val", "items": items})
    write_json(
        folder / "instances_val.json",
        {
            "images": [{"id": 7, "file_name": "val/rgb/a.png", "lwir_file_name": "val/lwir/a.png", "time": "night"}],
            "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "bike"}, {"id": 9, "name": "dog"}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 2, "bbox": [5, 6, 10, 20]},
                {"id": 2, "image_id": 7, "category_id": 1, "bbox": [30, 20, 50, 50]},
                {"id": 3, "image_id": 7, "category_id": 9, "bbox": [1, 1, 3, 3]},
                {"id": 4, "image_id": 7, "category_id": 1, "bbox": [0, 0, 40, 30], "iscrowd": 1},
            ],
        },
    )
    return folder


def edit(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    write_json(path, data)


def test_reads_pairs_as_they_are(root: Path) -> None:
    folder = PairedFolder(root, "val", classes=CLASSES)
    a, b = folder
    assert (folder.name, len(folder), folder.scored_classes) == ("mini", 2, ("person", "bicycle"))
    assert (a.id, a.size, a.time, b.time) == ("a", (40, 30), "night", None)
    assert a.load_rgb()[10, 5].tolist() == [200, 30, 60]
    assert a.load_infrared().dtype == np.uint16
    assert a.load_infrared()[29, 39] == (30 * 40 - 1) * 40
    assert b.load_infrared().dtype == np.uint8
    assert a.load_mask() is None
    mask = b.load_mask()
    assert mask is not None
    assert mask.shape == (30, 40)
    assert np.unique(mask).tolist() == [3]


def test_boxes_have_our_names_and_stay_in_the_image(root: Path) -> None:
    folder = PairedFolder(root, "val", classes=CLASSES)
    assert folder[0].boxes is not None
    assert folder[0].boxes.tolist() == [[5, 6, 15, 26], [30, 20, 40, 30]]
    assert folder[0].labels is not None
    assert folder[0].labels.tolist() == [1, 0]
    assert folder.unknown == {"dog": 1}
    assert folder.notes == {"clipped": 1}
    sample = folder.load(folder[0])
    assert sample.ignored is not None
    assert sample.ignored.tolist() == [[0, 0, 40, 30]]  # the crowd: neither right nor wrong to find
    assert folder[1].boxes is None  # not listed: nothing is known, which is not the same as none
    assert PairedFolder(root, "val").classes == ("person", "bicycle", "dog")


def test_a_pair_is_loaded_with_the_masks_values_renamed(root: Path) -> None:
    plain = PairedFolder(root, "val", classes=CLASSES)
    assert plain.load(plain[1]).mask is None  # nobody said what its values mean
    edit(root / "index_val.json", lambda d: d.update(mask_classes=["sky", "road", "tree", "car"]))
    own = PairedFolder(root, "val", classes=CLASSES).items
    folder = PairedFolder(root, "val", classes=CLASSES, mask_classes=("car", "road"))
    assert folder.load(folder[0]).mask is None
    sample = folder.load(folder[1])
    assert np.unique(sample.mask).tolist() == [0]
    assert (sample.boxes, sample.size, sample.name) == (None, (40, 30), "mini/b")
    assert np.unique(PairedFolder(root, "val").load(own[1]).mask).tolist() == [3]
    others = PairedFolder(root, "val", mask_classes=("road",))
    assert np.unique(others.load(others[1]).mask).tolist() == [255]


def test_a_listed_image_without_boxes_is_known_to_be_empty(root: Path) -> None:
    edit(root / "instances_val.json", lambda d: d.update(annotations=[]))
    item = PairedFolder(root, "val", classes=CLASSES)[0]
    assert item.boxes is not None
    assert item.boxes.shape == (0, 4)
    (root / "instances_val.json").unlink()
    folder = PairedFolder(root, "val", classes=CLASSES)
    assert folder[0].boxes is None
    assert folder.scored_classes == ()


def test_a_grey_vis_image_is_used_as_rgb(root: Path) -> None:
    (root / "val/vis").mkdir()
    cv2.imwrite(str(root / "val/vis/a.png"), np.full((30, 40), 90, np.uint8))
    edit(root / "index_val.json", lambda d: (d["items"].pop(), d["items"][0].update(rgb=None, vis="val/vis/a.png")))
    rgb = PairedFolder(root, "val")[0].load_rgb()
    assert rgb.shape == (30, 40, 3)
    assert (rgb == 90).all()


def test_wrong_folder_error_names_the_expected_files(root: Path) -> None:
    with pytest.raises(PairedFolderError, match=r"nowhere: no such folder \(looked for index_val.json"):
        PairedFolder(root / "nowhere", "val")
    with pytest.raises(PairedFolderError, match=r"looked for index_test.json .* it holds index_val.json"):
        PairedFolder(root, "test")
    with pytest.raises(PairedFolderError, match="choose one of mini"):
        PairedFolder(root.parent, "val")
    with pytest.raises(PairedFolderError, match="no index at all"):
        PairedFolder(root / "val", "val")
    with pytest.raises(PairedFolderError, match=r"item 0 \(a\) has no nir image; it has rgb, lwir"):
        PairedFolder(root, "val", infrared="nir")
    (root / "index_val.json").write_text("{")
    with pytest.raises(PairedFolderError, match=r"index_val.json can't be read as JSON"):
        PairedFolder(root, "val")


@pytest.mark.parametrize(
    "text", ["../secret.png", "/etc/passwd", "val/../../secret.png", "..\\secret.png", "C:\\x.png", "val/\0.png"]
)
def test_paths_stay_inside(root: Path, text: str) -> None:
    cv2.imwrite(str(root.parent / "secret.png"), np.zeros((30, 40, 3), np.uint8))
    edit(root / "index_val.json", lambda d: d["items"][0].update(rgb=text))
    with pytest.raises(PairedFolderError, match=r"item 0 names .*(outside|not a path)"):
        PairedFolder(root, "val")


def test_a_users_own_links_are_followed(root: Path) -> None:
    elsewhere = root.parent / "other disk"
    (root / "val/rgb").rename(elsewhere)
    os.symlink(elsewhere, root / "val/rgb")
    assert PairedFolder(root, "val")[0].load_rgb().shape == (30, 40, 3)


def test_damaged_images_are_named(root: Path) -> None:
    item = PairedFolder(root, "val")[0]
    whole = item.rgb_path.read_bytes()
    item.rgb_path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PairedFolderError, match=r"rgb/a.png: the file is truncated"):
        item.load_rgb()
    jpeg = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8))[1].tobytes()
    item.rgb_path.write_bytes(jpeg)
    assert item.load_rgb().shape == (30, 40, 3)
    item.rgb_path.write_bytes(jpeg[:-300])
    with pytest.raises(PairedFolderError, match="truncated"):
        item.load_rgb()
    item.rgb_path.write_bytes(b"not an image")
    with pytest.raises(PairedFolderError, match=r"rgb/a.png: not an image"):
        item.load_rgb()
    item.rgb_path.write_bytes(b"")
    with pytest.raises(PairedFolderError, match=r"rgb/a.png: not an image"):
        item.load_rgb()
    item.rgb_path.unlink()
    with pytest.raises(PairedFolderError, match=r"rgb/a.png does not exist"):
        item.load_rgb()
    cv2.imwrite(str(item.infrared_path), np.zeros((30, 41), np.uint16))
    with pytest.raises(PairedFolderError, match="41x30 pixels, its index says 40x30"):
        item.load_infrared()
    cv2.imwrite(str(item.rgb_path), np.zeros((30, 40, 3), np.uint16))
    with pytest.raises(PairedFolderError, match="8 bits per channel"):
        item.load_rgb()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "annotation 1 has no bbox"),
        (lambda d: d["annotations"][0].update(bbox=[float("nan"), 5, 3, 4]), "annotation 1"),
        (lambda d: d["annotations"][0].update(category_id=44), "annotation 1 has category_id 44"),
        (lambda d: d["annotations"][0].update(image_id=44), "annotation 1 has image_id 44"),
        (lambda d: d.pop("images"), "not COCO annotations"),
    ],
)
def test_damaged_annotations_are_named(root: Path, change, message: str) -> None:
    edit(root / "instances_val.json", change)
    with pytest.raises(PairedFolderError, match=message):
        PairedFolder(root, "val")


@pytest.mark.parametrize("items", [None, [], [{"id": "a"}], [3]])
def test_damaged_index_is_named(root: Path, items: object) -> None:
    write_json(root / "index_val.json", {"items": items})
    with pytest.raises(PairedFolderError, match=r"index_val.json"):
        PairedFolder(root, "val")


REAL = Path(os.environ.get("SPECTRADINO_DATA", "../shared/data")) / "roadscene_rgb_lwir"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real pairs are not at SPECTRADINO_DATA or ../shared/data")
def test_real_pairs() -> None:
    folder = PairedFolder(REAL, "val", classes=CLASSES)
    known = [item for item in folder if item.boxes is not None]
    assert (len(folder), len(known), folder.scored_classes) == (31, 23, CLASSES)
    assert sum(len(item.boxes) for item in known) == 212
    for item in list(folder)[:3]:
        assert item.load_rgb().shape == (*item.load_infrared().shape, 3)


def test_images_of_one_camera_are_used_if_requested(root: Path) -> None:
    edit(root / "index_val.json", lambda d: d["items"][0].pop("rgb"))
    with pytest.raises(PairedFolderError, match="no RGB image"):
        PairedFolder(root, "val", classes=CLASSES)
    folder = PairedFolder(root, "val", classes=CLASSES, single=True)
    sample = folder.load(folder[0])
    assert sample.present == (False, True)
    assert (sample.rgb.shape, int(sample.rgb.max())) == ((30, 40, 3), 0)
    assert sample.boxes is not None
    assert folder.load(folder[1]).present == (True, True)
    edit(root / "index_val.json", lambda d: d["items"][0].pop("lwir"))
    with pytest.raises(PairedFolderError, match="it has no images"):
        PairedFolder(root, "val", classes=CLASSES, single=True)


def test_crowds_are_ignored_and_unknown_classes_are_unlabelled(root: Path) -> None:
    folder = PairedFolder(root, "val", classes=CLASSES)
    sample = folder.load(folder[0])
    assert sample.ignored is not None
    assert sample.ignored_labels is not None
    assert (sample.ignored.tolist(), sample.ignored_labels.tolist()) == ([[0, 0, 40, 30]], [0])
    assert sample.labelled_classes == (0, 1)  # nobody looked for cars
    everything = PairedFolder(root, "val", classes=CLASSES[:2])
    assert everything.load(everything[0]).labelled_classes is None
