"""Views of thermal images with invalid pixels, as cropped and normalised in pretraining."""

from __future__ import annotations

import numpy as np

from spectradino_core.data.sources import ImageSet
from spectradino_core.data.thermal_defects import add_dead_pixels
from spectradino_core.data.views import PLAIN, infrared_tensor, take_view
from spectradino_core.thermal import ThermalContract
from tests.core.runtime.test_invalid_pixels import smooth_scene


def view(frame: np.ndarray) -> np.ndarray:
    item = ImageSet({"rgb": np.zeros((*frame.shape, 3), np.uint8), "lwir": frame}, "pair")
    return take_view(item, PLAIN, 128, np.random.default_rng(0))["lwir"]


def test_dead_pixels_are_filled_before_a_view_is_resized():
    clean = smooth_scene()
    damaged = add_dead_pixels(clean, 0.02, np.random.default_rng(0), (0, 65535))
    assert np.abs(view(damaged).astype(int) - view(clean)).max() < 60


def test_dead_pixels_stay_out_of_the_range():
    clean = smooth_scene((128, 128))
    damaged = add_dead_pixels(clean, 0.02, np.random.default_rng(0))
    difference = np.abs(infrared_tensor(damaged, ThermalContract()) - infrared_tensor(clean, ThermalContract()))
    assert difference.mean() < 0.01


def test_a_view_without_a_measurement_is_0():
    assert not infrared_tensor(np.zeros((28, 28), np.uint16), ThermalContract()).any()
