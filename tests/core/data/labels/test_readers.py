"""Boxes and masks from label files: clipped, skipped, ignored and refused."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.data.images import ImageFileError
from spectradino_core.data.labels import ImageLabels, LabelError, LabelledObject, boxes_of
from spectradino_core.data.labels.coco import coco_of
from spectradino_core.data.labels.cvat import read_cvat
from spectradino_core.data.labels.masks import mask_of, read_mask
from spectradino_core.data.labels.objects import OtherFormatError
from spectradino_core.data.labels.voc import read_voc
from tests.core.datasets.miniatures import voc_xml

CLASSES = ("person", "car")


def test_boxes_by_hand() -> None:
    objects = [
        LabelledObject("Car", (-5, 2, 10, 30)),  # clipped
        LabelledObject("people", (1, 1, 2, 2)),  # an alias
        LabelledObject("car", (40, 2, 50, 9)),  # outside
        LabelledObject("car", (9, 9, 3, 12)),  # inside out
        LabelledObject("dog", (1, 1, 2, 2)),
        LabelledObject("person", (0, 0, 9, 9), ignored=True),
    ]
    found = boxes_of(ImageLabels(objects), CLASSES, (32, 24))
    np.testing.assert_array_equal(found.boxes, [[0, 2, 10, 24], [1, 1, 2, 2]])
    np.testing.assert_array_equal(found.labels, [1, 0])
    np.testing.assert_array_equal(found.ignored, [[0, 0, 9, 9]])
    np.testing.assert_array_equal(found.ignored_labels, [0])
    assert found.notes == {"clipped": 1, "outside": 1, "zero_size": 1}
    assert (found.mostly_outside, dict(found.unknown)) == (0, {"dog": 1})
    far_out = ImageLabels([LabelledObject("car", (-11, 2, 10, 30), difficult=True)])
    assert boxes_of(far_out, CLASSES, (32, 24)).mostly_outside == 1
    assert len(boxes_of(far_out, CLASSES, (32, 24)).boxes) == 1
    assert len(boxes_of(far_out, CLASSES, (32, 24), difficult_counts=False).ignored) == 1
    unclipped = boxes_of(ImageLabels(objects), CLASSES, None)  # of an image whose size is unknown
    np.testing.assert_array_equal(unclipped.boxes, [[-5, 2, 10, 30], [1, 1, 2, 2], [40, 2, 50, 9]])


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["person", "car", "CAR", "tree"]),
            st.tuples(*[st.floats(-50, 80, allow_nan=False)] * 4),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_every_object_is_kept_ignored_skipped_or_empty(objects) -> None:
    found = boxes_of(ImageLabels([LabelledObject(*one) for one in objects]), CLASSES, (32, 24))
    kept = np.concatenate([found.boxes, found.ignored])
    assert len(kept) + found.notes["zero_size"] + found.notes["outside"] + found.unknown.total() == len(objects)
    assert len(found.labels) == len(found.boxes)
    assert len(found.ignored_labels) == len(found.ignored)
    assert (kept >= 0).all()
    assert (kept[:, [0, 2]] <= 32).all()
    assert (kept[:, [1, 3]] <= 24).all()
    assert found.boxes.dtype == np.float32
    assert found.labels.dtype == np.int64


def test_voc_gives_names_and_corners(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(voc_xml([("person", (1.5, 2, 3, 4))]))
    assert read_voc(path).objects == [LabelledObject("person", (1.5, 2, 3, 4))]
    path.write_text(voc_xml([]))
    assert read_voc(path).objects == []


BOMB = """<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""
OUTSIDE = """<!DOCTYPE annotation [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation>&f;</annotation>"""
REMOTE = """<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/x.dtd"><annotation/>"""


@pytest.mark.parametrize("text", [BOMB, OUTSIDE, REMOTE])
def test_voc_with_a_document_type_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "evil.xml"
    path.write_text(text)
    with pytest.raises(LabelError, match="evil.xml: has a document type"):
        read_voc(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (voc_xml([("person", (1, 2, 3, 4))])[:-20], "not XML, or truncated"),
        ("", "not XML"),
        ("width: 3", "not XML"),
        ("<annotation><object><name>car</name></object></annotation>", "object 0 has no name or no bndbox"),
        (voc_xml([("car", (1, 2, 3, "x"))]), "object 0 has"),
        (voc_xml([("car", (1, 2, 3, "nan"))]), "object 0 has"),
        (voc_xml([("car", (1, 2, 3, 4)), ("", (1, 2, 3, 4))]), "object 1 has"),
        (" " * (5 << 20), "long"),
    ],
)
def test_damaged_voc_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.xml"
    path.write_text(text)
    with pytest.raises(LabelError, match=message) as failed:
        read_voc(path)
    assert "bad.xml" in str(failed.value)


def test_xml_of_another_format_is_no_voc_file(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<CameraInfo><size/></CameraInfo>")
    with pytest.raises(OtherFormatError, match="a.xml: not VOC, its root is <CameraInfo>"):
        read_voc(tmp_path / "a.xml")


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels><label><name>car</name></label></labels></task></meta>
<image id="0" name="rgb/a.png" width="40" height="32">{}</image>
<image id="1" name="rgb\\b.png" width="40" height="32"><tag label="night"/></image></annotations>"""


@pytest.mark.parametrize(
    ("shape", "corners"),
    [
        ('<box label="person" xtl="1" ytl="2" xbr="11" ybr="6"/>', (1, 2, 11, 6)),
        ('<box label="person" xtl="1" ytl="2" xbr="11" ybr="6" rotation="90"/>', (4, -1, 8, 9)),
        ('<polygon label="person" points="1.0,2.0;11.0,3.0;5.0,6.0"/>', (1, 2, 11, 6)),
        ('<ellipse label="person" cx="6" cy="4" rx="5" ry="2" rotation="90"/>', (4, -1, 8, 9)),
        ('<mask label="person" rle="1" left="1" top="2" width="10" height="4"/>', (1, 2, 11, 6)),
        ('<points label="person" points="1,2"/>', None),
    ],
)
def test_shapes_of_cvat(tmp_path: Path, shape: str, corners: tuple[float, ...] | None) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(CVAT.format(shape))
    found = read_cvat(path)
    assert [(image.name, image.size) for image in found.images] == [("rgb/a.png", (40, 32)), ("rgb/b.png", (40, 32))]
    objects = found.images[0].labels.objects
    assert [(one.name, one.corners) for one in objects] == ([("person", pytest.approx(corners))] if corners else [])
    assert found.notes == ({} if corners else {"other_shapes": 1})
    assert found.classes == (("car", "person") if corners else ("car",))
    assert found.images[1].labels.objects == []


def test_damaged_or_other_cvat_is_named(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    for shape in (
        '<box label="a" xtl="nan" ytl="2" xbr="3" ybr="4"/>',
        '<box xtl="1" ytl="2" xbr="3" ybr="4"/>',
        "<x/>",
    ):
        path.write_text(CVAT.format(shape.replace("<x/>", '<polygon label="a" points="1;2"/>')))
        with pytest.raises(LabelError, match=r"annotations.xml: image 'rgb/a.png' has a (box|polygon) without label"):
            read_cvat(path)
    path.write_text("<annotations><track/></annotations>")
    with pytest.raises(OtherFormatError, match="not 'CVAT for images'"):
        read_cvat(path)


def test_polygons_of_coco_are_boxes_around_them() -> None:
    data = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [
            {"id": 3, "image_id": 1, "category_id": 1, "segmentation": [[1, 2, 11, 3, 5, 6], [20, 1, 21, 2, 20, 4]]}
        ],
        "categories": [{"id": 1, "name": "car"}],
    }
    assert coco_of(Path("a.json"), data, Counter()).images[0].labels.objects == [LabelledObject("car", (1, 1, 21, 6))]
    for damaged in ([], [[]], ["ab"], [[1, None]], {"counts": "a", "size": [1, 2]}):
        data["annotations"][0]["segmentation"] = damaged  # type: ignore[index]
        with pytest.raises(LabelError, match="annotation 3 has no bbox .* and no polygon: .*; add one or remove"):
            coco_of(Path("a.json"), data, Counter())


def indexed_png(path: Path, numbers: np.ndarray, palette: np.ndarray, bits: int = 8, kind: int = 3) -> None:
    """Encode a PNG with a palette, as many annotation tools write masks; OpenCV can't."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = numbers.shape
    samples = np.unpackbits(numbers[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(samples, axis=1))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
        + (chunk(b"PLTE", palette.astype(np.uint8).tobytes()) if kind == 3 else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_masks_with_a_palette_give_its_numbers(tmp_path: Path) -> None:
    numbers = np.arange(60, dtype=np.uint8).reshape(6, 10) % 13
    palette = np.random.default_rng(3).integers(1, 256, (256, 3))
    palette[0] = 0
    indexed_png(tmp_path / "m.png", numbers, palette)
    assert cv2.imread(str(tmp_path / "m.png"), cv2.IMREAD_UNCHANGED).ndim == 3  # the trap
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), numbers)


def test_a_palette_may_have_a_colour_twice_or_be_black(tmp_path: Path) -> None:
    palette = np.zeros((256, 3), int)
    palette[1] = palette[2] = (10, 20, 30)
    numbers = np.arange(20, dtype=np.uint8).reshape(4, 5) % 7
    indexed_png(tmp_path / "m.png", numbers, palette)
    notes: Counter[str] = Counter()
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", notes), numbers)
    assert notes == {"palette_mask": 1}
    whole = (tmp_path / "m.png").read_bytes()
    (tmp_path / "m.png").write_bytes(whole[:-30] + b"IEND")
    with pytest.raises((LabelError, ImageFileError), match=r"m\.png"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", [0, 3])
def test_masks_of_few_bits_give_their_numbers(tmp_path: Path, bits: int, kind: int) -> None:
    numbers = np.arange(24, dtype=np.uint8).reshape(3, 8) % (1 << bits)
    palette = np.random.default_rng(3).integers(0, 256, (1 << bits, 3))
    indexed_png(tmp_path / "m.png", numbers, palette, bits, kind)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), numbers)


def test_masks_in_other_forms(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for image in (numbers, cv2.merge([numbers] * 3), numbers.astype(np.uint16)):
        cv2.imwrite(str(path), image)
        np.testing.assert_array_equal(read_mask(path), numbers)
    cv2.imwrite(str(path), numbers.astype(np.uint16) * 1000)
    with pytest.raises(LabelError, match="class numbers up to 255"):
        read_mask(path)


def test_masks_are_mapped_by_their_table(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    cv2.imwrite(str(path), np.array([[0, 1, 2]], np.uint8))
    np.testing.assert_array_equal(mask_of(path, {0: 255, 1: 0, 2: 1}), [[255, 0, 1]])
    with pytest.raises(LabelError, match="m.png: holds 1, 2, which the class table lacks"):
        mask_of(path, {0: 0})


@pytest.mark.parametrize("box", [[10**400, 0, 1, 1], [1e308, 0, 1e308, 1], ["1", "2", "3", "4"], [0, 0, 1e400, 1]])
def test_boxes_beyond_numbers_are_refused_and_numbers_as_text_are_read(box: list[object]) -> None:
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 10**400}],
        "annotations": [{"id": 3, "image_id": 1, "category_id": 1, "bbox": box}],
        "categories": [{"id": 1, "name": "car"}],
    }
    if box[0] == "1":
        file = coco_of(Path("a.json"), data, Counter())
        assert file.images[0].labels.objects == [LabelledObject("car", (1, 2, 4, 6))]
        assert file.images[0].size is None
        return
    with pytest.raises(LabelError, match="a.json: annotation 3 has (no bbox|a bbox that is not finite)"):
        coco_of(Path("a.json"), data, Counter())
