"""COCO scores compared with pycocotools on fixed and generated predictions, and with cases computed by hand."""

from __future__ import annotations

import contextlib
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spectradino_core.evaluation.detection import RECALLS, DetectionScores, detection_scores, match_image
from tests.examples import examples

CLASSES = ("person", "bicycle", "car")
TOLERANCE = 1e-6


def coco_scores(predictions, truths) -> DetectionScores:
    pairs = zip(predictions, truths, strict=True)
    return detection_scores([match_image(found, true, len(CLASSES)) for found, true in pairs], CLASSES)


def reference(predictions, truths) -> tuple[list[float], np.ndarray]:
    """Return pycocotools' mAP, mAP50, mAP75, and its precision [10, 101, classes] at 100 detections of all areas."""
    annotations, results = [], []
    for image, (boxes, labels, *crowd) in enumerate(truths, start=1):
        flags = crowd[0] if crowd else np.zeros(len(labels), bool)
        for (x1, y1, x2, y2), label, flag in zip(np.asarray(boxes, float).tolist(), labels, flags):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(label) + 1,
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": int(flag)}
            )  # fmt: skip
    for image, (boxes, scores, labels) in enumerate(predictions, start=1):
        for (x1, y1, x2, y2), score, label in zip(np.asarray(boxes, float).tolist(), scores, labels):
            results.append({"image_id": image, "category_id": int(label) + 1, "score": float(score),
                            "bbox": [x1, y1, x2 - x1, y2 - y1]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i + 1, "width": 640, "height": 512} for i in range(len(truths))],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        }
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        else:  # loadRes can't take none
            found = COCO()
            found.dataset = truth.dataset | {"annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats[:3]), evaluation.eval["precision"][:, :, :, 0, 2]


def assert_equal(predictions, truths) -> None:
    ours = coco_scores(predictions, truths)
    stats, precision = reference(predictions, truths)
    for mine, theirs in zip((ours.map, ours.map50, ours.map75), stats):
        assert (math.isnan(mine) and theirs == -1) or mine == pytest.approx(theirs, abs=TOLERANCE)
    for label, name in enumerate(CLASSES):
        theirs = precision[:, :, label]
        if (theirs < 0).all():
            assert math.isnan(ours.ap[name])
            assert np.isnan(ours.precision[name]).all()
            continue
        assert ours.ap[name] == pytest.approx(theirs.mean(), abs=TOLERANCE)
        assert ours.ap50[name] == pytest.approx(theirs[0].mean(), abs=TOLERANCE)
        assert ours.ap75[name] == pytest.approx(theirs[5].mean(), abs=TOLERANCE)
        np.testing.assert_allclose(ours.precision[name], theirs[0], atol=TOLERANCE)


def noisy_set(seed: int, images: int = 14, crowds: bool = False):
    """Ground truth and predictions with duplicates, equal scores, misses and false positives."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for _ in range(images):
        n = int(rng.integers(0, 9))
        corner = rng.uniform(0, 400, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 120, (n, 2))], 1)
        labels = rng.integers(0, 3, n)
        copies = np.repeat(np.arange(n), rng.integers(0, 4, n))
        found = boxes[copies] + rng.normal(0, 5, (len(copies), 4))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        phantoms = rng.uniform(0, 300, (3, 2))
        found = np.concatenate([found, np.concatenate([phantoms, phantoms + 40], 1)])
        given_labels = np.concatenate([labels[copies], rng.integers(0, 3, 3)])
        scores = np.round(rng.uniform(0, 1, len(found)), 1 if seed % 2 else 6)
        truths.append((boxes, labels, rng.random(n) < 0.3) if crowds else (boxes, labels))
        predictions.append((found, scores, given_labels))
    return predictions, truths


@pytest.mark.parametrize("crowds", [False, True], ids=["boxes", "some to be ignored"])
@pytest.mark.parametrize("seed", range(10))
def test_equals_pycocotools(seed: int, crowds: bool) -> None:
    predictions, truths = noisy_set(seed, crowds=crowds)
    assert 0.02 < coco_scores(predictions, truths).map < 0.98  # neither trivial nor hopeless
    assert_equal(predictions, truths)


COORDINATE = st.integers(0, 60).map(float)


@st.composite
def boxes_of(draw, scored: bool):
    rows = draw(st.lists(st.tuples(COORDINATE, COORDINATE, st.integers(1, 30), st.integers(1, 30)), max_size=6))
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in rows], float).reshape(-1, 4)
    n = len(boxes)
    labels = np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), int)
    if scored:  # few values: ties are where implementations differ
        scores = np.array(draw(st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.9]), min_size=n, max_size=n)), float)
        return boxes, scores, labels
    return boxes, labels, np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(boxes_of(True), boxes_of(False)), min_size=1, max_size=5), st.booleans())
def test_equals_pycocotools_on_random_predictions(images, found_is_truth: bool) -> None:
    truths = [truth for _, truth in images]
    if found_is_truth:  # overlaps of exactly 1 and of near 1, which random boxes hardly ever have
        predictions = [(t[0] + 0.5 * (i % 2), np.full(len(t[0]), 0.5), t[1]) for i, t in enumerate(truths)]
    else:
        predictions = [found for found, _ in images]
    assert_equal(predictions, truths)


def test_more_than_a_hundred_detections() -> None:
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 500, (160, 2))
    boxes = np.concatenate([corner, corner + 20], 1)
    predictions = [(boxes, rng.uniform(0, 1, 160), np.zeros(160, int))]
    truths = [(boxes, np.zeros(160, int))]
    assert_equal(predictions, truths)
    assert coco_scores(predictions, truths).map50 < 0.7


def test_by_hand() -> None:
    truth = (np.array([[0, 0, 10, 10], [100, 0, 110, 10.0]]), np.array([0, 0]))
    # the second is false; the third overlaps by 0.6, which counts at IoU 0.5, 0.55 and 0.6 (three of ten)
    found = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [100, 0, 106, 10.0]])
    scores = coco_scores([(found, np.array([0.9, 0.8, 0.7]), np.zeros(3, int))], [truth])
    both, one = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert scores.map50 == scores.ap50["person"] == pytest.approx(both)
    assert scores.map75 == pytest.approx(one)
    assert scores.map == pytest.approx((3 * both + 7 * one) / 10)
    assert scores.instances == {"person": 2, "bicycle": 0, "car": 0}
    assert scores.precision["person"][RECALLS <= 0.5] == pytest.approx(1.0)
    assert scores.precision["person"][RECALLS > 0.5] == pytest.approx(2 / 3)


def test_a_second_box_on_the_same_object_is_false() -> None:
    truth = (np.array([[0, 0, 10, 10.0]]), np.array([2]))
    twice = (np.array([[0, 0, 10, 10], [0, 0, 10, 10.0]]), np.array([0.5, 0.9]), np.array([2, 2]))
    assert coco_scores([twice], [truth]).map == 1.0
    assert match_image(twice, truth, 3).outcomes[0].tolist() == [0, 1]  # in the order given
    first_wrong = (np.array([[30, 30, 40, 40], [0, 0, 10, 10.0]]), np.array([0.9, 0.5]), np.array([2, 2]))
    assert coco_scores([first_wrong], [truth]).map50 == pytest.approx(0.5)


def test_matches_of_one_image() -> None:
    true = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 80, 40]], float)
    boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [50, 5, 60, 15], [20, 0, 30, 10]], float)
    regions = np.array([False, False, True])
    found = (boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 1]))
    matches = match_image(found, (true, np.array([0, 0, 1]), regions), 2)
    # right at IoU 0.9 at most; found already, but right at IoU 0.95; inside the region; of another class
    assert matches.outcomes[[0, -1]].tolist() == [[1, 0, -1, 0], [0, 1, -1, 0]]
    assert matches.taken.tolist() == [0, -1, -1, -1]
    assert matches.true_classes.tolist() == [0, -1, -2, 0]
    assert matches.found(np.ones(4, bool)).tolist() == [True, False, True]
    assert matches.found(np.zeros(4, bool)).tolist() == [False, False, True]


def test_ignored_boxes_are_not_counted() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 50, 90, 90.0]])
    found = (
        np.array([[0, 0, 10, 10], [55, 55, 60, 60], [70, 70, 80, 80.0]]),
        np.array([0.5, 0.9, 0.8]),
        np.zeros(3, int),
    )
    counted = coco_scores([found], [(boxes, np.zeros(2, int))])
    ignored = coco_scores([found], [(boxes, np.zeros(2, int), np.array([False, True]))])
    assert counted.map50 < 0.5
    assert ignored.map50 == pytest.approx(1.0)
    assert ignored.instances["person"] == 1


def test_nothing_found_is_0_and_nothing_to_find_is_unknown() -> None:
    none = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    scores = coco_scores([none], [(np.array([[0, 0, 5, 5.0]]), np.array([1]))])
    assert scores.ap["bicycle"] == scores.map == 0
    assert math.isnan(scores.ap["person"])
    assert math.isnan(coco_scores([none], [none[::2]]).map)
    assert math.isnan(coco_scores([], []).map)
    row = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert row["ap"] == {"person": None, "bicycle": 0.0, "car": None}


def test_the_order_of_images_and_repetition_change_nothing() -> None:
    predictions, truths = noisy_set(0)  # no ties in score: with ties the order decides
    first, again = (coco_scores(predictions, truths) for _ in range(2))
    back = coco_scores(predictions[::-1], truths[::-1])
    assert first.to_dict() == again.to_dict() == back.to_dict()


def test_what_does_not_fit_is_named() -> None:
    box = np.array([[0, 0, 5, 5.0]])
    fine, true = (box, np.ones(1), np.zeros(1, int)), (box, np.zeros(1, int))
    for found, truth, message in (
        ((box, np.ones(2), np.zeros(1, int)), true, "prediction a.png: boxes must be"),
        (fine[:2], true, r"prediction a.png: give \(boxes, scores, labels\), not 2"),
        (fine, (box, np.array([3])), "truth a.png: a label lies outside 0..2"),
        ((box, np.array([np.nan]), np.zeros(1, int)), true, "prediction a.png: a number is not finite"),
        (fine, (*true, np.zeros(2, bool)), "truth a.png: .*at most one bool array"),
    ):
        with pytest.raises(ValueError, match=message):
            match_image(found, truth, 3, "a.png")
    with pytest.raises(ValueError, match="must be unique"):
        detection_scores([], ("car", "car"))
