"""Average precision against pycocotools and against cases worked out by hand."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest

from spectradino_core.evaluation.detection import average_precision, mean_average_precision

CLASSES = ("person", "bicycle", "car")


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def coco_ap50(predictions, truths, iou: float) -> dict[str, float]:
    coco_module = pytest.importorskip("pycocotools.coco", reason="pycocotools comes with the dev extra")
    from pycocotools.cocoeval import COCOeval

    def xywh(box: np.ndarray) -> list[float]:
        x1, y1, x2, y2 = (float(v) for v in box)
        return [x1, y1, x2 - x1, y2 - y1]

    annotations, results = [], []
    for image, (true_boxes, labels) in enumerate(truths, start=1):
        for box, label in zip(true_boxes, labels):
            x = xywh(box)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(label) + 1, "bbox": x,
                 "area": x[2] * x[3], "iscrowd": 0}
            )  # fmt: skip
    for image, (found, scores, labels) in enumerate(predictions, start=1):
        for box, score, label in zip(found, scores, labels):
            results.append({"image_id": image, "category_id": int(label) + 1, "bbox": xywh(box), "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_module.COCO()
        truth.dataset = {
            "images": [{"id": i + 1, "width": 640, "height": 512} for i in range(len(truths))],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, 2]  # [recall, class], all areas, 100 detections
    values = [precision[:, i][precision[:, i] > -1] for i in range(len(CLASSES))]
    return {name: float(v.mean()) if len(v) else math.nan for name, v in zip(CLASSES, values)}


def random_set(seed: int, images: int = 12):
    """Truth and predictions with duplicates, ties in score, misses, phantoms; in some seeds a class has no truth."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    classes = 3 if seed % 3 else 2
    for _ in range(images):
        n = int(rng.integers(0, 9))
        corner = rng.uniform(0, 400, (n, 2))
        true_boxes = np.concatenate([corner, corner + rng.uniform(10, 120, (n, 2))], 1)
        labels = rng.integers(0, classes, n)
        copies = np.repeat(np.arange(n), rng.integers(0, 4, n))
        found = true_boxes[copies] + rng.normal(0, 5, (len(copies), 4))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        phantoms = rng.uniform(0, 300, (3, 2))
        found = np.concatenate([found, np.concatenate([phantoms, phantoms + 40], 1)])
        given = np.concatenate([labels[copies], rng.integers(0, 3, 3)])
        scores = np.round(rng.uniform(0, 1, len(found)), 1 if seed % 2 else 6)
        truths.append((true_boxes, labels))
        predictions.append((found, scores, given))
    return predictions, truths


@pytest.mark.parametrize("iou", [0.5, 0.75])
@pytest.mark.parametrize("seed", range(10))
def test_equals_pycocotools(seed: int, iou: float) -> None:
    predictions, truths = random_set(seed)
    ours = average_precision(predictions, truths, CLASSES, iou)
    theirs = coco_ap50(predictions, truths, iou)
    assert any(0.05 < v < 0.95 for v in ours.values())  # the sets are neither trivial nor hopeless
    for name in CLASSES:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6, nan_ok=True)


def test_equals_pycocotools_beyond_a_hundred_detections() -> None:
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 500, (160, 2))
    found = np.concatenate([corner, corner + 20], 1)
    predictions = [(found, rng.uniform(0, 1, 160), np.zeros(160, int))]
    truths = [(found, np.zeros(160, int))]
    ours = average_precision(predictions, truths, CLASSES)["person"]
    assert ours == pytest.approx(coco_ap50(predictions, truths, 0.5)["person"], abs=1e-6)
    assert ours < 0.7


def test_by_hand() -> None:
    truth = (boxes((0, 0, 10, 10), (100, 0, 110, 10)), np.array([0, 0]))
    found = boxes((0, 0, 10, 10), (50, 50, 60, 60), (100, 0, 110, 10))
    ap = average_precision([(found, np.array([0.9, 0.8, 0.7]), np.zeros(3, int))], [truth], CLASSES)
    # precision 1 up to recall 0.5 (51 of the 101 recalls), then 2/3
    assert ap["person"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert math.isnan(ap["car"])
    assert mean_average_precision(ap) == ap["person"]


def test_a_second_box_on_the_same_object_is_false() -> None:
    truth = (boxes((0, 0, 10, 10)), np.array([2]))
    twice = (boxes((0, 0, 10, 10), (0, 0, 10, 10)), np.array([0.5, 0.9]), np.array([2, 2]))
    assert average_precision([twice], [truth], CLASSES)["car"] == 1.0
    first_wrong = (boxes((30, 30, 40, 40), (0, 0, 10, 10)), np.array([0.9, 0.5]), np.array([2, 2]))
    assert average_precision([first_wrong], [truth], CLASSES)["car"] == pytest.approx(0.5)


def test_nothing_found_is_zero_and_nothing_to_find_is_nan() -> None:
    none = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    ap = average_precision([none], [(boxes((0, 0, 5, 5)), np.array([1]))], CLASSES)
    assert ap["bicycle"] == 0.0
    assert math.isnan(ap["person"])
    assert math.isnan(mean_average_precision(average_precision([], [], CLASSES)))


def test_what_does_not_fit_is_named() -> None:
    fine = (boxes((0, 0, 5, 5)), np.array([0]))
    with pytest.raises(ValueError, match="1 images were predicted, 0 have truth"):
        average_precision([(*fine[:1], np.ones(1), fine[1])], [], CLASSES)
    with pytest.raises(ValueError, match="prediction 0"):
        average_precision([(fine[0], np.ones(2), fine[1])], [fine], CLASSES)
    with pytest.raises(ValueError, match="truth 0: a label lies outside"):
        average_precision([(fine[0], np.ones(1), fine[1])], [(fine[0], np.array([3]))], CLASSES)
    with pytest.raises(ValueError, match="iou"):
        average_precision([], [], CLASSES, iou=0.0)
