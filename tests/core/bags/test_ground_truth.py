"""Ground truth from COCO files and topics: matching of stamps, classes and regions, and errors with names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.bags.ground_truth import GroundTruth, GroundTruthError, TrueFrame, in_seconds, read_topics
from spectradino_core.bags.ground_truth_coco import read_coco, stamp_of_image
from spectradino_core.data.labels import ClassNames
from tests.blob_model import blob_info
from tests.core.bags.recordings import SIZE, START_NS, Recording

INFO = blob_info(SIZE)


def coco(folder: Path, **changes: Any) -> Path:
    data = {
        "images": [{"id": 1, "stamp_ns": 7, "width": 100, "height": 80}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 2, "bbox": [10, 20, 30, 40]}],
        "categories": [{"id": 2, "name": "hot"}],
    } | changes
    path = folder / "truth.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("image", "stamp"),
    [
        ({"stamp_ns": 1_700_000_000_123_456_789, "file_name": "5.000000000.png"}, 1_700_000_000_123_456_789),
        ({"stamp": {"sec": 12, "nanosec": 34}}, 12_000_000_034),
        ({"file_name": "rgb/1700000000.012345678.png"}, 1_700_000_000_012_345_678),
        ({"file_name": "1700000000.012345678"}, 1_700_000_000_012_345_678),
        ({"file_name": "C:\\drive\\1700000000.5.jpg"}, 1_700_000_000_500_000_000),
        ({"file_name": "1700000000.0123456789.tiff"}, 1_700_000_000_012_345_679),
        ({"file_name": "1700000000_012345678.JPG"}, 1_700_000_000_012_345_678),
        ({"file_name": "1700000000012345678.png"}, 1_700_000_000_012_345_678),
        ({"file_name": "1700000000-012345678_png.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg"}, 1_700_000_000_012_345_678),
        ({"file_name": "1700000000012345678_jpg.rf.Zx81hdbKQm.jpg"}, 1_700_000_000_012_345_678),
        ({"stamp_ns": "1700000000012345678"}, 1_700_000_000_012_345_678),
        ({"stamp": {"sec": "12", "nanosec": 34.0}}, 12_000_000_034),
    ],
)
def test_images_have_their_capture_times(image: dict[str, Any], stamp: int) -> None:
    assert stamp_of_image(image, "truth.json") == stamp


@pytest.mark.parametrize("name", ["000001.png", "1700000000.png", "frame_12_123456789.png", "", "1.2.3.png"])
def test_an_image_without_a_stamp_is_named(name: str) -> None:
    with pytest.raises(GroundTruthError, match="image 9 .*stamp_ns"):
        stamp_of_image({"id": 9, "file_name": name}, "truth.json")


@settings(deadline=None)
@given(st.integers(0, 2**62))
def test_a_stamp_written_as_text_is_read_back(stamp: int) -> None:
    assert stamp_of_image({"file_name": f"{in_seconds(stamp)}.png"}, "") == stamp


def test_boxes_are_corners_cut_to_the_image_with_the_models_labels(tmp_path: Path) -> None:
    boxes = [[10, 20, 30, 40], [-5, 70, 50, 50]]
    truth = read_coco(
        coco(
            tmp_path,
            annotations=[{"id": n, "image_id": 1, "category_id": 2, "bbox": b} for n, b in enumerate(boxes)],
        ),
        INFO,
    )
    frame = truth.frames[0]
    assert frame.boxes is not None
    assert frame.boxes.tolist() == [[10, 20, 40, 60], [0, 70, 45, 80]]
    assert frame.labels is not None
    assert frame.labels.tolist() == [1, 1]
    assert (frame.stamp_ns, frame.size, truth.classes) == (7, (100, 80), ("hot",))


def test_what_the_model_does_not_have_is_counted_and_crowds_are_kept_apart(tmp_path: Path) -> None:
    names = {1: "Hot", 2: "dog", 3: "red"}
    annotations = [
        {"id": n, "image_id": 1, "category_id": place, "bbox": [0, 0, 9, 9], **more}
        for n, (place, more) in enumerate([(1, {}), (2, {}), (2, {}), (3, {"iscrowd": 1}), (3, {"ignore": True})])
    ]
    truth = read_coco(
        coco(tmp_path, annotations=annotations, categories=[{"id": k, "name": v} for k, v in names.items()]), INFO
    )
    assert dict(truth.unknown) == {"dog": 2}
    assert truth.crowd == 2
    assert truth.frames[0].crowd is not None
    assert truth.frames[0].crowd.tolist() == [False, True, True]
    assert truth.classes == ("red", "hot")


def test_names_have_aliases() -> None:
    names = ClassNames(("person", "bicycle", "car"))
    assert [names(n) for n in ("Pedestrian", "bike", "CAR ", "lorry")] == [0, 1, 2, None]
    assert dict(names.unknown) == {"lorry": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": [], "annotations": []}, "lists no images"),
        ({"images": [{"id": [7]}]}, "not COCO annotations"),
        ({"categories": None}, "not COCO annotations"),
        ({"images": None}, "not COCO annotations"),
        ({"images": [3]}, "not COCO annotations"),
        ({"annotations": [3]}, "annotation 0 is 3, not an object"),
        ({"annotations": [{"id": 3}]}, "annotation 3 has image_id None"),
        (
            {"annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1], "iscrowd": "maybe"}]},
            "iscrowd 'maybe'",
        ),
        ({"annotations": [{"id": 5, "image_id": 4, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "5 has image_id 4"),
        ({"annotations": [{"id": 5, "image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]}]}, "5 has category_id 3"),
        ({"annotations": [{"id": 5, "image_id": 1, "category_id": 2, "bbox": [0, 0, 1]}]}, "5 has no bbox"),
        ({"annotations": [{"id": 5, "image_id": 1, "category_id": 2, "bbox": [0, 0, float("nan"), 3]}]}, "not finite"),
        ({"images": [{"id": 1, "stamp_ns": 7}, {"id": 2, "stamp_ns": 7}]}, "two entries have the stamp"),
        ({"images": [{"id": 1, "stamp_ns": 7, "sem_seg_file_name": "../m.png"}]}, "outside the file's folder"),
        ({"images": [{"id": 1, "stamp_ns": 7, "sem_seg_file_name": "m.png"}]}, "m.png does not exist: image 1"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(GroundTruthError, match=said):
        read_coco(coco(tmp_path, **changes), INFO)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "[" * 100_000])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(GroundTruthError, match="truth.json"):
        read_coco(path, INFO)
    with pytest.raises(GroundTruthError, match="does not exist: --labels"):
        read_coco(tmp_path / "missing.json", INFO)


def test_masks_beside_a_coco_file_have_the_models_values(tmp_path: Path) -> None:
    stored = np.array([[0, 1, 2, 255]] * 3, np.uint8)
    cv2.imwrite(str(tmp_path / "m.png"), stored)
    images = [{"id": 1, "stamp_ns": 7, "sem_seg_file_name": "m.png"}]
    path = coco(tmp_path, images=images, mask_classes=["hot", "tree", "background"])
    truth = read_coco(path, INFO)
    assert truth.frames[0].mask is not None
    assert truth.frames[0].mask().tolist() == [[2, 255, 0, 255]] * 3
    assert truth.mask_classes == ("background", "hot")
    assert dict(truth.unknown) == {"tree": 1}
    path = coco(tmp_path, images=[{**images[0], "width": 5, "height": 3}], annotations=[])
    reader = read_coco(path, INFO).frames[0].mask
    assert reader is not None
    with pytest.raises(GroundTruthError, match="4x3 pixels, but truth.json says 5x3"):
        reader()


def test_the_nearest_stamp_is_found_with_its_distance() -> None:
    truth = GroundTruth([TrueFrame(s) for s in (3_000, 1_000, 2_000)], "test")
    gaps = [truth.gap_ns(stamp) for stamp in (1_100, 1_101, 1_999, 2_600, 0)]
    assert gaps == [(100, 0), (101, 0), (1, 1), (400, 2), (1_000, 0)]
    assert truth.between(1_000, 2_050, 10) == range(2)
    assert list(truth.between(1_011, 1_989, 10)) == []


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Recording(3).write(tmp_path_factory.mktemp("bag") / "drive", truth_topic="/gt/boxes", mask_topic="/gt/mask")


def test_topics_give_the_same_labels_as_a_file(bag: Path, tmp_path: Path) -> None:
    from_topics = read_topics(bag, INFO, "/gt/boxes", "/gt/mask")
    from_file = read_coco(Recording(3).labels(tmp_path / "l.json"), INFO)
    assert [f.stamp_ns for f in from_topics.frames] == [f.stamp_ns for f in from_file.frames]
    for a, b in zip(from_topics.frames, from_file.frames, strict=True):
        assert a.boxes is not None
        assert b.boxes is not None
        np.testing.assert_allclose(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert a.mask is not None
        assert set(np.unique(a.mask())) == {0, 1, 2}
    assert from_topics.frames[0].stamp_ns == START_NS
    assert from_topics.mask_classes == INFO.mask_classes


def test_mask_values_may_be_named(bag: Path) -> None:
    truth = read_topics(bag, INFO, mask_topic="/gt/mask", mask_classes=("background", "hot", "sky"))
    assert truth.frames[0].mask is not None
    assert set(np.unique(truth.frames[0].mask())) == {0, 2, 255}
    assert dict(truth.unknown) == {"sky": 1}
    assert all(frame.boxes is None for frame in truth.frames)
    with pytest.raises(GroundTruthError, match="has the value 2, but only 2 classes are named"):
        read_topics(bag, INFO, mask_topic="/gt/mask", mask_classes=("background", "hot"))


@pytest.mark.parametrize(
    ("topic", "said"),
    [("/gt/none", "no topic /gt/none.*: /gt/boxes"), ("/gt/mask", "is of type sensor_msgs/msg/Image, it must be")],
)
def test_a_wrong_topic_is_refused_with_what_there_is(bag: Path, topic: str, said: str) -> None:
    with pytest.raises(GroundTruthError, match=said):
        read_topics(bag, INFO, topic)
