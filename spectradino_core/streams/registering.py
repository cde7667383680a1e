"""Which registration is in force: of a parameter, of a calibration file, or made from both cameras' CameraInfo."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from spectradino_core.calibration.camera_geometry import (
    CameraInfoMessage,
    registration_from_camera_infos,
    registration_from_numbers,
    rotation_matrix,
)
from spectradino_core.calibration.registration import Registration, RegistrationError, Size
from spectradino_core.streams.calibration_file import load_calibration
from spectradino_core.streams.image_message import DecodeError
from spectradino_core.streams.infrared import check_crop
from spectradino_core.streams.settings import ParameterError, Settings, parameter
from spectradino_core.streams.topics import CAMERA_INFO

__all__ = ["Registering"]

_OF_CAMERA_INFO = ("extrinsic_rotation", "extrinsic_translation", "plane_distance_m", "images_rectified")


class Registering:
    """The registration from configuration to clean-up. `take` is for one thread; the rest may be read from any.

    Attributes:
        current: infrared to colour pixels; None: the infrared image is laid over the whole colour one, or none is known
            yet, see `pending`.
        residual_px: how far the homography is off, in colour pixels: what the calibration file says (a median), or the
            largest distance from what the camera_info tell; None: not known.
        time_offset_ms: what the calibration file says of the infrared camera's clock; None: nothing.
        from_camera_info: whether it is made from what `take` is given.
        rgb_frame_id: the RGB camera's frame, from its newest image or CameraInfo; "" while neither has come.
    """

    def __init__(self, settings: Settings) -> None:
        """
        Args:
            settings: say where it comes from.

        Raises:
            ParameterError: two parameters give a registration.
            RegistrationError: it makes no sense, or the calibration file can't be read.
        """
        self._settings = settings
        self._rgb_size: Size | None = None
        self.rgb_frame_id = ""
        self._infos: dict[str, CameraInfoMessage] = {}
        self.current: Registration | None = None
        self.residual_px: float | None = None
        self.time_offset_ms: float | None = None
        self.from_camera_info = settings.registration_from_camera_info
        given = {
            "ir_to_rgb": any(settings.ir_to_rgb),
            "calibration_file": bool(settings.calibration_file),
            "registration_from_camera_info": self.from_camera_info,
        }
        sources = [f"'{name}'" for name, is_given in given.items() if is_given]
        if len(sources) > 1:
            raise ParameterError(f"parameters {' and '.join(sources)} each give a registration: keep one of them")
        if given["ir_to_rgb"]:
            self.current = registration_from_numbers(settings.ir_to_rgb, source="parameter ir_to_rgb")
        elif given["calibration_file"]:
            calibration = load_calibration(os.path.expanduser(settings.calibration_file))
            self.current, self.residual_px = calibration.registration, calibration.residual_px
            self.time_offset_ms = calibration.time_offset_ms
        elif self.from_camera_info:
            rotation_matrix(settings.extrinsic_rotation)  # refused now, not when the first message comes

    def note_rgb(self, size: Size, frame_id: str) -> None:
        """Notes an RGB image: its size (width, height) and the frame of its header. From any thread."""
        self._rgb_size, self.rgb_frame_id = size, frame_id

    @property
    def rgb_size(self) -> Size | None:
        """Size of the RGB image in whose pixels the infrared camera's own results can be given; None: they cannot be.

        That takes a registration, and the size from an RGB image, the calibration file or the camera's CameraInfo.
        """
        current = self.current
        return None if current is None else self._rgb_size or current.rgb_size

    @property
    def pending(self) -> bool:
        """Whether pairs can't be registered yet, because a camera's calibration has not come."""
        return self.from_camera_info and self.current is None

    @property
    def missing(self) -> list[str]:
        """The cameras, "rgb" and "ir", whose calibration has not come."""
        return [key for key in CAMERA_INFO if self.from_camera_info and key not in self._infos]

    @property
    def without_effect(self) -> list[str]:
        """Names of parameters that were set and say nothing while no CameraInfo is used."""
        if self.from_camera_info:
            return []
        return [name for name in _OF_CAMERA_INFO if getattr(self._settings, name) != parameter(name).default]

    def take(self, key: str, info: CameraInfoMessage) -> bool:
        """Takes the calibration of the camera "rgb" or "ir", and makes the registration from both if one is new.

        Returns:
            Whether there is a registration that was not there before.

        Raises:
            RegistrationError: nothing can be made of them; said once for each that differs from the one before.
        """
        known = self._infos.get(key)
        if known is not None and _is_same(known, info):
            return False
        self._infos[key] = info
        if key == "rgb" and not self.rgb_frame_id:
            self.rgb_frame_id = str(getattr(getattr(info, "header", None), "frame_id", ""))
        if self.missing:
            return False
        settings = self._settings
        self.current = self.residual_px = None  # the old one is not for these cameras
        made = registration_from_camera_infos(
            self._infos["rgb"],
            self._infos["ir"],
            settings.extrinsic_rotation,
            settings.extrinsic_translation,
            settings.plane_distance_m,
            rectified=settings.images_rectified,
        )
        self.residual_px, self.current = made.residual_px, _of_part(made.registration, settings.decoding.ir_crop)
        return True

    def check(self) -> Registration | None:
        """The registration for a pair; refuses it while that is pending. Another thread may be in `take`.

        Raises:
            RegistrationError: it is; the topics or the reason are named where it was found.
        """
        current = self.current  # once: `take` sets it to None for a moment
        if self.from_camera_info and current is None:
            why = f"no message on {' and '.join(CAMERA_INFO[key] for key in self.missing)} yet"
            raise RegistrationError(
                f"{why if self.missing else 'the camera_info can not be used'}, and registration_from_camera_info "
                "needs both cameras'"
            )
        return current

    def describe(self) -> str:
        """Where it comes from and how good it is, for logs and diagnostics."""
        if self.pending:
            return f"waits for {' and '.join(CAMERA_INFO[key] for key in self.missing) or 'good camera_info'}"
        if self.current is None:
            return "none: the infrared picture is laid over the whole colour one"
        text = self.current.source
        if self.current.ir_size is not None and self.current.rgb_size is not None:
            (ir_width, ir_height), (width, height) = self.current.ir_size, self.current.rgb_size
            text += f", for {ir_width}x{ir_height} on {width}x{height}"
        return text if self.residual_px is None else f"{text}, residual {self.residual_px:.2f} px"


def _of_part(registration: Registration, crop: tuple[int, int, int, int]) -> Registration:
    """The registration of the part of the infrared image that is used; the camera's calibration is of the whole."""
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
