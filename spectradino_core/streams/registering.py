"""Registration in use: from a parameter, a calibration file or both cameras' CameraInfo."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from spectradino_core.calibration.camera_geometry import (
    CameraInfoMessage,
    registration_from_camera_infos,
    rotation_matrix,
)
from spectradino_core.calibration.registration import Registration, RegistrationError, Size
from spectradino_core.calibration.static_transforms import StaticTransforms
from spectradino_core.streams.calibration_file import load_calibration
from spectradino_core.streams.decode import DecodeError, check_crop
from spectradino_core.streams.settings import ParameterError, Settings, parameter
from spectradino_core.streams.topics import CAMERA_INFO, TF_STATIC

_EXTRINSICS = ("extrinsic_rotation", "extrinsic_translation")
_OF_CAMERA_INFO = (*_EXTRINSICS, "extrinsics_from_tf", "plane_distance_m", "images_rectified")


class Registering:
    """Registration in use from configuration to clean-up.

    `take` and `take_transforms` are not thread-safe; attributes may be read from any thread.

    Attributes:
        current: IR to RGB pixels; None: the IR image is stretched over the whole RGB image, or none is known yet, see
            `pending`.
        residual_px: error of the homography in RGB pixels: the median in the calibration file, or the maximum distance
            from the camera models in CameraInfo; None: unknown.
        time_offset_ms: time offset of the calibration file; None: it has none.
        from_camera_info: whether the registration is computed from CameraInfo, see `take`.
        from_tf: whether its extrinsics come from /tf_static, see `take_transforms`.
        rgb_frame_id: frame_id of the newest RGB image or CameraInfo; "" before the first.

    Raises:
        ParameterError: two parameters give a registration, or its extrinsics.
        RegistrationError: it is invalid, or the calibration file can't be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rgb_size: Size | None = None
        self.rgb_frame_id = ""
        self._infos: dict[str, CameraInfoMessage] = {}
        self.current: Registration | None = None
        self.residual_px: float | None = None
        self.time_offset_ms: float | None = None
        self.from_camera_info = settings.registration_from_camera_info
        self.from_tf = self.from_camera_info and settings.extrinsics_from_tf
        self._transforms = StaticTransforms()
        self._extrinsics: tuple[np.ndarray, np.ndarray] | None = None
        self._no_extrinsics = ""
        given = {
            "ir_to_rgb": any(settings.ir_to_rgb),
            "calibration_file": bool(settings.calibration_file),
            "registration_from_camera_info": self.from_camera_info,
        }
        sources = [f"'{name}'" for name, is_given in given.items() if is_given]
        if len(sources) > 1:
            raise ParameterError(f"parameters {' and '.join(sources)} each give a registration: keep one of them")
        if given["ir_to_rgb"]:
            self.current = Registration(settings.ir_to_rgb, source="parameter ir_to_rgb")
        elif given["calibration_file"]:
            calibration = load_calibration(os.path.expanduser(settings.calibration_file))
            self.current, self.residual_px = calibration.registration, calibration.residual_px
            self.time_offset_ms = calibration.time_offset_ms
        elif self.from_tf:
            if others := [f"'{name}'" for name in _EXTRINSICS if self._is_set(name)]:
                raise ParameterError(
                    f"parameters 'extrinsics_from_tf' and {' and '.join(others)} each give the extrinsics: keep one"
                )
        elif self.from_camera_info:
            rotation_matrix(settings.extrinsic_rotation)  # checked now, not with the first message

    def _is_set(self, name: str) -> bool:
        return bool(getattr(self._settings, name) != parameter(name).default)

    def note_rgb(self, size: Size, frame_id: str) -> None:
        """Record (width, height) and frame_id of an RGB image; thread-safe."""
        self._rgb_size, self.rgb_frame_id = size, frame_id

    @property
    def rgb_size(self) -> Size | None:
        """RGB image size for results of the IR camera alone in RGB pixels; None: it or the registration is unknown."""
        current = self.current
        return None if current is None else self._rgb_size or current.rgb_size

    @property
    def pending(self) -> bool:
        """Whether pairs can't be registered yet, because CameraInfo or a transform is missing or unusable."""
        return self.from_camera_info and self.current is None

    @property
    def missing(self) -> list[str]:
        """Cameras, "rgb" and "ir", whose CameraInfo has not arrived."""
        return [key for key in CAMERA_INFO if self.from_camera_info and key not in self._infos]

    @property
    def without_effect(self) -> list[str]:
        """Names of parameters that are set but have no effect without CameraInfo."""
        if self.from_camera_info:
            return []
        return [name for name in _OF_CAMERA_INFO if self._is_set(name)]

    def take(self, key: str, info: CameraInfoMessage) -> bool:
        """Take the CameraInfo of "rgb" or "ir" and compute the registration once both and their extrinsics are known.

        Returns whether there is a new registration; a message equal to the previous one is ignored.

        Raises:
            RegistrationError: no registration can be computed; raised once per changed message.
        """
        known = self._infos.get(key)
        if known is not None and _is_same(known, info) and not (self.from_tf and _frame_id(known) != _frame_id(info)):
            return False
        self._infos[key] = info
        if key == "rgb" and not self.rgb_frame_id:
            self.rgb_frame_id = _frame_id(info)
        if self.missing:
            return False
        if self.from_tf:
            self._look_up()
        return self._compute()

    def take_transforms(self, transforms: Iterable[Any]) -> bool:
        """Take geometry_msgs/TransformStamped of /tf_static and compute the registration if the cameras' changed.

        Returns whether there is a new registration.

        Raises:
            RegistrationError: no registration can be computed from the CameraInfo with the new extrinsics.
        """
        if not self._transforms.take(transforms) or not self.from_tf or self.missing:
            return False
        before = self._extrinsics
        self._look_up()
        now = self._extrinsics
        if before is not None and now is not None and all(map(np.array_equal, before, now)):
            return False
        return self._compute()

    def _look_up(self) -> None:
        """Compose the extrinsics from the transforms, or note why that is not possible."""
        frames = {key: _frame_id(info) for key, info in self._infos.items()}
        self._extrinsics, self._no_extrinsics = None, ""
        try:
            if empty := [CAMERA_INFO[key] for key in CAMERA_INFO if not frames[key]]:
                raise RegistrationError(
                    f"no transform between the cameras: {' and '.join(empty)} has no frame_id; the driver sets it"
                )
            self._extrinsics = self._transforms.between(frames["rgb"], frames["ir"])
        except RegistrationError as error:
            self._no_extrinsics = str(error)

    def _compute(self) -> bool:
        """Compute the registration of both CameraInfo; returns False if the extrinsics are not known."""
        registration, residual_px, settings = None, None, self._settings
        rotation, translation = self._extrinsics or (settings.extrinsic_rotation, settings.extrinsic_translation)
        try:
            if not self._no_extrinsics:
                origin = f"camera_info, {TF_STATIC}" if self.from_tf else "camera_info"
                rgb, ir, distance_m = self._infos["rgb"], self._infos["ir"], settings.plane_distance_m
                made = registration_from_camera_infos(
                    rgb, ir, rotation, translation, distance_m, rectified=settings.images_rectified, origin=origin
                )
                registration, residual_px = _of_part(made.registration, settings.decoding.ir_crop), made.residual_px
        finally:  # also without a new one: the old registration belongs to other calibrations
            self.current, self.residual_px = registration, residual_px
        return registration is not None

    def check(self) -> Registration | None:
        """Return the registration for a pair; another thread may be in `take`.

        Raises:
            RegistrationError: the registration is pending; the message names the missing topics or frames.
        """
        current = self.current  # once: it may change meanwhile
        if current is not None or not self.from_camera_info:
            return current
        missing = " and ".join(CAMERA_INFO[key] for key in self.missing)
        if self._no_extrinsics and not missing:
            raise RegistrationError(
                f"{self._no_extrinsics}. extrinsics_from_tf needs this transform: publish it (robot_state_publisher, "
                "static_transform_publisher), or set extrinsic_rotation and extrinsic_translation instead"
            )
        raise RegistrationError(
            f"{f'no message on {missing} yet' if missing else 'the camera_info can not be used'}, but "
            "registration_from_camera_info needs both: publish both cameras' camera_info, or set ir_to_rgb or "
            "calibration_file instead"
        )

    def describe(self) -> str:
        """Describe source, sizes and residual, for logs and diagnostics."""
        if self.pending:
            waits_for = " and ".join(CAMERA_INFO[key] for key in self.missing)
            reason = f"the extrinsics: {self._no_extrinsics}" if self._no_extrinsics else "good camera_info"
            return f"waits for {waits_for or reason}"
        if self.current is None:
            return "none: the infrared image is stretched over the whole RGB image"
        text = self.current.source
        if (ir := self.current.ir_size) is not None and (rgb := self.current.rgb_size) is not None:
            text += f", for {ir[0]}x{ir[1]} on {rgb[0]}x{rgb[1]}"
        return text if self.residual_px is None else f"{text}, residual {self.residual_px:.2f} px"


def _frame_id(info: CameraInfoMessage) -> str:
    return str(getattr(getattr(info, "header", None), "frame_id", ""))


def _of_part(registration: Registration, crop: tuple[int, int, int, int]) -> Registration:
    """Return the registration of the cropped IR image; CameraInfo describes the whole image."""
    if not any(crop) or registration.ir_size is None:
        return registration
    width, height = registration.ir_size
    try:
        top, bottom, left, right = check_crop(height, width, crop)
    except DecodeError as error:
        raise RegistrationError(f"{error}") from None
    to_whole = np.array([[1.0, 0.0, left], [0.0, 1.0, top], [0.0, 0.0, 1.0]])
    matrix = np.reshape(registration.matrix, (3, 3)) @ to_whole
    size = (right - left, bottom - top)
    return Registration(tuple(matrix.ravel()), size, registration.rgb_size, registration.source)


def _is_same(a: Any, b: Any) -> bool:
    return (
        (a.width, a.height, a.distortion_model) == (b.width, b.height, b.distortion_model)
        and all(np.array_equal(x, y, equal_nan=True) for x, y in ((a.k, b.k), (a.p, b.p), (a.r, b.r), (a.d, b.d)))
        and (a.binning_x, a.binning_y, a.roi) == (b.binning_x, b.binning_y, b.roi)
    )
