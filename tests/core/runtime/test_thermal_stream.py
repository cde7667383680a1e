"""No flicker on 16-bit scenes: a hot object enters the infrared image, and the network's input stays stable."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.calibration.registration import Registration
from spectradino_core.data.scene_sets import scene_sample
from spectradino_core.modality import Modality
from spectradino_core.runtime.preprocess import Letterbox, infrared_input
from spectradino_core.thermal import STREAM_SMOOTHING, Smoothing, ThermalContract, ThermalNormaliser

SIZE = (320, 256)
HOT = 12000
"""Counts above the scene at 0.01 K per count: an exhaust of 120 K more."""


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    infrared = scene_sample(7, Modality.LWIR, SIZE).infrared
    assert infrared.dtype == np.uint16
    return infrared


def inputs(street: np.ndarray, smoothing: Smoothing | None, registration: Registration | None) -> list[np.ndarray]:
    """Return the network's input in grey levels over 30 frames at rest, 120 with a lorry from the left, and 120
    without."""
    rng = np.random.default_rng(0)
    box = Letterbox.fit(SIZE, (280, 224))
    normaliser = ThermalNormaliser(ThermalContract(), smoothing)
    out = []
    for i in range(270):
        frame = street + rng.integers(0, 6, street.shape).astype(np.uint16)
        if 30 <= i < 150:
            frame[60:130, : min(90, 6 * (i - 29))] += HOT
        out.append(255 * infrared_input(frame, box, normaliser, registration)[0])
    return out


@pytest.mark.parametrize(
    "registration", [None, Registration((0.9, 0.01, 16, -0.01, 0.9, 12, 0, 0, 1))], ids=["whole", "registered"]
)
def test_the_background_moves_by_a_few_levels_a_frame_and_has_adapted_in_four_seconds(street, registration):
    background = (slice(150, 210), slice(20, 250))  # the street before it, which stays as it is
    greys = {
        name: np.array([image[background].mean() for image in inputs(street, smoothing, registration)])
        for name, smoothing in (("single", None), ("stream", STREAM_SMOOTHING))
    }
    assert np.abs(np.diff(greys["single"])).max() > 60
    assert np.abs(np.diff(greys["stream"])).max() < 5
    for at in (149, 269):  # 120 frames after it came, and after it left
        assert abs(greys["stream"][at] - greys["single"][at]) < 2
