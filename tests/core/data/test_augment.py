"""Paired augmentation keeps both bands, boxes and mask on each other."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spectradino_core.data.augment import Augmentation, augment, flip, jitter_infrared, jitter_rgb, zoom
from spectradino_core.data.sample import PairedSample

WIDTH, HEIGHT = 120, 90


def marked(dtype=np.uint16) -> PairedSample:
    """A bright rectangle at the same place in both bands, boxed and masked."""
    rgb = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    infrared = np.full((HEIGHT, WIDTH), 100, dtype)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for image, value in ((rgb, 240), (infrared, 200), (mask, 6)):
        image[30:60, 40:70] = value
    boxes = np.array([[40, 30, 70, 60]], np.float32)
    return PairedSample(rgb, infrared, boxes, np.array([2]), mask, "marked")


def extent(image: np.ndarray, value: float) -> np.ndarray:
    ys, xs = np.nonzero(image >= value)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)


def test_flip_twice_is_nothing():
    sample = marked()
    twice = flip(flip(sample))
    np.testing.assert_array_equal(twice.rgb, sample.rgb)
    np.testing.assert_array_equal(twice.boxes, sample.boxes)


def test_flip_moves_boxes_with_the_picture():
    sample = flip(marked())
    np.testing.assert_allclose(sample.boxes[0], extent(sample.rgb[..., 0], 200))


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.0, 1.25])
def test_zoom_moves_bands_boxes_and_mask_alike(factor):
    for seed in range(12):
        sample = zoom(marked(), factor, np.random.default_rng(seed), least_visible=0.0)
        for seen in (extent(sample.rgb[..., 0], 140), extent(sample.infrared, 150), extent(sample.mask % 255, 6)):
            np.testing.assert_allclose(sample.boxes[0], seen, atol=1.01)


def test_zoom_1_is_the_identity():
    sample = zoom(marked(), 1.0, np.random.default_rng(0), 0.3)
    np.testing.assert_array_equal(sample.rgb, marked().rgb)
    np.testing.assert_array_equal(sample.boxes, marked().boxes)


def test_areas_from_outside_are_unlabelled():
    sample = zoom(marked(), 0.5, np.random.default_rng(0), 0.3)
    assert (sample.mask == 255).mean() == pytest.approx(0.75, abs=0.03)
    assert (sample.rgb == 0).all(axis=2).mean() == pytest.approx(0.75, abs=0.05)


def test_a_box_that_is_mostly_cut_off_goes():
    sample = marked()
    sample.boxes = np.array([[0, 0, 10, 10], [55, 40, 65, 50]], np.float32)
    sample.labels = np.array([0, 1])
    kept = set()
    for seed in range(40):
        cropped = zoom(sample, 3.0, np.random.default_rng(seed), least_visible=0.9)
        assert len(cropped.boxes) == len(cropped.labels)
        kept |= set(cropped.labels.tolist())
        if len(cropped.boxes):
            assert np.prod(cropped.boxes[:, 2:] - cropped.boxes[:, :2], axis=1).min() > 0.9 * 900 * 0.99
    assert 1 in kept


def test_noise_reaches_all_channels():
    options = Augmentation(brightness=0, contrast=0, gamma=0, blur=0, noise=30.0)
    rng = np.random.default_rng(3)
    image = np.full((64, 64, 3), 128, np.uint8)
    deviations = np.stack([jitter_rgb(image, options, rng).reshape(-1, 3).std(axis=0) for _ in range(8)])
    assert (deviations.max(axis=0) > 3).all()
    assert deviations.max(axis=0).max() < 2 * deviations.max(axis=0).min()


def test_infrared_keeps_a_type_the_contract_knows():
    ramp = np.linspace(28000, 31000, 64 * 64).reshape(64, 64).astype(np.uint16)
    seen = {jitter_infrared(ramp, Augmentation(), np.random.default_rng(s)).dtype.name for s in range(20)}
    assert seen == {"uint8", "uint16"}


def test_same_generator_same_result_and_input_untouched():
    sample = marked()
    before = sample.rgb.copy()
    a = augment(sample, Augmentation(), np.random.default_rng(7))
    cv2.setRNGSeed(99)  # OpenCV's global generator must not matter
    b = augment(sample, Augmentation(), np.random.default_rng(7))
    np.testing.assert_array_equal(a.rgb, b.rgb)
    np.testing.assert_array_equal(a.infrared, b.infrared)
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(sample.rgb, before)
