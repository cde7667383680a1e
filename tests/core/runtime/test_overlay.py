"""Overlays: positions of what is drawn, and an unmodified input."""

from __future__ import annotations

import numpy as np

from spectradino_core.drawing import BOX_COLOURS, infrared_to_grey
from spectradino_core.runtime.overlay import draw_overlay
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from tests.blob_model import blob_info


def make_perception(mask: np.ndarray | None) -> PerceptionResult:
    return PerceptionResult(
        boxes=np.array([[40, 60, 100, 120]], np.float32),
        scores=np.array([0.7], np.float32),
        labels=np.array([1]),
        mask=mask,
        mode=Mode.FUSED,
        size=(160, 140),
    )


def test_boxes_are_drawn_in_place_in_their_class_colour():
    image = np.full((140, 160, 3), 30, np.uint8)
    drawn = draw_overlay(image, make_perception(None), blob_info())
    assert tuple(drawn[90, 40]) == BOX_COLOURS[1]
    assert tuple(drawn[120, 70]) == BOX_COLOURS[1]
    assert (drawn[130:, :30] == 30).all()
    assert (image == 30).all()


def test_mask_is_blended_and_unlabelled_pixels_are_not():
    image = np.full((140, 160, 3), 100, np.uint8)
    mask = np.full((140, 160), 255, np.uint8)
    mask[:20, 130:] = 1  # red in the blob model's palette
    drawn = draw_overlay(image, make_perception(mask), blob_info())
    assert abs(int(drawn[5, 150, 0]) - 154) <= 1
    assert abs(int(drawn[5, 150, 1]) - 65) <= 1
    assert (drawn[135, 150] == 100).all()


def test_a_box_at_the_top_keeps_its_text_inside():
    image = np.zeros((140, 160, 3), np.uint8)
    found = make_perception(None)
    found.boxes[:] = (0, 0, 159, 30)
    assert (draw_overlay(image, found, blob_info())[:12, :40] != 0).any()


def test_maximum_temperatures_follow_the_scores_where_there_are_some():
    image = np.zeros((140, 160, 3), np.uint8)
    found = make_perception(None)
    plain = draw_overlay(image, found, blob_info())
    found.temperatures = np.full((1, 3), np.nan, np.float32)
    np.testing.assert_array_equal(draw_overlay(image, found, blob_info()), plain)
    found.temperatures[:] = 20.0, 21.0, 36.5
    widths = [
        np.flatnonzero((drawn[:60] != 0).any(axis=(0, 2))).max()
        for drawn in (plain, draw_overlay(image, found, blob_info()))
    ]
    assert widths[1] > widths[0] + 20


def test_sixteen_bits_are_stretched_over_their_percentiles():
    ramp = np.linspace(29000, 31000, 100 * 100).reshape(100, 100).astype(np.uint16)
    ramp[0, 0] = 65535  # one hot pixel must not darken the rest
    grey = infrared_to_grey(ramp)
    assert grey.dtype == np.uint8
    assert grey.shape == (100, 100, 3)
    assert grey[98, 50, 0] > 240
    assert grey[2, 50, 0] < 15


def test_dead_pixels_do_not_stretch_the_range():
    frame = np.random.default_rng(0).integers(29_000, 30_000, (128, 160)).astype(np.uint16)
    clean = infrared_to_grey(frame)
    frame[::5, ::4] = 0
    np.testing.assert_allclose(infrared_to_grey(frame)[1:5].mean(), clean[1:5].mean(), atol=3)
