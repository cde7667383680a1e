"""Calibration file of a rig: homography from IR to RGB pixels and time offset.

YAML, written by `spectradino calibrate` or by hand, and read by the node (parameter `calibration_file`):

    spectradino_calibration: 1      # version of this format
    ir_to_rgb:                      # IR to RGB pixels, (0, 0) is the centre of the top left pixel
    - [2.01, 0.012, -31.5]
    - [-0.011, 2.0, 12.2]
    - [1.0e-06, -2.0e-06, 1.0]
    ir_size: [640, 512]             # width, height of the images used; scaled copies of them are supported
    rgb_size: [1280, 1024]
    time_offset_ms: 12.5            # optional: delay of the IR stamps
    residual_px: 0.8                # optional: error of the homography in RGB pixels (median)
    made_by: spectradino calibrate 0.2.0            # optional
    notes: outdoor rig, targets at 8 to 20 m        # optional

A file with a time offset alone has no ir_to_rgb, ir_size, rgb_size or residual_px.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectradino_core.calibration.registration import Registration, RegistrationError
from spectradino_core.files import errors_as, read_yaml, write_file
from spectradino_core.streams.settings import parameter
from spectradino_core.text import printable

FORMAT = 1
_VERSION_KEY = "spectradino_calibration"
_REQUIRED = (_VERSION_KEY, "ir_to_rgb", "ir_size", "rgb_size")
_OF_REGISTRATION = (*_REQUIRED[1:], "residual_px")
_OPTIONAL = ("time_offset_ms", "residual_px", "made_by", "notes")
_MAX_SIDE, _MAX_RESIDUAL_PX = 1 << 16, 1e5


@dataclass(frozen=True)
class Calibration:
    """Contents of a calibration file, see the module docstring; None: not measured."""

    registration: Registration | None = None
    time_offset_ms: float | None = None
    residual_px: float | None = None
    made_by: str = ""
    notes: str = ""


def load_calibration(path: str | Path) -> Calibration:
    """Read a calibration file.

    Raises:
        RegistrationError: the file is missing or not YAML, has missing or unknown entries, another format version or
            an invalid homography; the message names file and entry.
    """
    path = Path(path)
    with errors_as(RegistrationError):
        data = read_yaml(path, "calibration file")
    if not isinstance(data, dict):
        raise RegistrationError(f"{path} is not a calibration file: it has no entries such as ir_to_rgb")
    for key in data:
        if key not in (*_REQUIRED, *_OPTIONAL):
            near = difflib.get_close_matches(str(key), (*_REQUIRED, *_OPTIONAL), n=1)
            shown = printable(repr(key), 80)
            raise RegistrationError(f"{path}: unknown entry {shown}" + (f", did you mean {near[0]!r}?" if near else ""))
    is_time_only = "time_offset_ms" in data and not any(key in data for key in _OF_REGISTRATION)
    missing = [key for key in _REQUIRED if key not in data and not (is_time_only and key in _OF_REGISTRATION)]
    if missing:
        raise RegistrationError(f"{path}: entry {' and '.join(missing)} is missing")
    if data[_VERSION_KEY] != FORMAT:
        raise RegistrationError(
            f"{path}: format {printable(repr(data[_VERSION_KEY]), 40)}, this version reads format {FORMAT}: calibrate "
            "again, or upgrade"
        )
    offset = parameter("ir_time_offset_ms")
    registration = None
    if not is_time_only:
        registration = Registration(
            _matrix(data["ir_to_rgb"], path), _size(data, "ir_size", path), _size(data, "rgb_size", path), str(path)
        )
    return Calibration(
        registration,
        time_offset_ms=_number(data, "time_offset_ms", path, offset.low or 0.0, offset.high or 0.0),
        residual_px=_number(data, "residual_px", path, 0.0, _MAX_RESIDUAL_PX),
        made_by=printable(str(data.get("made_by") or ""), 1000),
        notes=printable(str(data.get("notes") or ""), 10_000, keep="\n"),
    )


def save_calibration(path: str | Path, calibration: Calibration) -> None:
    """Write a calibration file atomically; `load_calibration` returns an equal `Calibration`.

    Raises:
        RegistrationError: the registration has no image sizes, or there is nothing to write.
        OSError: the file can't be written.
    """
    import yaml

    registration = calibration.registration
    if registration is None and calibration.time_offset_ms is None:
        raise RegistrationError("a calibration file needs a homography, a time offset or both: give one")
    if registration is None and calibration.residual_px is not None:
        raise RegistrationError("a residual belongs to a homography: give one, or no residual")
    data: dict[str, Any] = {_VERSION_KEY: FORMAT}
    if registration is not None:
        if registration.ir_size is None or registration.rgb_size is None:
            raise RegistrationError("a calibration file needs the sizes of both images: give Registration its sizes")
        data["ir_to_rgb"] = [list(registration.matrix[row : row + 3]) for row in (0, 3, 6)]
        data["ir_size"], data["rgb_size"] = list(registration.ir_size), list(registration.rgb_size)
    for key in _OPTIONAL:
        value = getattr(calibration, key)
        if value not in (None, ""):
            data[key] = value
    write_file(path, yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True))


def _matrix(rows: Any, path: Path) -> tuple[float, ...]:
    flat: list[Any] = []
    if isinstance(rows, list):
        for row in rows:
            flat.extend(row if isinstance(row, list) else [row])
    if len(flat) != 9 or not all(_is_number(value) for value in flat):
        raise RegistrationError(f"{path}: ir_to_rgb must be three rows of three numbers, got {printable(str(rows))}")
    return tuple(float(value) for value in flat)


def _size(data: dict[Any, Any], key: str, path: Path) -> tuple[int, int]:
    value = data[key]
    if not (isinstance(value, list) and len(value) == 2 and all(type(v) is int and 0 < v <= _MAX_SIDE for v in value)):
        raise RegistrationError(
            f"{path}: {key} must be [width, height] in pixels up to {_MAX_SIDE}, got {printable(str(value))}"
        )
    return value[0], value[1]


def _number(data: dict[Any, Any], key: str, path: Path, low: float, high: float) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    if not _is_number(value) or not low <= value <= high:
        raise RegistrationError(
            f"{path}: {key} must be a finite number from {low:g} to {high:g}, got {printable(str(value))}"
        )
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
