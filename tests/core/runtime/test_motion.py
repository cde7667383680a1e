"""Compensation of camera motion between the RGB images that an infrared frame serves."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spectradino_core.calibration.registration import Registration
from spectradino_core.runtime.motion import MotionCompensation, global_shift, small_grey
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.rgb_grid import in_infrared_pixels
from tests.blob_model import make_blob_model

SIZE = (640, 480)
RED, HOT = (100, 40, 180, 90), (200, 160, 300, 260)


def street(seed: int = 0, gain: float = 0.3) -> np.ndarray:
    """A texture wider than the camera's image, with the noise of a dark scene."""
    rng = np.random.default_rng(seed)
    shapes = cv2.resize(rng.integers(0, 256, (24, 40, 3), np.uint8), (800, SIZE[1]), interpolation=cv2.INTER_LINEAR)
    return (gain * shapes).astype(np.uint8)


def window(wide: np.ndarray, left: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng([seed, left]).normal(0, 3, (SIZE[1], SIZE[0], 3))
    return np.clip(wide[:, left : left + SIZE[0]] + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("gain", [0.15, 0.9])
@pytest.mark.parametrize("shift", [-40, -12, 24, 60])
def test_the_shift_of_a_turning_camera_is_measured(shift, gain):
    wide = street(gain=gain)
    x, y, response = global_shift(small_grey(window(wide, 80)), small_grey(window(wide, 80 - shift)))
    assert x * 4 == pytest.approx(shift, abs=3)
    assert abs(y * 4) < 2
    assert response > 0.03


def test_the_infrared_frame_follows_the_camera_and_a_new_one_starts_again():
    wide, motion, key = street(), MotionCompensation(), object()
    assert motion(window(wide, 80), (320, 240), key, None) is None, "its first use"
    assert motion(window(wide, 80, seed=1), (320, 240), key, None) is None, "the camera stands still"
    moved = motion(window(wide, 50), (320, 240), key, None)
    assert moved.matrix == pytest.approx((2, 0, 30, 0, 2, 0, 0, 0, 1), abs=4)
    given = Registration((1.0, 0.0, 7.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), SIZE, SIZE, "test")
    assert motion(window(wide, 50), SIZE, object(), given) is given


def test_unrelated_images_move_nothing():
    motion, key = MotionCompensation(), object()
    motion(window(street(1), 80), SIZE, key, None)
    assert motion(window(street(2), 80), SIZE, key, None) is None
    assert motion(np.zeros((480, 640, 3), np.uint8), SIZE, key, None) is None


def test_boxes_of_a_reused_frame_lie_where_the_camera_turned_to(tmp_path):
    pipeline, wide, key = Pipeline.open(make_blob_model(tmp_path / "m.onnx"), device="cpu"), street(), object()
    infrared = np.full((SIZE[1], SIZE[0]), 2000, np.uint16)
    infrared[HOT[1] : HOT[3], HOT[0] : HOT[2]] = 9000
    hot = {}
    for compensate in (False, True):
        pipeline.reset()
        pipeline.compensate_motion = compensate
        pipeline(window(wide, 80), infrared, key := object())
        found = pipeline(window(wide, 48), infrared, key)
        hot[compensate] = found.boxes[found.labels == 1][0]
    np.testing.assert_allclose(hot[False], HOT, atol=2)
    np.testing.assert_allclose(hot[True], np.array(HOT) + [32, 0, 32, 0], atol=5)
    size = (infrared.shape[1], infrared.shape[0])
    back = in_infrared_pixels(found, pipeline.used_registration, size)
    np.testing.assert_allclose(back.boxes[back.labels == 1], [HOT], atol=2)


def test_a_frame_that_is_moved_does_not_move_the_thermal_range_again(tmp_path):
    pipeline, wide, key = Pipeline.open(make_blob_model(tmp_path / "m.onnx"), device="cpu"), street(), object()
    pipeline.compensate_motion = True
    rng = np.random.default_rng(0)
    frames = [rng.normal(mean, 100, (SIZE[1], SIZE[0])).astype(np.uint16) for mean in (4000, 4300, 4600)]
    pipeline(window(wide, 80), frames[0], object())
    ranges = []
    for left in (80, 60, 40):
        pipeline(window(wide, left), frames[1], key)
        ranges.append(pipeline._thermal.range)
    assert ranges[0] == ranges[1] == ranges[2]
    pipeline(window(wide, 40), frames[2], object())
    assert pipeline._thermal.range != ranges[0], "a new frame moves it"


def test_a_strip_is_not_compared():
    motion, key = MotionCompensation(), object()
    for _ in range(2):
        assert motion(np.zeros((8000, 8, 3), np.uint8), SIZE, key, None) is None


@pytest.mark.parametrize("shape", [(480, 640), (480, 640, 4)])
def test_a_frame_of_another_form_is_refused_as_without_it(tmp_path, shape):
    pipeline = Pipeline.open(make_blob_model(tmp_path / "m.onnx"), device="cpu")
    pipeline.compensate_motion = True
    with pytest.raises(ValueError, match="RGB|uint8|shape"):
        pipeline(np.zeros(shape, np.uint8), np.full((480, 640), 2000, np.uint16), object())
