"""Augmentation of the training images of the placeholder for DINOv2."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pretrain.disguise import disguised, toned


@pytest.fixture
def image() -> np.ndarray:
    """All tones in each channel, in different places."""
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    return np.dstack([ramp, ramp[:, ::-1], np.roll(ramp, 90, axis=1)])


def test_tones_are_drawn_anew_and_something_is_left_to_see(image):
    spans, seen = [], set()
    for seed in range(200):
        mono = toned(image, np.random.default_rng(seed))
        assert mono.shape == image.shape[:2]
        assert mono.dtype == np.uint8
        np.testing.assert_array_equal(mono, toned(image, np.random.default_rng(seed)))
        spans.append(int(np.ptp(mono)))
        seen.add(mono.tobytes())
    assert len(seen) == 200
    assert np.median(spans) > 100


def test_some_curves_turn_the_order_of_tones_around():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (8, 1, 3))
    turned = 0
    for seed in range(100):
        steps = np.diff(toned(ramp, np.random.default_rng(seed)).astype(int).mean(axis=0))
        turned += bool((steps > 0.2).any() and (steps < -0.2).any())
    assert 20 < turned < 100


@pytest.mark.parametrize("tones", [False, True])
def test_fractions_are_kept(tones, image):
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(disguised(image, rng, 0.0, 0.0, tones), image)
    np.testing.assert_array_equal(disguised(image, rng, 0.0, 1.0, tones), 255 - image)
    grey = [np.ptp(disguised(image, rng, 0.3, 0.5, tones), axis=2).max() == 0 for _ in range(400)]
    assert 0.2 < np.mean(grey) < 0.4
