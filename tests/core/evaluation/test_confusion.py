"""Confusion of boxes by true and detected class, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.evaluation.detection import DetectionConfusion, match_image


def test_confusions_by_hand():
    true = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10.0]])
    found = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [80, 0, 90, 10.0]])
    image = match_image((found, np.array([0.9, 0.8, 0.7]), np.array([0, 0, 1])), (true, np.array([0, 1, 1])), 2)
    confusion = DetectionConfusion([image], ("a", "b"), 0.7)
    # the first is right, the second takes b for a, the third is nothing; the last true box is missed
    assert confusion.counts.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert confusion.precision() == {"a": 0.5, "b": 0.0}
    assert confusion.recall() == {"a": 1.0, "b": 0.0}
    assert confusion.f1() == pytest.approx({"a": 2 / 3, "b": 0.0})
    assert DetectionConfusion([image], ("a", "b"), 0.85).counts.tolist() == [[1, 0, 0], [0, 0, 2], [0, 0, 0]]
    assert DetectionConfusion([], ("a",), 0.5).counts.tolist() == [[0, 0], [0, 0]]


def test_detections_in_ignored_regions_are_not_counted():
    true = (np.array([[0, 0, 40, 40], [60, 0, 70, 10.0]]), np.array([0, 1]), np.array([True, False]))
    found = (np.array([[5, 5, 15, 15], [60, 0, 70, 10], [30, 0, 60, 10.0]]), np.ones(3), np.array([1, 1, 1]))
    image = match_image(found, true, 2)
    # a region of any class; of the third detection a third lies inside
    assert DetectionConfusion([image], ("a", "b"), 0.5).counts.tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 0]]
