"""Temperatures of detections: compared with rendered scenes, whose temperatures are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spectradino_core.calibration.registration import Registration
from spectradino_core.modality import Modality
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.runtime.rgb_grid import in_colour_pixels, in_infrared_pixels
from spectradino_core.runtime.temperatures import TemperatureScale, temperatures_in, with_temperatures
from spectradino_core.scenes import SceneOptions, render_moments
from spectradino_core.thermal import ThermalContract

SIZE, IR_SIZE = (320, 256), (200, 160)
CENTIKELVIN = TemperatureScale(0.01, -273.15)
OPTRIS = TemperatureScale(0.1, -100.0)
CONTRACT = ThermalContract()
MATRIX = np.array([[1.72, 0.03, -14.0], [-0.02, 1.7, -9.0], [1e-4, 0.0, 1.0]])
"""IR to RGB pixels: the IR camera sees about the same, rotated and tilted a little."""
OPTIONS = SceneOptions(*SIZE, bands=(Modality.LWIR,), time_of_day="night")
HALF = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
"""From OpenCV's pixel coordinates to the renderer's, in which the first pixel's centre is (0.5, 0.5)."""


def result_of(boxes: np.ndarray, mode: Mode = Mode.FUSED, size: tuple[int, int] = SIZE) -> PerceptionResult:
    count = len(boxes)
    return PerceptionResult(
        np.asarray(boxes, np.float32), np.ones(count, np.float32), np.zeros(count, np.int64), None, mode, size
    )


@pytest.fixture(scope="module")
def frame():
    """The same scene as a noisy thermal camera behind `MATRIX` sees it, in counts of 0.01 K."""
    (scene,) = render_moments(4, [0], OPTIONS, HALF @ MATRIX @ np.linalg.inv(HALF), IR_SIZE)
    return scene.images[Modality.LWIR]


@pytest.mark.parametrize("seed", [4, 5, 6, 7])
def test_temperatures_are_those_of_the_scene(seed):
    """Of people and cars, exactly where both cameras see the same pixels, else through the registration."""
    (true,) = render_moments(seed, [0], replace(OPTIONS, noise=False, blur=False))
    boxes = true.boxes[(true.boxes[:, 2:] - true.boxes[:, :2]).min(axis=1) >= 20]  # [px]
    assert len(boxes)
    celsius = true.images[Modality.LWIR] / 100.0 - 273.15
    parts = [celsius[y1:y2, x1:x2] for x1, y1, x2, y2 in boxes.astype(int)]
    known = np.array([(part.min(), part.mean(), part.max()) for part in parts])
    here = with_temperatures(result_of(boxes), true.images[Modality.LWIR], None, CONTRACT, CENTIKELVIN)
    np.testing.assert_allclose(here.temperatures, known, atol=0.01)

    (seen,) = render_moments(seed, [0], OPTIONS, HALF @ MATRIX @ np.linalg.inv(HALF), IR_SIZE)
    registration = Registration(tuple(MATRIX.reshape(-1)), IR_SIZE, SIZE)
    found = with_temperatures(result_of(boxes), seen.images[Modality.LWIR], registration, CONTRACT, CENTIKELVIN)
    np.testing.assert_allclose(found.temperatures[:, 1], known[:, 1], atol=0.4)


def test_a_scale_has_a_gain_and_an_offset(frame):
    boxes = np.array([[20.0, 30, 80, 90]])
    celsius = temperatures_in(boxes, frame, None, CENTIKELVIN)
    counts = np.rint(((frame / 100.0 - 273.15) + 100.0) * 10.0).astype(np.uint16)
    np.testing.assert_allclose(temperatures_in(boxes, counts, None, OPTRIS), celsius, atol=0.06)


def test_pixels_that_are_no_measurement_do_not_count(frame):
    """Dead and stuck pixels, as the thermal contract recognises them, in each box."""
    boxes = result_of(np.array([[20.0, 30, 80, 90], [100, 60, 160, 120]]), Mode.IR_ONLY, IR_SIZE)
    clean = with_temperatures(boxes, frame, None, CONTRACT, CENTIKELVIN).temperatures
    damaged = frame.copy()
    damaged[40:42, 40:42], damaged[70, 130], damaged[90:92, 110] = 0, 65535, 0
    found = with_temperatures(boxes, damaged, None, CONTRACT, CENTIKELVIN).temperatures
    np.testing.assert_allclose(found, clean, atol=0.3)
    taken = with_temperatures(boxes, damaged, None, replace(CONTRACT, recognise_invalid=False), CENTIKELVIN)
    assert taken.temperatures[0, 0] < -273
    assert taken.temperatures[1, 2] > 380


def test_a_box_without_a_valid_pixel_has_none(frame):
    """Neither has one that the infrared camera does not see; the others keep their places."""
    damaged = frame.copy()
    damaged[:60, :60] = 65535
    fused = result_of(np.array([[110, 110, 150, 150], [2, 2, 30, 30], [300, 60, 320, 90], [100, 150, 120, 160.0]]))
    narrow = Registration((1.2, 0, 10, 0, 1.2, 10, 0, 0, 1), IR_SIZE, SIZE)
    invalid = replace(CONTRACT, invalid_counts=(65535,))
    found = with_temperatures(fused, damaged, narrow, invalid, CENTIKELVIN).temperatures
    assert np.isnan(found).all(axis=1).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([1.5, 0, 3.5, 1], [1, 1.5, 2]),  # pixel borders: the centres 1.5 and 2.5 are inside
        ([1.4, 0, 3.6, 1], [1, 2, 3]),
        ([2.6, 0, 2.9, 1], [2, 2, 2]),  # no centre is inside
        ([3.9, 0.9, 4.0, 1], [3, 3, 3]),
        ([0, 0, 4, 1], [0, 1.5, 3]),
    ],
)
def test_which_pixels_are_in_a_box(box, expected):
    ramp = np.array([[0, 1, 2, 3]], np.uint16)
    assert temperatures_in(np.array([box]), ramp, None, TemperatureScale(1.0, 0.0)).tolist() == [expected]


def test_they_stay_with_their_detections(frame):
    """When results are mapped to the other camera's pixels, which drops detections."""
    own = result_of(np.array([[150.0, 60, 190, 90], [20, 30, 80, 90]]), Mode.IR_ONLY, IR_SIZE)
    own = with_temperatures(own, frame, None, CONTRACT, CENTIKELVIN)
    moved = Registration((1.6, 0, 120, 0, 1.6, 0, 0, 0, 1), IR_SIZE, SIZE)
    mapped = in_colour_pixels(own, moved, SIZE)
    np.testing.assert_array_equal(mapped.temperatures, own.temperatures[1:])
    assert in_infrared_pixels(mapped, moved, IR_SIZE).temperatures is own.temperatures
