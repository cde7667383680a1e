"""Compensation of camera motion for an infrared frame that is reused: where it lies in a later RGB image.

A turning camera shifts the whole image: at 40 degrees a second by 40 pixels within 100 ms. The shift is measured
between the RGB image that the infrared frame was first used with, the nearest in time unless that one was dropped for
overload, and the present one.

Letters: h x w the RGB image.
"""

from __future__ import annotations

import cv2
import numpy as np

from spectradino_core.calibration.registration import Registration, Size

_WIDTH = 160
_MIN_SHIFT_PX = 1.5
"""Smaller motions are not compensated: reusing the cached infrared features is worth more than a shift of a pixel."""
_MAX_FRACTION = 0.25  # of the image's width: a larger shift within a quarter of a second is an error
_MAX_ASPECT = 8  # of the image's sides: a strip has no shift to measure, and its small image would be large
_MIN_RESPONSE = 0.03
"""Minimum height of the correlation peak: 0.2 to 0.6 for one scene, below 0.02 for unrelated images."""


def small_grey(rgb: np.ndarray) -> np.ndarray:
    """Return the logarithm of an RGB image's green channel, float32 [h', 160]: dark and bright scenes count alike."""
    height, width = rgb.shape[:2]
    step = max(1, width // (2 * _WIDTH))
    size = (_WIDTH, max(2, round(_WIDTH * height / width)))
    small = cv2.resize(rgb[::step, ::step, 1], size, interpolation=cv2.INTER_AREA)
    return np.log1p(small.astype(np.float32))


def global_shift(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """Measure how far the content of an image of `small_grey` moved, by phase correlation.

    Returns:
        Shift to the right and down in pixels of these images, and the height of the correlation peak, 0..1.
    """
    window = cv2.createHanningWindow((before.shape[1], before.shape[0]), cv2.CV_32F)
    (x, y), response = cv2.phaseCorrelate(before, after, window)
    return x, y, response


class MotionCompensation:
    """Shifts the registration of a reused infrared frame by the motion since its first use. Not thread-safe."""

    def __init__(self) -> None:
        self._key: object | None = None
        self._first = np.empty((0, 0), np.float32)

    def __call__(
        self, rgb: np.ndarray, ir_size: Size, ir_key: object, registration: Registration | None
    ) -> Registration | None:
        """Return the registration for an RGB image uint8 [h, w, 3] and the infrared frame that `ir_key` identifies.

        `registration` is that of a camera that stands still; None: over the whole RGB image.

        Raises:
            RegistrationError: the registration is not for images of these sizes.
        """
        height, width = rgb.shape[:2]
        if not 1 / _MAX_ASPECT <= height / width <= _MAX_ASPECT:
            return registration
        small = small_grey(rgb)
        if ir_key is not self._key or small.shape != self._first.shape:
            self._key, self._first = ir_key, small
            return registration
        x, y, response = global_shift(self._first, small)
        x, y = x * width / small.shape[1], y * height / small.shape[0]
        if response < _MIN_RESPONSE or not _MIN_SHIFT_PX <= float(np.hypot(x, y)) <= _MAX_FRACTION * width:
            return registration
        still = registration or Registration.whole(ir_size, (width, height))
        matrix = np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]]) @ still.for_sizes(ir_size, (width, height))
        return Registration(tuple(matrix.reshape(-1)), ir_size, (width, height), f"{still.source}, camera motion")
