"""Registration of IR to RGB pixels: a homography, and a warp of IR frames to the network's input.

Pixel coordinates are those of OpenCV and ROS: (0, 0) is the centre of the top left pixel, so that an image covers -0.5
to width - 0.5. Resizing an image by s therefore maps x to s (x + 0.5) - 0.5.

Letters: h' x w' the IR image, h x w the target image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

Size = tuple[int, int]
"""(width, height) in pixels."""

MIN_OVERLAP = 0.25
"""Minimum overlap of the two fields of view as a fraction of the smaller one; of the larger one see `_MIN_COVER`."""

_MIN_COVER = 0.02
_ASPECT_TOLERANCE = 0.01
_MIN_DETERMINANT = 1e-8


class RegistrationError(ValueError):
    """A registration is implausible, or not for images of this size; the message names the remedy."""


@dataclass(frozen=True)
class Registration:
    """Homography from IR to RGB pixels.

    Attributes:
        matrix: nine numbers, row by row: maps (x, y, 1) in the IR image to a multiple of (x, y, 1) in the RGB image.
        ir_size, rgb_size: (width, height) of the images that the matrix is for; None: any size.
        source: origin, named in errors: "parameter ir_to_rgb", a file.
    """

    matrix: tuple[float, ...]
    ir_size: Size | None = None
    rgb_size: Size | None = None
    source: str = "ir_to_rgb"

    def __post_init__(self) -> None:
        try:
            matrix = np.asarray(self.matrix, np.float64).reshape(-1)
        except (TypeError, ValueError):
            matrix = np.empty(0)
        if matrix.size != 9:
            raise RegistrationError(f"{self.source}: a homography has nine numbers, row by row, got {self.matrix!r}")
        if not np.isfinite(matrix).all():
            raise RegistrationError(f"{self.source}: the homography has numbers that are not finite: {_format(matrix)}")
        if abs(matrix[8]) <= 1e-9 * np.abs(matrix).max():
            raise RegistrationError(f"{self.source}: the homography maps the image's corner to infinity: check it")
        matrix = matrix / matrix[8]
        for name in ("ir_size", "rgb_size"):
            size = getattr(self, name)
            if size is not None:
                object.__setattr__(self, name, _checked_size(size, f"{self.source}: {name}"))
        determinant = np.linalg.det(matrix.reshape(3, 3))
        if abs(determinant) < _MIN_DETERMINANT:
            raise RegistrationError(
                f"{self.source}: the homography is singular (determinant {determinant:.1e}), it maps the image to a "
                f"line or a point: {_format(matrix)}"
            )
        if determinant < 0:
            raise RegistrationError(
                f"{self.source}: the homography mirrors the image (determinant {determinant:.2g}). If the camera "
                "delivers mirrored images, flip them in its driver; otherwise two points or axes were swapped"
            )
        object.__setattr__(self, "matrix", tuple(float(v) for v in matrix))
        if self.ir_size is not None and self.rgb_size is not None:
            self.for_sizes(self.ir_size, self.rgb_size)

    @classmethod
    def whole(cls, ir_size: Size, rgb_size: Size) -> Registration:
        """Return the mapping of the whole IR image to the whole RGB image, used without a registration."""
        return cls(tuple(resize_matrix(ir_size, rgb_size).reshape(-1)), ir_size, rgb_size, "no registration")

    def for_sizes(self, ir_size: Size, rgb_size: Size) -> np.ndarray:
        """Return the matrix [3, 3] for images of these sizes, which may be scaled versions of the calibrated sizes.

        Raises:
            RegistrationError: an image's aspect ratio differs from the calibrated one by more than 1 %, so that it was
                cropped or is from another camera; or the two images hardly overlap.
        """
        matrix = np.reshape(self.matrix, (3, 3))
        matrix = matrix @ self._from_actual("IR", ir_size, self.ir_size)
        if self.rgb_size is not None:
            matrix = np.linalg.inv(self._from_actual("RGB", rgb_size, self.rgb_size)) @ matrix
        matrix = matrix / matrix[2, 2]
        _check_overlap(matrix, ir_size, rgb_size, self.source)
        return matrix

    def points(self, points: np.ndarray, ir_size: Size, rgb_size: Size) -> np.ndarray:
        """Map points float [N, 2], x and y, from IR to RGB pixels. Raises as `for_sizes`."""
        return transfer(self.for_sizes(ir_size, rgb_size), np.asarray(points, np.float64))

    def _from_actual(self, which: str, actual: Size, calibrated: Size | None) -> np.ndarray:
        if calibrated is None or actual == calibrated:
            return np.eye(3)
        if abs(actual[0] * calibrated[1] / (actual[1] * calibrated[0]) - 1) > _ASPECT_TOLERANCE:
            raise RegistrationError(
                f"{self.source} was calibrated for {which} images of {calibrated[0]}x{calibrated[1]}, these are "
                f"{actual[0]}x{actual[1]}, of another aspect ratio: calibrate again for this size, or set the camera "
                "back"
            )
        return resize_matrix(actual, calibrated)


class Warp:
    """Warp of IR frames of one size to a target of one size: prepared once, applied to every frame.

    If the target is coarser than the IR image, the image is first averaged to the target's scale, so that the bilinear
    warp runs near scale 1 without aliasing. An image of the size `averaged` has been.

    Attributes:
        valid: bool [h, w], pixels of the target that the IR camera sees; None: all.
        averaged: (width, height) of the IR image after averaging.
    """

    def __init__(self, registration: Registration, ir_size: Size, rgb_size: Size, target: Size) -> None:
        """The target is the scaled RGB image. Raises as `Registration.for_sizes`."""
        matrix = resize_matrix(rgb_size, target) @ registration.for_sizes(ir_size, rgb_size)
        scales = np.clip([np.linalg.norm(step) for step in jacobian(matrix, ir_size).T], 0.0, 1.0)
        small = (max(1, round(ir_size[0] * scales[0])), max(1, round(ir_size[1] * scales[1])))
        self.averaged: Size = small
        back = np.linalg.inv(matrix @ resize_matrix(small, ir_size))
        columns, rows = np.arange(target[0], dtype=np.float64), np.arange(target[1], dtype=np.float64)[:, None]
        x, y, w = (back[i, 0] * columns + back[i, 1] * rows + back[i, 2] for i in range(3))
        w = np.where(w > 1e-9, w, np.nan)  # nothing is visible on or behind the horizon
        x, y = x / w, y / w
        with np.errstate(invalid="ignore"):
            # Small tolerance: without a registration the whole target must be valid whatever the rounding.
            edge = 0.5 + 1e-6
            valid = (x >= -edge) & (x <= small[0] - 1 + edge) & (y >= -edge) & (y <= small[1] - 1 + edge)
        self.valid: np.ndarray | None = None if valid.all() else valid
        self._x = np.where(valid, x, 0.0).astype(np.float32)
        self._y = np.where(valid, y, 0.0).astype(np.float32)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Warp counts, uint8 or uint16 [h', w'], to the same type [h, w]; pixels outside `valid` are meaningless."""
        if self.averaged != (frame.shape[1], frame.shape[0]):
            frame = cv2.resize(frame, self.averaged, interpolation=cv2.INTER_AREA)
        # The border is replicated, so that a pixel half outside is not mixed with a fill value.
        return cv2.remap(frame, self._x, self._y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    @staticmethod
    @lru_cache(maxsize=4)
    def of(registration: Registration, ir_size: Size, rgb_size: Size, target: Size) -> Warp:
        """Like the constructor, but cache the last few."""
        return Warp(registration, ir_size, rgb_size, target)


def resize_matrix(before: Size, after: Size) -> np.ndarray:
    """Return the mapping of pixel centres [3, 3] for resizing an image."""
    x, y = after[0] / before[0], after[1] / before[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def transfer(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points [N, 2] through a homography [3, 3]."""
    mapped = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def _corners(size: Size) -> np.ndarray:
    left, top, right, bottom = -0.5, -0.5, size[0] - 0.5, size[1] - 0.5
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def jacobian(matrix: np.ndarray, size: Size) -> np.ndarray:
    """Return the Jacobian [2, 2] of a homography at the image's centre: columns for a step right and a step down."""
    centre = np.array([[(size[0] - 1) / 2, (size[1] - 1) / 2]])
    here, right, down = (transfer(matrix, centre + step)[0] for step in ((0, 0), (1, 0), (0, 1)))
    return np.stack([right - here, down - here], axis=1)


def _overlap(matrix: np.ndarray, ir_size: Size, rgb_size: Size) -> tuple[float, float] | None:
    """Return the overlap as fractions of the smaller and larger field of view; None: the horizon crosses the image."""
    corners = _corners(ir_size)
    if (np.concatenate([corners, np.ones((4, 1))], axis=1) @ matrix[2] <= 1e-6).any():
        return None
    quad, frame = transfer(matrix, corners).astype(np.float32), _corners(rgb_size).astype(np.float32)
    if not np.isfinite(quad).all():
        return None
    area = float(cv2.intersectConvexConvex(quad, frame)[0])
    sizes = float(cv2.contourArea(quad)), float(cv2.contourArea(frame))
    return area / max(min(sizes), 1e-9), area / max(max(sizes), 1e-9)


def _check_overlap(matrix: np.ndarray, ir_size: Size, rgb_size: Size, source: str) -> None:
    found = _overlap(matrix, ir_size, rgb_size)
    if found is not None and found[0] >= MIN_OVERLAP and found[1] >= _MIN_COVER:
        return
    inverse = np.linalg.inv(matrix)
    other = _overlap(inverse / inverse[2, 2], ir_size, rgb_size) if abs(inverse[2, 2]) > 1e-9 else None
    hint = "check that it is in pixels of these image sizes"
    if other is not None and other[0] >= 0.5 and other[1] > 2 * (found[1] if found else 0.0):
        hint = "its inverse fits much better: check that it maps IR to RGB, not RGB to IR"
    sizes = f"IR {ir_size[0]}x{ir_size[1]}, RGB {rgb_size[0]}x{rgb_size[1]}"
    if found is None:
        raise RegistrationError(
            f"{source}: the homography's horizon crosses the IR image ({sizes}), part of it would lie behind the "
            f"camera; {hint}"
        )
    raise RegistrationError(
        f"{source}: the IR and RGB images hardly overlap ({sizes}): {found[0]:.0%} of the smaller and {found[1]:.1%} "
        f"of the larger field of view, at least {MIN_OVERLAP:.0%} and {_MIN_COVER:.0%} are required; {hint}"
    )


def _checked_size(size: Any, name: str) -> Size:
    try:
        whole = int(size[0]), int(size[1])
        if whole != tuple(size) or min(whole) < 1:
            raise ValueError
    except (IndexError, KeyError, TypeError, ValueError, OverflowError):
        raise RegistrationError(f"{name} must be (width, height) in pixels, got {size!r}") from None
    return whole


def _format(matrix: np.ndarray) -> str:
    return "[" + ", ".join(f"{v:.4g}" for v in np.asarray(matrix).reshape(-1)) + "]"
