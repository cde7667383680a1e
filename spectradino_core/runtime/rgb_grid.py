"""Map IR-only results and IR images to the RGB image's pixels, so that topics keep one pixel grid, and results back."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from spectradino_core.calibration.registration import Registration, Size
from spectradino_core.runtime.perception_result import Mode, PerceptionResult

_UNLABELLED = 255


def in_colour_pixels(
    result: PerceptionResult, registration: Registration | None, size: Size, shift_px: float = 0.0
) -> PerceptionResult:
    """Map an IR-only result to an RGB image of `size`; other results are returned unchanged.

    A box becomes the bounding box of its four mapped corners, clipped to the RGB image; it is dropped if that is empty,
    since the RGB camera does not see it. Mask pixels that the IR camera does not see are unlabelled. Without a
    registration the IR image covers the whole RGB image; `shift_px` is the registration's error to the right.

    Raises:
        RegistrationError: the registration is not for images of these sizes.
    """
    if result.mode is not Mode.IR_ONLY or result.registered:
        return result
    registration = registration or Registration.whole(result.size, size)
    matrix = shift_right(shift_px) @ registration.for_sizes(result.size, size)
    boxes, inside = _mapped(result.boxes, matrix, size)
    mask = result.mask
    if mask is not None:
        mask = cv2.warpPerspective(
            mask, matrix, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=_UNLABELLED
        )
    return replace(
        result.selected(inside), boxes=boxes[inside], mask=mask, size=size, registered=True, native=result,
        of_native=inside,
    )  # fmt: skip


def in_infrared_pixels(result: PerceptionResult, registration: Registration | None, size: Size) -> PerceptionResult:
    """Map the detections of a result to an IR frame of `size` by the inverse registration; the mask is dropped.

    Boxes become bounding boxes as in `in_colour_pixels`, which also has the errors. An IR-only result is returned as
    the network found it.
    """
    if result.mode is Mode.IR_ONLY:
        return result if result.native is None else result.native
    boxes, inside = boxes_in_infrared_pixels(result, registration, size)
    return replace(result.selected(inside), boxes=boxes[inside], mask=None, size=size)


def boxes_in_infrared_pixels(
    result: PerceptionResult, registration: Registration | None, size: Size
) -> tuple[np.ndarray, np.ndarray]:
    """Map the boxes of a result, not yet mapped to RGB pixels, to the IR frame's; see `in_infrared_pixels`.

    Returns:
        Boxes float32 [K, 4], and bool [K]: which of them the IR camera sees; the others are meaningless.
    """
    if result.mode is Mode.IR_ONLY:
        return result.boxes, np.ones(len(result), bool)
    registration = registration or Registration.whole(size, result.size)
    return _mapped(result.boxes, np.linalg.inv(registration.for_sizes(size, result.size)), size)


def _mapped(boxes: np.ndarray, matrix: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounding boxes [K, 4], clipped to an image of `size`, of mapped corners, and which are inside [K]."""
    boxes = boxes.astype(np.float64).reshape(-1, 4)
    # Box edges are pixel borders, the matrix maps pixel centres: half a pixel apart.
    corners = np.stack([boxes[:, [0, 1]], boxes[:, [2, 1]], boxes[:, [2, 3]], boxes[:, [0, 3]]], axis=1) - 0.5
    mapped = np.concatenate([corners, np.ones((len(boxes), 4, 1))], axis=2) @ matrix.T
    in_front = (mapped[..., 2] > 1e-9).all(axis=1)  # beyond the horizon a box has no bounds
    mapped = mapped[..., :2] / np.where(in_front[:, None, None], mapped[..., 2:], 1.0) + 0.5
    low = np.clip(mapped.min(axis=1), 0, size)
    high = np.clip(mapped.max(axis=1), 0, size)
    inside = in_front & (high > low).all(axis=1)
    return np.concatenate([low, high], axis=1).astype(np.float32), inside


def shift_right(pixels: float) -> np.ndarray:
    """Return the homography [3, 3] that shifts RGB pixels to the right."""
    return np.array([[1.0, 0.0, pixels], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def infrared_in_colour_pixels(image: np.ndarray, registration: Registration, size: Size) -> np.ndarray:
    """Warp an IR image [h', w', ...] to the pixels of an RGB image of `size`; black elsewhere."""
    matrix = registration.for_sizes((int(image.shape[1]), int(image.shape[0])), size)
    return cv2.warpPerspective(image, matrix, size)
