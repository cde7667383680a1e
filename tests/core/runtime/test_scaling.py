"""`runtime.scaling` compared with OpenCV's INTER_AREA where it uses a faster method."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spectradino_core.runtime.scaling import scale

SIZES = {"1280x1024 to 644x515": ((1280, 1024), (644, 515)), "1280x720 to 644x362": ((1280, 720), (644, 362))}
DTYPES = [(np.uint8, 3, 255), (np.uint8, 1, 255), (np.uint16, 1, 30_000)]


def area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def noise(size: tuple[int, int], channels: int, dtype: type, top: int) -> np.ndarray:
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    return np.random.default_rng(0).integers(0, top + 1, shape).astype(dtype)


def frame(size: tuple[int, int], channels: int, dtype: type, top: int) -> np.ndarray:
    """As sharp as a camera's image: detail of a few pixels, some edges."""
    fine = cv2.GaussianBlur(noise(size, channels, np.uint8, 255).astype(np.float32), (0, 0), 1.0)
    width, height = size
    fine[height // 4 : height // 2, width // 3 : width // 2] += 100
    return np.clip((fine - fine.min()) / np.ptp(fine) * top, 0, top).astype(dtype)


def difference(image: np.ndarray, size: tuple[int, int], top: int) -> np.ndarray:
    """Return the difference of `scale` from the area's mean, in 255ths of the range."""
    return (scale(image, size).astype(np.float64) - area(image, size)) * 255 / top


@pytest.mark.parametrize(("dtype", "channels", "top"), DTYPES)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_near_factor_two_it_is_the_areas_mean_to_within_rounding(sizes, dtype, channels, top):
    of_noise = difference(noise(sizes[0], channels, dtype, top), sizes[1], top)
    assert abs(of_noise.mean()) < 0.1  # neither darker nor lighter
    assert np.abs(of_noise).mean() < 0.8  # where the area's mean itself varies by 31
    assert np.abs(of_noise).max() < 6
    of_picture = difference(frame(sizes[0], channels, dtype, top), sizes[1], top)
    assert np.abs(of_picture).mean() < 0.6
    assert np.abs(of_picture).max() < 3


@pytest.mark.parametrize(
    ("before", "size"),
    [
        ((640, 512), (385, 308)),
        ((640, 480), (392, 294)),
        ((1280, 1024), (700, 600)),
        ((640, 512), (280, 224)),
        ((640, 480), (280, 210)),
        ((1280, 720), (364, 205)),
    ],
)
@pytest.mark.parametrize(("dtype", "channels", "top"), DTYPES)
def test_below_factor_four_it_is_near_the_areas_mean(dtype, channels, top, before, size):
    of_picture = difference(frame(before, channels, dtype, top), size, top)
    assert abs(of_picture.mean()) < 0.2
    assert np.abs(of_picture).mean() < 3.5
    flat = np.full((before[1], before[0]), top // 2, dtype)
    np.testing.assert_array_equal(scale(flat, size), top // 2)


@pytest.mark.parametrize("side", range(17, 64))
def test_below_factor_four_no_pixel_is_passed_over(side):
    for place in range(64):
        spot = np.zeros((64, 64), np.uint16)
        spot[place, 63 - place] = 60_000
        assert scale(spot, (side, side)).sum() > 0, place


@pytest.mark.parametrize(("dtype", "channels", "top"), DTYPES)
def test_from_factor_four_on_it_is_near_the_areas_mean(dtype, channels, top):
    of_picture = difference(frame((1280, 1024), channels, dtype, top), (280, 224), top)
    assert abs(of_picture.mean()) < 0.2  # OpenCV rounds halves up when it averages 2 x 2 bytes
    assert np.abs(of_picture).mean() < 2
    flat = np.full((1024, 1280), top // 2, dtype)
    np.testing.assert_array_equal(scale(flat, (280, 224)), top // 2)


@pytest.mark.parametrize("size", [(640, 512), (1280, 512), (400, 1024), (130, 1024), (1280, 100)])
def test_elsewhere_it_is_the_areas_mean(size):
    image = noise((1280, 1024), 3, np.uint8, 255)
    np.testing.assert_array_equal(scale(image, size), area(image, size))


def test_a_thing_keeps_its_place():
    """The centre of a bright spot, relative to the image size, is the same before and after."""
    image = np.zeros((1024, 1280), np.uint16)
    image[700:724, 300:330] = 60_000
    for size in ((644, 515), (280, 224), (500, 400), (1300, 1040)):
        small = scale(image, size).astype(np.float64)
        x = (small.sum(0) @ (np.arange(size[0]) + 0.5)) / small.sum() / size[0]
        y = (small.sum(1) @ (np.arange(size[1]) + 0.5)) / small.sum() / size[1]
        assert x * 1280 == pytest.approx(315, abs=0.15)
        assert y * 1024 == pytest.approx(712, abs=0.15)


@pytest.mark.parametrize("before", [(1, 1), (1, 5), (3, 1), (2, 2), (5, 4)])
@pytest.mark.parametrize("after", [(1, 1), (2, 2), (7, 3)])
def test_tiny_images(before, after):
    image = np.full((before[1], before[0], 3), 77, np.uint8)
    assert scale(image, after).shape == (after[1], after[0], 3)
    assert (scale(image, after) == 77).all()
