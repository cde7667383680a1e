"""Invalid counts are detected, and counts of the scene are kept."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spectradino_core.data.thermal_defects import (
    add_border,
    add_clusters,
    add_dead_lines,
    add_dead_pixels,
    add_telemetry_rows,
)
from spectradino_core.invalid_counts import InvalidCounts


def scene(size: tuple[int, int] = (320, 256), low: int = 28_500, high: int = 31_000, seed: int = 0) -> np.ndarray:
    """Smooth structure, warm and cold objects and noise: a radiometric frame in hundredths of a kelvin."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(8, 10)).astype(np.float32)
    smooth = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    for _ in range(6):
        centre = int(rng.integers(size[0])), int(rng.integers(size[1]))
        cv2.circle(smooth, centre, max(2, size[1] // 20), float(rng.uniform(-0.1, 1.2)), cv2.FILLED)
    counts = cv2.GaussianBlur(smooth, (0, 0), 0.8) * (high - low) + low + rng.normal(0, 6, smooth.shape)
    return np.clip(np.rint(counts), 1, 65534).astype(np.uint16)


def marked(frame: np.ndarray, **options) -> np.ndarray:
    """Return the detected invalid pixels, bool [h, w]."""
    valid = InvalidCounts(**options)(frame)
    return np.zeros(frame.shape, bool) if valid is None else valid == 0


RNG = np.random.default_rng(5)
DEFECTS = {
    "dead pixels": lambda f: add_dead_pixels(f, 0.008, RNG),
    "few dead pixels": lambda f: add_dead_pixels(f, 0.0005, RNG),
    "a tenth dead": lambda f: add_dead_pixels(f, 0.1, RNG),
    "a third dead": lambda f: add_dead_pixels(f, 0.33, RNG),
    "saturated pixels": lambda f: add_dead_pixels(f, 0.04, RNG, (65535,)),
    "stuck at 14 bits": lambda f: add_dead_pixels(f, 0.01, RNG, (16383,)),
    "several constants": lambda f: add_dead_pixels(f, 0.03, RNG, (0, 16383, 65535)),
    "an unusual constant": lambda f: add_dead_pixels(f, 0.01, RNG, (1,)),
    "two unusual constants": lambda f: add_dead_pixels(f, 0.02, RNG, (255, 60_000)),
    "clusters": lambda f: add_clusters(f, 0.01, RNG, (0,), 5),
    "saturated clusters": lambda f: add_clusters(f, 0.002, RNG, (65535,), 4),
    "dead columns": lambda f: add_dead_lines(f, RNG, columns=4),
    "stuck rows and columns": lambda f: add_dead_lines(f, RNG, 2, 2, 65535),
    "two zero rows": lambda f: add_dead_lines(f, np.random.default_rng(0), rows=2),
    "border": lambda f: add_border(f, 0.02),
    "wide border": lambda f: add_border(f, 0.3),
    "one side": lambda f: add_border(f, 0.05, 0, ("left",)),
    "rotated": lambda f: add_border(f, 0.1, 0, ("left", "top"), 0.9),
    "saturated side": lambda f: add_border(f, 0.05, 65535, ("right",)),
    "telemetry below": lambda f: add_telemetry_rows(f, 2, RNG),
    "telemetry above": lambda f: add_telemetry_rows(f, 4, RNG, bottom=False),
}


@pytest.mark.parametrize("size", [(640, 512), (320, 256), (160, 120), (80, 60)])
@pytest.mark.parametrize("kind", DEFECTS)
def test_defects_are_recognised(kind, size):
    for seed in range(4):
        clean = scene(size, seed=seed)
        frame = DEFECTS[kind](clean)
        found, true = marked(frame), frame != clean
        assert (true & ~found).sum() <= 0.02 * true.sum(), "missed"
        assert (found & ~true).sum() <= 2, "false"


@pytest.mark.parametrize(("low", "high"), [(28_500, 31_000), (7_000, 8_600), (2_900, 3_050), (200, 9_000), (1, 60_000)])
@pytest.mark.parametrize("size", [(640, 512), (80, 60)])
def test_a_clean_frame_is_all_valid(size, low, high):
    for seed in range(10):
        assert not marked(scene(size, low, high, seed)).any()


def test_defects_are_recognised_in_raw_counts_of_14_bits():
    clean = scene(low=7_000, high=8_600)
    frame = add_dead_pixels(clean, 0.02, np.random.default_rng(0), (0, 16383))
    np.testing.assert_array_equal(marked(frame), frame != clean)


def test_two_thirds_without_measurement_are_recognised():
    frame = scene()
    frame[:, :210] = 0
    np.testing.assert_array_equal(marked(frame), frame == 0)


def test_a_border_that_was_resampled_loses_its_mixed_pixels_too():
    clean = scene((640, 512))
    matrix = cv2.getRotationMatrix2D((320, 256), 2.0, 1.0)
    frame = cv2.warpAffine(clean.astype(np.float32), matrix, (640, 512)).astype(np.uint16)
    found = marked(frame)
    assert found[frame == 0].all()
    assert (frame[~found] < 27_500).sum() < 150  # where the border runs out along the image's edge
    assert (found & (frame > 28_500)).sum() == 0


@pytest.mark.parametrize("shift", [1, 40])
def test_zero_of_a_camera_that_subtracts_its_minimum_is_a_count(shift):
    frame = scene(low=5_000, high=9_000)
    frame -= frame.min()  # the coldest pixel is 0
    frame[: 40 + shift] = np.clip(RNG.normal(60, 40, (40 + shift, 320)), 0, None)  # a cold sky, cut off at 0
    assert (frame == 0).any()
    assert not marked(frame).any()


def test_a_small_cold_object_that_reaches_0_is_kept():
    frame = scene(low=5_000, high=9_000)
    frame[100:120, 100:120] = np.clip(RNG.normal(60, 40, (20, 20)), 0, None)
    frame[105, 105] = 0
    assert marked(frame).sum() <= (frame == 0).sum()
    assert not marked(frame)[frame > 0].any()


def hot(frame: np.ndarray, radius: int, centre=(160, 120), value=65535, sigma: float = 0.9) -> np.ndarray:
    """Draw a region of one value, as imaged by a lens."""
    drawn = np.zeros(frame.shape, np.float32)
    cv2.circle(drawn, centre, radius, 1.3, cv2.FILLED)
    if sigma:
        drawn = cv2.GaussianBlur(drawn, (0, 0), sigma)
    return np.minimum(frame + drawn * (value - 20_000.0), value).astype(np.uint16)


@pytest.mark.parametrize("radius", [2, 4, 15, 60])
@pytest.mark.parametrize("centre", [(160, 120), (0, 100), (319, 255)])
def test_a_saturated_region_drawn_by_a_lens_is_kept(radius, centre):
    frame = hot(scene(), radius, centre)
    assert (frame == 65535).any()
    assert not marked(frame).any()


@pytest.mark.parametrize("value", [16383, 65535])
def test_a_large_saturated_region_with_a_sharp_edge_is_kept(value):
    frame = scene(low=7_000, high=8_600)
    cv2.circle(frame, (160, 120), 20, value, cv2.FILLED)
    assert not marked(frame).any()


def test_fire_and_stuck_pixels_are_distinguished():
    clean = hot(scene(), 15)
    frame = add_dead_pixels(clean, 0.01, np.random.default_rng(0), (65535,))
    found, true = marked(frame), frame != clean
    far = cv2.dilate((clean > 33_000).astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    np.testing.assert_array_equal(found[far], true[far])
    assert not found[clean == 65535].any()


def test_an_isolated_cold_or_hot_object_with_noise_is_kept():
    frame = scene()
    frame[40:60, 40:70] = RNG.normal(24_000, 15, (20, 30))
    frame[140:160, 140:170] = RNG.normal(45_000, 15, (20, 30))
    assert not marked(frame).any()


def test_a_small_object_of_one_count_is_kept():
    frame = scene()
    frame[40:46, 40:52] = 36_000
    frame[140:144, 140:150] = 24_000
    assert not marked(frame).any()


def test_sky_in_the_first_rows_is_no_telemetry():
    frame = scene()
    frame[:30] = RNG.normal(23_000, 20, (30, 320))
    assert not marked(frame).any()


def test_a_frame_of_constants_holds_no_measurement():
    for value in (0, 65535, 16383):
        assert marked(np.full((60, 80), value, np.uint16)).all()
    frame = np.zeros((60, 80), np.uint16)
    frame[::2] = 65535
    assert marked(frame).all()


def test_drawn_shapes_of_one_count_are_kept():
    frame = np.full((120, 160), 2_000, np.uint16)
    frame[:60] = 60_000
    frame[80:84, 30:33] = 40_000
    assert not marked(frame).any()
    even = np.full((120, 160), 30_000, np.uint16)
    even[100, 10:60:10] = 0
    np.testing.assert_array_equal(marked(even), even == 0)


def test_a_uniform_frame_of_another_value_is_valid():
    assert not marked(np.full((60, 80), 30_000, np.uint16)).any()


def test_8_bit_frames_are_all_valid_unless_counts_are_given():
    frame = (scene() >> 8).astype(np.uint8)
    frame[10:20] = 0
    assert not marked(frame).any()
    np.testing.assert_array_equal(marked(frame, counts=(0, 300)), frame == 0)


def test_given_counts_are_invalid_wherever_they_are():
    frame = scene(low=1, high=60_000)
    frame[50:60, 50:60] = 777
    np.testing.assert_array_equal(marked(frame, counts=(777,), automatic=False), frame == 777)
    frame[0, 0] = 0
    assert not marked(frame, automatic=False).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 500), (500, 3), (9, 9)])
def test_tiny_frames_do_not_break_it(shape):
    rng = np.random.default_rng(0)
    for _ in range(50):
        marked(rng.choice(np.array([0, 1, 9000, 16383, 65535], np.uint16), shape))
        marked(rng.integers(0, 65536, shape).astype(np.uint16))


def test_non_contiguous_frames_give_equal_results():
    frame = add_dead_pixels(scene((640, 512)), 0.01, np.random.default_rng(0))
    padded = np.zeros((512, 700), np.uint16)
    padded[:, 30:670] = frame
    np.testing.assert_array_equal(marked(padded[:, 30:670]), frame == 0)
    np.testing.assert_array_equal(marked(frame[:, ::-1]), frame[:, ::-1] == 0)
