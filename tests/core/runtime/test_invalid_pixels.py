"""Invalid pixels of a thermal frame in the network's input."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spectradino_core.calibration.registration import Registration
from spectradino_core.data.thermal_defects import add_border, add_clusters, add_dead_pixels, add_telemetry_rows
from spectradino_core.runtime.preprocess import Letterbox, infrared_input, scaled_infrared
from spectradino_core.runtime.scaling import fill_invalid, scale, scale_valid, weigh
from spectradino_core.streams.detecting import drop_cause
from spectradino_core.thermal import NoValidPixelError, Smoothing, ThermalContract, ThermalError, ThermalNormaliser

NETWORK = (280, 224)


def smooth_scene(size: tuple[int, int] = (640, 512)) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.normal(size=(6, 8)).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    return (28_500 + 600 * coarse + rng.normal(0, 5, coarse.shape)).clip(20_000).astype(np.uint16)


def network_input(frame: np.ndarray, registration: Registration | None = None, **contract) -> np.ndarray:
    source = (640, 512)
    box = Letterbox.fit(source, NETWORK)
    return infrared_input(frame, box, ThermalNormaliser(ThermalContract(**contract)), registration)[0]


RNG = np.random.default_rng(1)
DEFECTS = {
    "dead pixels": lambda f: add_dead_pixels(f, 0.01, RNG),
    "a tenth dead": lambda f: add_dead_pixels(f, 0.1, RNG),
    "saturated pixels": lambda f: add_dead_pixels(f, 0.04, RNG, (65535,)),
    "several constants": lambda f: add_dead_pixels(f, 0.03, RNG, (0, 16383, 65535)),
    "clusters": lambda f: add_clusters(f, 0.005, RNG, (0,), 4),
    "telemetry": lambda f: add_telemetry_rows(f, 2, RNG),
}


@pytest.mark.parametrize("size", [(640, 512), (336, 256), (160, 128), (80, 64), (280, 224), (1280, 1024), (100, 80)])
@pytest.mark.parametrize("kind", DEFECTS)
def test_the_input_is_nearly_that_of_a_clean_frame(kind, size):
    clean = smooth_scene(size)
    damaged = DEFECTS[kind](clean)
    wanted, before = network_input(clean), network_input(damaged, recognise_invalid=False)
    error = np.abs(network_input(damaged) - wanted)
    assert error.mean() < 0.01
    assert np.percentile(error, 99.5) < 0.1
    assert error.mean() < np.abs(before - wanted).mean() / 2


def test_a_border_is_0_as_outside_of_the_image_and_the_rest_as_if_it_were_not_there():
    clean = smooth_scene()
    frame = add_border(clean, 0.3, 0, ("left",))
    got, wanted = network_input(frame), network_input(clean[:, 192:])
    assert (got[:, :78] == 0).all()
    inner = got[:, 90:280]
    stretched = cv2.resize(wanted[:224, :], (280, 224))
    assert inner.std() > 0.15
    assert abs(inner.mean() - stretched.mean()) < 0.05


def test_clean_frames_take_the_path_of_before_to_the_bit():
    frame = smooth_scene()
    np.testing.assert_array_equal(network_input(frame), network_input(frame, recognise_invalid=False))


def test_invalid_pixels_stay_out_of_a_warp():
    clean = smooth_scene((320, 256))
    registration = Registration((1.9, 0.05, 12.0, -0.04, 1.95, 8.0, 0.0, 0.0, 1.0), (320, 256), (640, 512))
    damaged = add_dead_pixels(clean, 0.03, np.random.default_rng(0), (0, 65535))
    wanted, got = network_input(clean, registration), network_input(damaged, registration)
    assert ((wanted == 0) != (got == 0)).mean() < 0.02
    assert np.abs(got - wanted).mean() < 0.01
    assert np.abs(got - wanted).max() < 0.3


@pytest.mark.parametrize("size", [(640, 512), (320, 256), (160, 128)])
def test_a_border_is_not_mixed_into_a_warp(size):
    clean = smooth_scene(size)
    registration = Registration((0.98, 0.03, 5.0, -0.03, 1.01, -6.0, 0.0, 0.0, 1.0), (640, 512), (640, 512))
    damaged = add_dead_pixels(add_border(clean, 0.3, 0, ("left", "top"), 0.5), 0.02, np.random.default_rng(0))
    box = Letterbox.fit((640, 512), NETWORK)
    normaliser = ThermalNormaliser(ThermalContract())
    counts, seen = scaled_infrared(damaged, box, registration, normaliser.valid_pixels(damaged))
    wanted, seen_clean = scaled_infrared(clean, box, registration)
    assert seen is not None
    assert seen_clean is not None
    assert 0.55 < seen.sum() / seen_clean.sum() < 0.8
    assert not seen[~seen_clean].any()
    error = np.abs(counts.astype(int) - wanted)[seen]
    assert error.max() < 400
    assert error.mean() < 20


@pytest.mark.parametrize("kind", ["fixed", "none"])
def test_other_normalisations_average_only_valid_pixels(kind):
    options = {"fixed": {"kind": "fixed", "low": 27_000, "high": 31_000, "depths": (16,)}, "none": {"kind": "none"}}
    clean = smooth_scene()
    damaged = add_dead_pixels(clean, 0.05, np.random.default_rng(0))
    error = np.abs(network_input(damaged, **options[kind]) - network_input(clean, **options[kind]))
    assert error.max() < 0.05


def test_8_bits_are_taken_as_they_are():
    frame = add_dead_pixels(smooth_scene(), 0.02, np.random.default_rng(0))
    grey = (frame >> 8).astype(np.uint8)
    np.testing.assert_array_equal(network_input(grey), network_input(grey, recognise_invalid=False))
    assert not np.array_equal(network_input(grey), network_input(grey, invalid_counts=(0,)))


def test_defects_that_change_from_frame_to_frame_do_not_move_a_smoothed_range():
    clean = smooth_scene()
    steady, shaken = (ThermalNormaliser(ThermalContract(), Smoothing()) for _ in range(2))
    box = Letterbox.fit((640, 512), NETWORK)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        infrared_input(clean, box, steady)
        damaged = add_dead_pixels(clean, 0.02 * (seed % 3), rng, ((0,), (65535,), (0, 16383))[seed % 3])
        infrared_input(damaged, box, shaken)
        np.testing.assert_allclose(shaken.range, steady.range, atol=8)


@pytest.mark.parametrize("value", [0, 65535])
def test_a_frame_without_a_valid_pixel_is_refused_and_named(value):
    normaliser = ThermalNormaliser(ThermalContract())
    with pytest.raises(NoValidPixelError, match=f"all are {value}.*ir_invalid_counts") as raised:
        normaliser.valid_pixels(np.full((512, 640), value, np.uint16))
    assert drop_cause(raised.value) == "ir_no_valid_pixel"
    assert drop_cause(ThermalError("other")) == "ir_thermal_mismatch"
    assert normaliser.invalid_fraction == 1


def test_the_fraction_of_invalid_pixels_is_known():
    normaliser = ThermalNormaliser(ThermalContract())
    frame = smooth_scene()
    assert normaliser.valid_pixels(frame) is None
    assert normaliser.invalid_fraction == 0
    frame[:128] = 0
    normaliser.valid_pixels(frame)
    assert normaliser.invalid_fraction == 0.25


class TestScaling:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("size", [(40, 30), (33, 21), (80, 60), (150, 130)])
    def test_means_are_those_of_valid_pixels(self, dtype, size):
        image = np.full((60, 80), 200, dtype)
        valid = np.where(np.random.default_rng(0).random(image.shape) < 0.3, 0, 255).astype(np.uint8)
        image[valid == 0] = 7
        filled, known = fill_invalid(*(scale(x, size) for x in weigh(image, valid)))
        assert filled.dtype == dtype
        assert filled.shape == size[::-1]
        assert known is None
        np.testing.assert_allclose(filled.astype(float), 200, atol=4 if dtype == np.uint16 else 5)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("size", [(36, 28), (30, 22), (17, 13), (40, 30), (100, 70)])
    def test_scaling_uses_only_valid_pixels(self, dtype, size):
        clean = cv2.resize(np.array([[60, 180], [220, 20]], dtype) * (1 if dtype == np.uint8 else 200), (80, 60))
        rng = np.random.default_rng(0)
        for number in range(6):
            valid = np.where(rng.random(clean.shape) < (0.01, 0.1, 0.4)[number % 3], 0, 255).astype(np.uint8)
            if number > 2:
                valid[20:22] = valid[:, 70:] = 0  # holes, and a border deeper than is filled
            damaged = np.where(
                valid == 0, rng.choice(np.array([0, 255, np.iinfo(dtype).max], dtype), clean.shape), clean
            )
            scaled, known = scale_valid(damaged, valid, size)
            assert (scaled.dtype, scaled.shape) == (dtype, size[::-1])
            seen = np.ones(scaled.shape, bool) if known is None else known
            assert seen.mean() > (0.99 if number <= 2 else 0.85)
            error = np.abs(scaled.astype(float) - scale(clean, size))[seen] / np.ptp(clean)
            assert error.mean() < 0.02
            assert error.max() < 0.2

    def test_filling_of_a_hole_does_not_depend_on_other_holes(self):
        image = smooth_scene((80, 128))
        for first in range(0, 100, 3):
            valid = np.full(image.shape, 255, np.uint8)
            valid[first : first + 3] = 0
            alone, known = fill_invalid(*weigh(image, valid))
            assert known is None
            assert np.abs(alone.astype(int) - image).max() < 500
            valid[0, 0] = valid[-3:] = 0
            among, _ = fill_invalid(*weigh(image, valid))
            np.testing.assert_array_equal(alone[9:112], among[9:112])

    def test_small_holes_are_filled_from_what_lies_next_to_them_and_deep_ones_are_not(self):
        clean = np.tile(np.arange(80, dtype=np.uint16) * 100 + 5_000, (64, 1))
        valid = np.full(clean.shape, 255, np.uint8)
        valid[:3] = valid[:, :2] = valid[30:36, 40:46] = 0
        damaged = np.where(valid == 0, np.uint16(65_535), clean)
        scaled, known = scale_valid(damaged, valid, (36, 28))
        assert known is None
        assert np.abs(scaled.astype(int) - scale(clean, (36, 28))).max() < 250
        valid[16:56, 20:70] = 0
        scaled, known = scale_valid(np.where(valid == 0, np.uint16(0), clean), valid, (36, 28))
        assert known is not None
        assert not known[15, 20]
        assert known[:5].all()

    def test_nothing_valid_is_not_known(self):
        image = np.full((60, 80), 9, np.uint16)
        filled, known = fill_invalid(*weigh(image, np.zeros(image.shape, np.uint8)))
        assert (filled == 0).all()
        assert known is not None
        assert not known.any()

    def test_holes_are_filled_from_around_and_deep_ones_stay_unknown(self):
        image = np.tile(np.arange(80, dtype=np.uint16) * 100, (60, 1))
        valid = np.full(image.shape, 255, np.uint8)
        valid[10:12, 20:22] = 0
        valid[30:60, 40:80] = 0
        filled, known = fill_invalid(*weigh(image, valid))
        np.testing.assert_allclose(filled[10:12, 20:22].astype(int), image[10:12, 20:22].astype(int), atol=200)
        assert known is not None
        assert known[10:12, 20:22].all()
        assert not known[40:, 50:].any()
        assert known[:26].all()

    def test_single_pixels_and_lines_do_not_break_it(self):
        for shape in ((1, 1), (1, 9), (9, 1), (2, 3)):
            image = np.full(shape, 500, np.uint16)
            valid = np.zeros(shape, np.uint8)
            valid[0, 0] = 255
            filled, _ = fill_invalid(*weigh(image, valid))
            assert filled[0, 0] == 500
