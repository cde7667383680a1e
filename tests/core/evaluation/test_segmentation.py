"""Mask scores compared with a count pixel by pixel."""

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
    scores = matrix.scores()
    assert scores.iou == pytest.approx(expected, abs=1e-12, nan_ok=True)
    known = [v for v in expected.values() if not math.isnan(v)]
    assert scores.miou == pytest.approx(sum(known) / len(known))
    right = sum(int(((p == t) & (t != UNLABELLED)).sum()) for p, t in pairs)
    assert scores.pixel_accuracy == pytest.approx(right / sum(int((t != UNLABELLED).sum()) for _, t in pairs))


def naive_accuracy(pairs: list[tuple[np.ndarray, np.ndarray]], label: int) -> float:
    right = there = 0
    for predicted, truth in pairs:
        for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist()):
            there += t == label
            right += t == label and p == label
    return right / there if there else math.nan


@pytest.mark.parametrize("excluded", [(), ("sky",), ("road", "car")])
@pytest.mark.parametrize("seed", range(3))
def test_means_by_a_benchmarks_rule_equal_a_naive_count(seed: int, excluded: tuple[str, ...]) -> None:
    rng = np.random.default_rng(seed)
    values = np.array([*range(3 if seed else 2), UNLABELLED], np.uint8)  # in seed 0 no car is true
    pairs = [(rng.integers(0, 3, (9, 11)).astype(np.uint8), rng.choice(values, (9, 11))) for _ in range(3)]
    matrix = ConfusionMatrix(CLASSES)
    for predicted, truth in pairs:
        matrix.add(predicted, truth)
    scores = matrix.scores(excluded)
    assert scores.excluded == excluded
    for mean, by_class, naive in (
        (scores.miou, scores.iou, naive_iou),
        (scores.macc, scores.accuracy, naive_accuracy),
    ):
        expected = {name: naive(pairs, label) for label, name in enumerate(CLASSES)}
        assert by_class == pytest.approx(expected, abs=1e-12, nan_ok=True)
        counted = [v for name, v in expected.items() if name not in excluded and not math.isnan(v)]
        assert mean == pytest.approx(sum(counted) / len(counted) if counted else math.nan, nan_ok=True)


def test_mfnet_counts_unlabelled_and_void_counts_nowhere() -> None:
    """Both rules by hand: a class "unlabelled" is scored like any other, pixels of 255 are not counted."""
    matrix = ConfusionMatrix(("unlabelled", "car"))
    truth = np.array([[0, 0, 0, 0, 1, 1, UNLABELLED, UNLABELLED]], np.uint8)
    matrix.add(np.array([[0, 0, 0, 1, 1, 0, 0, 1]], np.uint8), truth)
    assert matrix.scores().iou == pytest.approx({"unlabelled": 3 / 5, "car": 1 / 3})
    assert matrix.scores().miou == pytest.approx((3 / 5 + 1 / 3) / 2)
    assert matrix.scores().macc == pytest.approx((3 / 4 + 1 / 2) / 2)
    # excluded from the mean, its pixels still lower the car's
    assert matrix.scores(["unlabelled"]).miou == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="sea can't be excluded.*unlabelled, car"):
        matrix.scores(["sea"])


def test_by_hand() -> None:
    matrix = ConfusionMatrix(("a", "b", "c", "d"))
    matrix.add(np.array([0, 1, 1, 1, 2]), np.array([0, 0, 1, 1, UNLABELLED]))  # what is not labelled does not count
    assert matrix.scores().miou == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_nothing_counted_is_nan() -> None:
    matrix = ConfusionMatrix(CLASSES)
    matrix.add(np.zeros((2, 2), np.uint8), np.full((2, 2), UNLABELLED, np.uint8))
    scores = matrix.scores()
    assert all(map(math.isnan, (scores.miou, scores.macc, scores.pixel_accuracy)))


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
