"""What the infrared camera alone finds, and its image, in the RGB image's pixels: topics keep one pixel grid."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from spectradino_core.calibration.registration import Registration, Size
from spectradino_core.runtime.perception_result import Mode, PerceptionResult

__all__ = ["in_colour_pixels", "infrared_in_colour_pixels", "shift_right"]

_UNLABELLED = 255


def in_colour_pixels(
    percepts: PerceptionResult, registration: Registration | None, size: Size, shift_px: float = 0.0
) -> PerceptionResult:
    """An answer of the infrared camera alone, brought to the RGB image's pixels; others are returned as they are.

    A box becomes the bounding box of its four corners, cut to the colour image; where that is empty it goes, since the
    RGB camera does not see the place. Pixels of the mask that the infrared camera does not see are unlabelled.

    Args:
        percepts: the answer.
        registration: infrared to colour pixels; None: the infrared image over the whole colour one.
        size: (width, height) of the colour image.
        shift_px: how far to the right the registration is off, in colour pixels.

    Raises:
        RegistrationError: the registration is not for images of these sizes.
    """
    if percepts.mode is not Mode.IR_ONLY or percepts.registered:
        return percepts
    registration = registration or Registration.whole(percepts.size, size)
    matrix = shift_right(shift_px) @ registration.for_sizes(percepts.size, size)
    boxes = percepts.boxes.astype(np.float64).reshape(-1, 4)
    # Edges of boxes are pixel borders, the matrix maps pixel centres: half a pixel between the two.
    corners = np.stack([boxes[:, [0, 1]], boxes[:, [2, 1]], boxes[:, [2, 3]], boxes[:, [0, 3]]], axis=1) - 0.5
    mapped = np.concatenate([corners, np.ones((len(boxes), 4, 1))], axis=2) @ matrix.T
    mapped = mapped[..., :2] / mapped[..., 2:] + 0.5
    low = np.clip(mapped.min(axis=1), 0, size)
    high = np.clip(mapped.max(axis=1), 0, size)
    inside = (high > low).all(axis=1)
    mask = percepts.mask
    if mask is not None:
        mask = cv2.warpPerspective(
            mask, matrix, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=_UNLABELLED
        )
    return replace(
        percepts,
        boxes=np.concatenate([low, high], axis=1)[inside].astype(np.float32),
        scores=percepts.scores[inside],
        labels=percepts.labels[inside],
        mask=mask,
        size=size,
        registered=True,
    )


def shift_right(pixels: float) -> np.ndarray:
    """The homography [3, 3] that moves colour pixels to the right."""
    return np.array([[1.0, 0.0, pixels], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def infrared_in_colour_pixels(image: np.ndarray, registration: Registration, size: Size) -> np.ndarray:
    """An infrared image [h', w', ...] laid where it belongs in an RGB image of `size` (width, height); black elsewhere.

    Raises:
        RegistrationError: the registration is not for images of these sizes.
    """
    matrix = registration.for_sizes((int(image.shape[1]), int(image.shape[0])), size)
    return cv2.warpPerspective(image, matrix, size)
