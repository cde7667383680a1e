"""Detections in the infrared camera's pixels: the inverse registration, and boxes outside its view."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.calibration.registration import Registration
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.runtime.rgb_grid import in_colour_pixels, in_infrared_pixels

IR, RGB = (80, 60), (160, 120)
AFFINE = Registration((1.5, 0, 10, 0, 1.5, 4, 0, 0, 1))
TILTED = Registration((1.6, 0.1, 5, 0.05, 1.7, 3, 0.001, 0.002, 1))


def result(boxes: list[list[float]], mode: Mode, size: tuple[int, int]) -> PerceptionResult:
    count = len(boxes)
    array = np.array(boxes, np.float32).reshape(-1, 4)
    mask = np.zeros((size[1], size[0]), np.uint8)
    return PerceptionResult(array, np.linspace(0.9, 0.5, count, dtype=np.float32), np.arange(count), mask, mode, size)


@pytest.mark.parametrize("registration", [None, AFFINE])
def test_the_inverse_takes_boxes_back(registration):
    boxes = [[10, 12, 30, 40], [0, 0, 5, 6]]
    mapped = in_colour_pixels(result(boxes, Mode.IR_ONLY, IR), registration, RGB)
    fused = result(mapped.boxes.tolist(), Mode.FUSED, RGB)
    back = in_infrared_pixels(fused, registration, IR)
    np.testing.assert_allclose(back.boxes, boxes, atol=1e-4)
    assert (back.size, back.mask) == (IR, None)


def test_a_box_encloses_what_it_enclosed_under_a_tilted_registration():
    points = np.array([[20, 15], [25, 22], [30, 31]], np.float64)
    in_rgb = TILTED.points(points, IR, RGB)
    fused = result([[*(in_rgb.min(0) + 0.5), *(in_rgb.max(0) + 0.5)]], Mode.FUSED, RGB)
    box = in_infrared_pixels(fused, TILTED, IR).boxes[0]
    assert (box[:2] <= points.min(0) + 0.501).all()
    assert (box[2:] >= points.max(0) + 0.499).all()


def test_boxes_are_clipped_and_those_outside_are_omitted():
    fused = result([[150, 100, 160, 120], [0, 0, 20, 20], [0, 0, 9, 120]], Mode.FUSED, RGB)
    found = in_infrared_pixels(fused, AFFINE, IR)
    assert found.labels.tolist() == [1]
    assert found.scores.tolist() == [fused.scores[1]]
    np.testing.assert_allclose(found.boxes[0, :2], [0, 0])


def test_a_box_across_the_horizon_is_omitted():
    steep = Registration((1, 0, 0, 0, 1, 0, 0, 0.01, 1))
    fused = result([[10, 10, 20, 110], [10, 5, 20, 20]], Mode.FUSED, RGB)
    assert in_infrared_pixels(fused, steep, IR).labels.tolist() == [1]


def test_an_infrared_only_result_stays_as_found():
    own = result([[70, 50, 80, 60]], Mode.IR_ONLY, IR)
    assert in_infrared_pixels(own, AFFINE, IR) is own
    none_seen = in_colour_pixels(own, Registration((1.5, 0, 90, 0, 1.5, 0, 0, 0, 1)), RGB)
    assert len(none_seen) == 0
    assert in_infrared_pixels(none_seen, AFFINE, IR) is own
    empty = result([], Mode.IR_ONLY, IR)
    assert in_infrared_pixels(in_colour_pixels(empty, AFFINE, RGB), AFFINE, IR) is empty
