"""Box arithmetic compared with overlaps computed by hand and a naive suppression."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spectradino_core.runtime.boxes import iou_matrix, select_detections
from tests.examples import examples


def naive_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / both if both > 0 else 0.0


def naive_selection(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, nms_iou: float, most: int
) -> list[tuple[int, int]]:
    """Return (row, class) of the kept boxes: highest score first, each compared with all kept boxes of its class."""
    entries = [
        (float(scores[row, label]), row, label)
        for row in range(scores.shape[0])
        for label in range(scores.shape[1])
        if scores[row, label] >= np.float32(threshold)  # as an array of float32 compares, in NumPy 1 too
    ]
    entries.sort(key=lambda entry: -entry[0])
    kept: list[tuple[int, int]] = []
    for _, row, label in entries:
        rivals = [r for r, other in kept if other == label]
        if len(kept) < most and all(np.float32(naive_iou(boxes[row], boxes[r])) <= np.float32(nms_iou) for r in rivals):
            kept.append((row, label))
    return kept


def test_overlaps_by_hand():
    a = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [2, 2, 4, 4]], np.float32)
    got = iou_matrix(a, b)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [[1, 50 / 150, 0, 4 / 100], [0, 0, 0, 0]], rtol=1e-6)


def test_empty_and_degenerate_boxes_overlap_nothing():
    flat = np.array([[3, 3, 3, 9], [5, 5, 2, 2]], np.float32)
    assert (iou_matrix(flat, flat) == 0).all()
    assert iou_matrix(flat, np.zeros((0, 4), np.float32)).shape == (2, 0)


boxes_and_scores = st.tuples(st.integers(0, 30), st.integers(1, 3), st.integers(0, 2**32 - 1))


@example(shape=(23, 1, 23), threshold=0.0, nms_iou=0.3, most=5)  # an overlap of exactly 0.3
@settings(max_examples=examples(200), deadline=None)
@given(boxes_and_scores, st.floats(0, 1), st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]), st.integers(1, 12))
def test_selection_equals_the_naive_one(shape, threshold, nms_iou, most):
    count, classes, seed = shape
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 20, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 15, (count, 2))], axis=1).astype(np.float32)
    scores = (rng.integers(0, 20, (count, classes)) / 20).astype(np.float32)  # with ties
    got_boxes, got_scores, got_labels = select_detections(boxes, scores, threshold, nms_iou, most)
    wanted = naive_selection(boxes, scores, threshold, nms_iou, most)
    assert got_labels.tolist() == [label for _, label in wanted]
    np.testing.assert_array_equal(got_boxes, boxes[[row for row, _ in wanted]].reshape(-1, 4))
    np.testing.assert_array_equal(got_scores, [scores[row, label] for row, label in wanted])
    assert (got_boxes.dtype, got_scores.dtype, got_labels.dtype) == (np.float32, np.float32, np.int64)


def test_classes_do_not_suppress_each_other():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    _, _, labels = select_detections(boxes, np.array([[0.9, 0], [0, 0.8]], np.float32), 0.5, 0.5, 10)
    assert labels.tolist() == [0, 1]


def test_a_suppressed_box_suppresses_no_other():
    """B overlaps A and C, A and C do not overlap: A suppresses B, and C is kept."""
    boxes = np.array([[0, 0, 10, 10], [6, 0, 16, 10], [12, 0, 22, 10]], np.float32)
    _, scores, _ = select_detections(boxes, np.array([[0.9], [0.8], [0.7]], np.float32), 0.1, 0.2, 10)
    assert scores.tolist() == pytest.approx([0.9, 0.7])


@pytest.mark.parametrize("most", [0, 1, 3])
def test_not_more_than_requested(most):
    boxes = np.array([[i * 20, 0, i * 20 + 10, 10] for i in range(6)], np.float32)
    kept, _, _ = select_detections(boxes, np.linspace(0.9, 0.4, 6, dtype=np.float32)[:, None], 0.1, 0.5, most)
    assert len(kept) == most


def test_nan_scores_are_dropped():
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    _, scores, _ = select_detections(boxes, np.array([[np.nan], [0.6]], np.float32), 0.5, 0.5, 10)
    assert scores.tolist() == pytest.approx([0.6])


def test_only_the_best_candidates_are_looked_at():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 1000, (5000, 2))
    boxes = np.concatenate([low, low + 3], axis=1).astype(np.float32)
    scores = rng.uniform(0.5, 1, (5000, 1)).astype(np.float32)
    _, kept, _ = select_detections(boxes, scores, 0.1, 0.5, 1000, candidates=50)
    assert 40 <= len(kept) <= 50
    assert kept.min() >= np.sort(scores.ravel())[-50]


def test_a_crowd_of_another_class_displaces_nothing_above_its_own_threshold():
    """Entries of a class that hardly reach its threshold come after those well above theirs, whatever their scores."""
    low = np.stack([np.arange(500) * 20.0, np.zeros(500)], axis=1)
    boxes = np.concatenate([low, low + 10], axis=1).astype(np.float32)
    scores = np.zeros((500, 2), np.float32)
    scores[:450, 0], scores[450:460, 1] = 0.6, 0.35
    _, kept, labels = select_detections(boxes, scores, np.array([0.45, 0.15], np.float32), 0.5, 400)
    assert np.bincount(labels).tolist() == [390, 10]
    assert (np.diff(kept) <= 0).all()


@given(boxes_and_scores, st.floats(0, 1))
def test_one_threshold_per_class_selects_as_one_for_all_where_they_are_equal(shape, threshold):
    count, classes, seed = shape
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 40, (count, 4)).astype(np.float32)
    scores = rng.uniform(0, 1, (count, classes)).astype(np.float32)
    one = select_detections(boxes, scores, threshold, 0.5, 100)
    each = select_detections(boxes, scores, np.full(classes, threshold, np.float32), 0.5, 100)
    for a, b in zip(one, each, strict=True):
        assert a.tobytes() == b.tobytes()


def test_each_class_has_its_own_threshold_and_an_infinite_one_leaves_it_out():
    boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], np.float32)
    scores = np.array([[0.6, 0.0, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 0.99]], np.float32)
    _, _, labels = select_detections(boxes, scores, np.array([0.7, 0.5, np.inf], np.float32), 0.5, 100)
    assert labels.tolist() == [1]
