"""Masks and boxes on images: what is painted, and that texts stay inside."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.drawing import draw_box, encoded, infrared_to_grey, with_mask

GREY = (100, 100, 100)
RED = (255, 0, 0)


def canvas(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def test_background_and_unlabelled_pixels_are_not_painted() -> None:
    """A class whose colour is black is the background: to tint it would darken the image."""
    mask = np.array([[0, 1, 255]], np.uint8)
    painted = with_mask(canvas(3, 1), mask, [(0, 0, 0), RED])
    assert painted[0, 0].tolist() == painted[0, 2].tolist() == list(GREY)
    assert painted[0, 1, 0] > 100 > painted[0, 1, 1]


@pytest.mark.parametrize(
    ("box", "below"),
    [((70, 30, 79, 50), False), ((70, 50, 79, 59), True), ((-5, 0, 5, 10), False), ((2, 2, 9, 9), True)],
)
def test_text_of_a_box_stays_inside(box: tuple[int, int, int, int], below: bool) -> None:
    """Letters have as many pixels at a border as in the middle."""

    def letters(width: int, height: int, box: tuple[int, int, int, int]) -> int:
        image = canvas(width, height)
        draw_box(image, box, RED, "car 0.95", thickness=1, below=below)
        return int(((image != RED).any(axis=2) & (image != GREY).any(axis=2)).sum())

    assert letters(80, 60, box) == letters(200, 200, (100, 100, 101, 101)) > 50


def test_tiny_images() -> None:
    image = canvas(1, 1)
    draw_box(image, (0, 0, 1, 1), RED, "person 0.5")
    assert with_mask(image, np.zeros((1, 1), np.uint8), [RED]).shape == (1, 1, 3)
    assert infrared_to_grey(np.zeros((1, 1), np.uint16)).shape == (1, 1, 3)


@pytest.mark.parametrize(("size", "ending"), [((70_000, 1), ".jpg"), ((0, 4), ".png"), ((4, 4), ".nothing")])
def test_images_that_a_format_cannot_hold_are_refused(size: tuple[int, int], ending: str) -> None:
    with pytest.raises(ValueError, match=f"{size[1]}x{size[0]} can't be stored"):
        encoded(np.zeros((*size, 3), np.uint8), ending)
