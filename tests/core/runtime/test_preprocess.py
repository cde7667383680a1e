"""Source frames to network input: geometry in both directions, numbers by hand, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.modality import IMAGENET_MEAN, IMAGENET_STD
from spectradino_core.runtime.preprocess import (
    FrameError,
    Letterbox,
    infrared_input,
    rgb_input,
)
from spectradino_core.thermal import ThermalContract, ThermalError, ThermalNormaliser
from tests.examples import examples

ODD_SIZES = [(617, 459), (394, 161), (161, 394), (640, 480), (640, 512), (1920, 1080), (13, 1000), (1, 1)]
NETWORKS = [(644, 476), (322, 238), (518, 518), (14, 14)]
sides = st.integers(1, 4000)


class TestLetterbox:
    def test_by_hand(self):
        box = Letterbox.fit((640, 480), (322, 238))
        assert box.content == (317, 238)  # 640 * 238 / 480 = 317.33
        box = Letterbox.fit((100, 400), (518, 518))
        assert box.content == (130, 518)  # 100 * 518 / 400 = 129.5

    @settings(max_examples=examples(300), deadline=None)
    @given(st.tuples(sides, sides), st.sampled_from(NETWORKS))
    def test_the_content_is_the_largest_that_fits_with_its_aspect(self, source, network):
        box = Letterbox.fit(source, network)
        assert all(1 <= c <= n for c, n in zip(box.content, network, strict=True))
        assert any(c == n for c, n in zip(box.content, network, strict=True))
        scale = min(network[0] / source[0], network[1] / source[1])
        assert all(abs(c - max(1, s * scale)) <= 0.5 + 1e-9 for c, s in zip(box.content, source, strict=True))

    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("source", ODD_SIZES)
    def test_boxes_come_back_within_float_error(self, source, network):
        box = Letterbox.fit(source, network)
        rng = np.random.default_rng(0)
        corners = np.sort(rng.uniform(0, 1, (200, 2, 2)), axis=1) * source
        boxes = np.concatenate([corners.reshape(200, 4), [[0, 0, *source]]]).astype(np.float32)
        back = box.to_source(box.to_network(boxes))
        np.testing.assert_allclose(back, boxes, atol=1e-6 * max(source) + 1e-6)
        inside = box.to_network(boxes)
        assert (inside <= np.array(box.content * 2) + 1e-3).all()

    def test_the_whole_content_is_the_whole_image(self):
        for source in ODD_SIZES:
            box = Letterbox.fit(source, (644, 476))
            got = box.to_source(np.array([[0, 0, *box.content]], np.float32))
            np.testing.assert_allclose(got, [[0, 0, *source]], rtol=1e-6)

    def test_boxes_over_the_edge_are_clipped_to_the_image(self):
        box = Letterbox.fit((617, 459), (644, 476))
        got = box.to_source(np.array([[-50, -9, 900, 700]], np.float32))
        assert got.tolist() == [[0, 0, 617, 459]]

    def test_no_boxes(self):
        box = Letterbox.fit((617, 459), (644, 476))
        assert box.to_source(np.zeros((0, 4), np.float32)).shape == (0, 4)

    @pytest.mark.parametrize("source", [(617, 459), (394, 161), (1280, 720), (40, 30)])
    def test_masks_are_scaled_by_pixel_centres_like_boxes(self, source):
        box = Letterbox.fit(source, (322, 238))
        ramp = np.arange(238)[:, None] % 16 * 16 + np.arange(322)[None] % 16
        got = box.mask_to_source(ramp.astype(np.uint8))
        x, y = (
            np.floor((np.arange(side) + 0.5) * content / side).astype(int)
            for side, content in zip(source, box.content, strict=True)
        )
        # OpenCV counts in 1/65536 of a pixel: a few columns that fall between two pixels may go to the other one.
        assert (got == ramp[np.ix_(y, x)]).mean() > 0.98

    @pytest.mark.parametrize("source", [(617, 459), (394, 161), (40, 30)])
    def test_masks_have_the_sources_size_and_come_back(self, source):
        box = Letterbox.fit(source, (644, 476))
        mask = np.zeros((source[1], source[0]), np.uint8)
        mask[: source[1] // 2] = 3
        mask[:, : source[0] // 3] = 7
        there = box.mask_to_network(mask)
        assert there.shape == (476, 644)
        assert (there[box.content[1] :] == 255).all()
        assert (there[:, box.content[0] :] == 255).all()
        back = box.mask_to_source(there)
        assert back.shape == mask.shape
        assert set(np.unique(back)) == {0, 3, 7}
        assert (back == mask).mean() > 0.99


class TestRgb:
    def test_values_by_hand_and_the_filling_is_the_mean_colour(self):
        image = np.empty((8, 14, 3), np.uint8)
        image[:] = (255, 0, 128)
        got = rgb_input(image, Letterbox.fit((14, 8), (14, 14)))
        assert got.dtype == np.float32
        assert got.shape == (3, 14, 14)
        wanted = (np.array([1, 0, 128 / 255]) - IMAGENET_MEAN) / IMAGENET_STD
        for channel in range(3):
            np.testing.assert_allclose(got[channel, :8], wanted[channel], atol=1e-5)
        assert (got[:, 8:] == 0).all()

    def test_a_read_only_view_and_a_strided_one_are_taken(self):
        image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
        box = Letterbox.fit((80, 60), (42, 28))
        wanted = rgb_input(image, box)
        locked = np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape)
        np.testing.assert_array_equal(rgb_input(locked, box), wanted)
        np.testing.assert_array_equal(rgb_input(np.ascontiguousarray(image[..., ::-1])[..., ::-1], box), wanted)

    def test_a_single_pixel_fills_the_image(self):
        got = rgb_input(np.full((1, 1, 3), (255, 0, 128), np.uint8), Letterbox.fit((1, 1), (28, 14)))
        wanted = (np.array([1, 0, 128 / 255]) - IMAGENET_MEAN) / IMAGENET_STD
        np.testing.assert_allclose(got[:, :14, :14], np.broadcast_to(wanted[:, None, None], (3, 14, 14)), atol=1e-5)

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((4, 4), np.uint8),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((4, 4, 3), np.float32),
            np.zeros((0, 4, 3), np.uint8),
        ],
    )
    def test_non_rgb_frames_are_refused(self, image):
        with pytest.raises(FrameError, match="an RGB frame"):
            rgb_input(image, Letterbox.fit((4, 4), (14, 14)))


class TestInfrared:
    def test_it_covers_the_rgb_content_at_any_size(self):
        box = Letterbox.fit((617, 459), (644, 476))
        frame = np.full((120, 160), 60000, np.uint16)
        frame[60:] = 100
        got = infrared_input(frame, box, ThermalNormaliser(ThermalContract(kind="none")))
        assert got.shape == (1, 476, 644)
        assert got.dtype == np.float32
        width, height = box.content
        assert got[0, : height // 2 - 4, :width].min() > 0.9
        assert got[0, height // 2 + 4 : height, :width].max() < 0.01
        assert (got[0, height:] == 0).all()
        assert (got[0, :, width:] == 0).all()

    def test_a_frame_that_does_not_fit_the_contract_is_refused_before_it_is_scaled(self):
        normaliser = ThermalNormaliser(ThermalContract(depths=(16,)))
        with pytest.raises(ThermalError, match="16-bit"):
            infrared_input(np.zeros((12, 16), np.uint8), Letterbox.fit((16, 12), (14, 14)), normaliser)


@pytest.mark.parametrize("size", [(161, 394), (394, 161), (640, 512)])
def test_rgb_is_normalised_as_by_hand_at_any_position(size):
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    box = Letterbox(size, (644, 518), size)  # as it is, in the corner: strided memory
    found = rgb_input(image, box)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    by_hand = ((image / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(found[:, : size[1], : size[0]], by_hand, atol=1e-5)
    assert (found[:, size[1] :] == 0).all()
    assert (found[:, :, size[0] :] == 0).all()
