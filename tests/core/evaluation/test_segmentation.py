"""Mask scores against a count made pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spectradino_core.evaluation.segmentation import UNLABELLED, ConfusionMatrix

CLASSES = ("road", "sky", "car")


def naive_iou(pairs: list[tuple[np.ndarray, np.ndarray]], label: int) -> float:
    both = either = 0
    for predicted, truth in pairs:
        for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist()):
            if t == UNLABELLED:
                continue
            both += p == label and t == label
            either += p == label or t == label
    return both / either if either else math.nan


@pytest.mark.parametrize("seed", range(6))
def test_equals_a_naive_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = 3 if seed % 2 else 2  # in even seeds the last class is nowhere
    values = np.array([*range(classes), UNLABELLED], np.uint8)
    pairs = [(rng.choice(values, (9, 11)), rng.choice(values, (9, 11))) for _ in range(3)]
    matrix = ConfusionMatrix(CLASSES)
    for predicted, truth in pairs:
        matrix.add(predicted, truth)
    expected = {name: naive_iou(pairs, i) for i, name in enumerate(CLASSES)}
    assert matrix.iou() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    known = [v for v in expected.values() if not math.isnan(v)]
    assert matrix.mean_iou() == pytest.approx(sum(known) / len(known))
    right = sum(int(((p == t) & (t != UNLABELLED)).sum()) for p, t in pairs)
    assert matrix.accuracy() == pytest.approx(right / sum(int((t != UNLABELLED).sum()) for _, t in pairs))


def test_nothing_counted_is_nan() -> None:
    matrix = ConfusionMatrix(CLASSES)
    matrix.add(np.zeros((2, 2), np.uint8), np.full((2, 2), UNLABELLED, np.uint8))
    assert math.isnan(matrix.mean_iou())
    assert math.isnan(matrix.accuracy())


def test_what_does_not_fit_is_named() -> None:
    matrix = ConfusionMatrix(CLASSES)
    with pytest.raises(ValueError, match="differ in shape"):
        matrix.add(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="predicted mask holds 7"):
        matrix.add(np.full((2, 2), 7, np.uint8), np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="true mask holds 3"):
        matrix.add(np.zeros((2, 2), np.uint8), np.full((2, 2), 3, np.uint8))
    with pytest.raises(ValueError, match="classes"):
        ConfusionMatrix(())
    assert matrix.counts.sum() == 0
