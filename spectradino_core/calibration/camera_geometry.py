"""Compute a registration from nine numbers, or from both cameras' CameraInfo, extrinsics and a plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from spectradino_core.calibration.registration import Registration, RegistrationError, Size

_GRID = 32
_DISTORTION = {"": None, "plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}
_LENGTHS = (4, 5, 8, 12, 14)
"""Numbers of distortion coefficients that OpenCV accepts."""
_FIELDS = {"d": None, "k": 9, "r": 9, "p": 12}
"""Length of the numeric fields of CameraInfo; None: any."""


class CameraInfoMessage(Protocol):
    """Fields of sensor_msgs/CameraInfo that are used; binning and roi are optional."""

    height: int
    width: int
    distortion_model: str
    d: Sequence[float]
    k: Sequence[float]
    r: Sequence[float]
    p: Sequence[float]


class PlaneRegistration(NamedTuple):
    """Registration through a plane, and its maximum distance in RGB pixels from the true mapping of the plane."""

    registration: Registration
    residual_px: float


def registration_from_camera_infos(
    rgb: CameraInfoMessage,
    ir: CameraInfoMessage,
    rotation: Sequence[float] | np.ndarray,
    translation: Sequence[float] | np.ndarray,
    distance_m: float,
    normal: Sequence[float] = (0.0, 0.0, 1.0),
    rectified: bool = False,
    origin: str = "camera_info",
) -> PlaneRegistration:
    """Compute the homography between two calibrated cameras that look at a plane.

    A scene point has the coordinates X_ir in the IR camera's optical frame and X_rgb = R X_ir + t in the RGB camera's,
    the transform of tf2's `lookup_transform(rgb_frame, ir_frame)`. On the plane n·X_ir = d (d metres from the IR camera
    along the unit normal n) this is (R + t nᵀ / d) X_ir. Pixels are x = K X up to scale, therefore
    H = K_rgb (R + t nᵀ / d) K_ir⁻¹ maps IR pixels to RGB pixels. Objects off the plane have a parallax of about
    f_rgb |t| |1/z - 1/d| RGB pixels at depth z.

    A homography cannot undo lens distortion. If a camera has distortion, the best-fitting homography (least squares
    over the common field of view) is returned; its residual shows whether it suffices or images should be rectified.

    Args:
        rgb, ir: CameraInfo of the cameras; binning and region of interest are taken into account.
        rotation: R, nine numbers row by row (or [3, 3]), or a quaternion x y z w as in messages.
        translation: t in metres.
        distance_m: d, > 0; infinity: only the rotation counts.
        normal: n, of any length, in the IR camera's frame; the default faces the camera.
        rectified: the images come from image_proc's `image_rect`: P and the rectifying rotation R of the messages are
            used, without distortion.
        origin: where cameras and extrinsics come from, for logs and errors.

    Raises:
        RegistrationError: a camera is not calibrated, its distortion model is unknown, the rotation is invalid, the
            plane lies behind the camera, or the result is implausible (see `Registration`).
    """
    rgb_camera, ir_camera = _CameraModel.of(rgb, "rgb", rectified), _CameraModel.of(ir, "ir", rectified)
    moved, plane = _checked_vector(translation, "translation"), _checked_vector(normal, "normal")
    length = float(np.linalg.norm(plane))
    if not distance_m > 0 or length < 1e-9:
        raise RegistrationError(
            f"the plane must lie in front of the camera: distance {distance_m:g} m (must be > 0), normal "
            f"{list(normal)} (must not be 0)"
        )
    between = rotation_matrix(rotation) + np.outer(moved, plane / length) / distance_m
    between = rgb_camera.rectifying @ between @ ir_camera.rectifying.T
    ideal = rgb_camera.k @ between @ np.linalg.inv(ir_camera.k)
    sizes = ir_camera.size, rgb_camera.size
    source = f"{origin} and a plane at {distance_m:g} m"
    registration = Registration(tuple(ideal.reshape(-1)), *sizes, source)
    if not rgb_camera.distorted and not ir_camera.distorted:
        return PlaneRegistration(registration, 0.0)
    seen, truth = _true_points(rgb_camera, ir_camera, between)
    if len(seen) < 16:
        raise RegistrationError(f"{source}: the two fields of view hardly overlap: check the extrinsics")
    fitted, _ = cv2.findHomography(seen, truth, 0)
    if fitted is None:
        raise RegistrationError(f"{source}: no homography fits the distorted images: use rectified images")
    registration = Registration(tuple(fitted.reshape(-1)), *sizes, source)
    residual = np.linalg.norm(registration.points(seen, *sizes) - truth, axis=1).max()
    return PlaneRegistration(registration, float(residual))


def rotation_matrix(rotation: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return a rotation [3, 3] from nine numbers row by row, or a quaternion x y z w; raises `RegistrationError`."""
    values = np.asarray(rotation, np.float64).reshape(-1)
    if values.size == 4 and np.isfinite(values).all() and np.linalg.norm(values) > 1e-6:
        x, y, z, w = values / np.linalg.norm(values)
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
    if values.size == 9 and np.isfinite(values).all():
        matrix = values.reshape(3, 3)
        if np.abs(matrix @ matrix.T - np.eye(3)).max() < 1e-3 and np.linalg.det(matrix) > 0:
            return matrix
    raise RegistrationError(
        "the rotation must be nine numbers of a rotation matrix, row by row, or a quaternion x y z w, got "
        f"{values.tolist()}"
    )


@dataclass(frozen=True)
class _CameraModel:
    """Size, K [3, 3], rectifying rotation [3, 3], and distortion with as many coefficients as OpenCV accepts."""

    size: Size
    k: np.ndarray
    rectifying: np.ndarray
    model: str
    d: np.ndarray

    @classmethod
    def of(cls, info: CameraInfoMessage, name: str, rectified: bool) -> _CameraModel:
        # Only the fields in use are checked: an uncalibrated P next to a valid K does not matter for raw images.
        used = "p" if rectified else "k"
        given = {field: _field(info, field, name) for field in ((used, "r") if rectified else (used, "d"))}
        k = given[used].reshape(3, 4 if rectified else 3)[:, :3].copy()
        d = given.get("d", np.zeros(0))
        if not (k[0, 0] > 0 and k[1, 1] > 0 and k[2, 2] == 1):
            raise _uncalibrated(name, f"{used} of its camera_info is {k.reshape(-1).tolist()}")
        model = "" if rectified else info.distortion_model
        if model not in _DISTORTION:
            raise RegistrationError(
                f"the {name} camera's distortion model {model!r} is not one of "
                f"{', '.join(m for m in _DISTORTION if m)}: use rectified images"
            )
        max_coefficients = _DISTORTION[model]
        if max_coefficients is not None and d.size > (14 if max_coefficients == 8 else max_coefficients):
            raise _wrong(
                name, "d", f"has {d.size} distortion coefficients, more than {model} has: check distortion_model"
            )
        if max_coefficients is not None:
            d = np.pad(d, (0, next(length for length in _LENGTHS if length >= d.size) - d.size))
        width, height = int(info.width), int(info.height)
        if width < 1 or height < 1:
            raise RegistrationError(
                f"the {name} camera's camera_info has no image size: width and height are {width} and {height}; the "
                "driver must set both"
            )
        roi = getattr(info, "roi", None)
        if roi is not None and roi.width and roi.height:
            right, bottom = int(roi.x_offset) + int(roi.width), int(roi.y_offset) + int(roi.height)
            if right > width or bottom > height:
                where = f"ends at {right}x{bottom}, outside its image of {width}x{height}"
                raise _wrong(name, "roi", f"{where}: the driver must set consistent fields")
            k[0, 2] -= roi.x_offset
            k[1, 2] -= roi.y_offset
            width, height = int(roi.width), int(roi.height)
        for axis, field in enumerate(("binning_x", "binning_y")):
            by = max(1, int(getattr(info, field, 0)))
            if by > (width, height)[axis]:
                much = f"is {by}, more than the pixels of its image of {width}x{height}"
                raise _wrong(name, field, f"{much}: the driver must set the factor, or 0")
            k[axis] /= by
            k[axis, 2] += (1 / by - 1) / 2  # the centre of a binned pixel
            width, height = (width // by, height) if axis == 0 else (width, height // by)
        rotation = np.eye(3)
        if np.any(given.get("r", 0.0)):
            try:
                rotation = rotation_matrix(given["r"])
            except RegistrationError as error:
                raise _wrong(name, "r", f"is not usable: {error}") from None
        return cls((width, height), k, rotation, model, d)

    @property
    def distorted(self) -> bool:
        return bool(self.model) and bool(np.any(self.d))

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Convert pixels [N, 2] to directions [N, 2] on the plane z = 1."""
        if not len(pixels):
            return pixels
        if not self.distorted:
            return (pixels - self.k[:2, 2]) / np.array([self.k[0, 0], self.k[1, 1]])
        if self.model == "equidistant":
            return cv2.fisheye.undistortPoints(pixels[:, None], self.k, self.d)[:, 0]
        return cv2.undistortPoints(pixels[:, None], self.k, self.d)[:, 0]

    def project(self, rays: np.ndarray) -> np.ndarray:
        """Project directions [N, 2] on the plane z = 1 to pixels [N, 2]."""
        if not len(rays):
            return rays
        if not self.distorted:
            return rays * np.array([self.k[0, 0], self.k[1, 1]]) + self.k[:2, 2]
        if self.model == "equidistant":
            return cv2.fisheye.distortPoints(rays[:, None], self.k, self.d)[:, 0]
        points = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
        return cv2.projectPoints(points, np.zeros(3), np.zeros(3), self.k, self.d)[0][:, 0]


def _field(info: CameraInfoMessage, field: str, name: str) -> np.ndarray:
    count = _FIELDS[field]
    values = np.asarray(getattr(info, field), np.float64).reshape(-1)
    if count is not None and values.size != count:
        raise _wrong(name, field, f"has {values.size} numbers, not {count}")
    if not np.isfinite(values).all():
        raise _uncalibrated(name, f"{field} of its camera_info has numbers that are not finite: {values.tolist()}")
    return values


def _wrong(name: str, field: str, what: str) -> RegistrationError:
    return RegistrationError(f"{field} of the {name} camera's camera_info {what}")


def _uncalibrated(name: str, reason: str) -> RegistrationError:
    return RegistrationError(
        f"the {name} camera is not calibrated: {reason}. Calibrate it (camera_calibration) or give the nine numbers of "
        "ir_to_rgb"
    )


def _true_points(rgb: _CameraModel, ir: _CameraModel, between: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a grid of IR pixels [N, 2] and their true RGB pixels [N, 2], of those inside the RGB image."""
    columns, rows = np.meshgrid(np.linspace(0, ir.size[0] - 1, _GRID), np.linspace(0, ir.size[1] - 1, _GRID))
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=1)
    rays = ir.rays(pixels)
    # Outside the range of its calibration a distortion model folds: such pixels do not map back to themselves.
    good = np.isfinite(rays).all(axis=1)
    good[good] &= np.linalg.norm(ir.project(rays[good]) - pixels[good], axis=1) < 0.5
    pixels, rays = pixels[good], rays[good]
    there = np.concatenate([rays, np.ones((len(rays), 1))], axis=1) @ between.T
    before = there[:, 2] > 1e-6
    pixels, there = pixels[before], there[before]
    seen = there[:, :2] / there[:, 2:]
    truth = rgb.project(seen)
    size = np.array(rgb.size)
    inside = np.isfinite(truth).all(axis=1) & (truth > -0.5).all(axis=1) & (truth < size - 0.5).all(axis=1)
    inside[inside] &= np.linalg.norm(rgb.rays(truth[inside]) - seen[inside], axis=1) < 1e-3
    return pixels[inside], truth[inside]


def _checked_vector(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    vector = np.asarray(values, np.float64).reshape(-1)
    if vector.size != 3 or not all(math.isfinite(v) for v in vector):
        raise RegistrationError(f"the {name} must be three finite numbers, got {list(values)}")
    return vector
