"""MS2 (Shin et al., "Deep Depth Estimation from Thermal Image", CVPR 2023): published split, and registration to RGB.

Its RGB (1224x384), NIR (1280x352) and thermal camera (640x256) stand side by side, the thermal one pitched down by nine
degrees. `sync_data/<sequence>/calib.npy` holds, for the rectified images of the left cameras, intrinsics `K_rgbL`,
`K_nirL` and `K_thrL`, and the poses `R_nir2rgb`, `T_nir2rgb`, `R_nir2thr` and `T_nir2thr` in millimetres.

Letters: R rotation and t translation (metres) from an infrared camera to the RGB camera, n unit normal of a plane, d
its distance, K intrinsics, H homography.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.lib.npyio import NpzFile

from spectradino_core.data.images import ImageFileError
from spectradino_core.data.manifest import ManifestItem
from spectradino_core.data.object_arrays import ObjectArrayError, read_array_dict
from spectradino_core.files import errors_as, read_bytes, read_text
from spectradino_core.runtime.image_size import claimed_size

SPLITS: dict[str, tuple[str, ...]] = {
    "train": (
        "_2021-08-06-10-59-33", "_2021-08-06-11-37-46", "_2021-08-06-17-21-04", "_2021-08-06-17-44-55",
        "_2021-08-13-16-50-57", "_2021-08-13-17-06-04", "_2021-08-13-21-36-10", "_2021-08-13-22-36-41",
    ),
    "val": ("_2021-08-13-16-08-46", "_2021-08-13-16-14-48", "_2021-08-13-21-58-13"),
    "test_day": ("_2021-08-06-11-23-45", "_2021-08-13-15-46-56", "_2021-08-13-16-31-10"),
    "test_night": ("_2021-08-13-21-18-04", "_2021-08-13-22-03-03", "_2021-08-13-22-16-02"),
    "test_rainy": ("_2021-08-06-16-19-00", "_2021-08-06-16-45-28", "_2021-08-06-16-59-13"),
}  # fmt: skip
"""Published sequences by split, as in `train_list.txt` and the other lists of the data set."""
SPLITS |= {"test": tuple(name for split, names in SPLITS.items() if split.startswith("test_") for name in names)}

PLANE_M = 20.0
"""Default distance of the plane. Ours: at 10 m, and far away, the thermal image is then off by 15 RGB pixels, which are
0.6 patches of a view of the full height."""

_CAMERAS = {"nir": "nir", "lwir": "thr"}
_MIN_COMMON = 0.25


_Registration = tuple[dict[str, tuple[float, ...]], tuple[int, int, int, int]]
"""Homography to RGB pixels by band, and the view."""


class MS2Error(ValueError):
    """The folder is not MS2's, or its calibration can't be used; the message names the file and the remedy."""


def sequences_of(root: Path, split: str) -> tuple[str, ...]:
    """Return the sequences of a split: those of `<split>_list.txt` in the root, or the published ones."""
    listed = root / f"{split}_list.txt"
    if os.path.lexists(listed):
        with errors_as(MS2Error):
            names = read_text(listed, "list of names").split()
        if names:
            return tuple(names)
    if split not in SPLITS:
        raise MS2Error(f"MS2 has no split {split!r} and {listed} does not exist: choose one of {', '.join(SPLITS)}")
    return SPLITS[split]


def registered(root: Path, items: Sequence[ManifestItem], plane_m: float = PLANE_M) -> list[ManifestItem]:
    """Return the items with the homographies of their infrared images, and the view that all their cameras share.

    Args:
        root, items: items of MS2 with paths `<sequence>/rgb/img_left/<frame>.png` relative to the root.
        plane_m: distance of the plane on which the images coincide; infinity: far scenes do.

    Raises:
        MS2Error: a calibration is missing, damaged, or not of images of these sizes.
    """
    if not plane_m > 0:
        raise MS2Error(f"the plane must be in front of the cameras, not at {plane_m:g} m")
    found: dict[tuple[Path, tuple[str, ...]], _Registration] = {}
    out = []
    for item in items:
        folder = root / Path(item.paths["rgb"]).parents[2]
        key = folder, tuple(item.paths)
        if key not in found:
            found[key] = _registration(folder, {band: root / path for band, path in item.paths.items()}, plane_m)
        mappings, view = found[key]
        out.append(replace(item, to_rgb=mappings, view=view))
    return out


def _registration(folder: Path, images: Mapping[str, Path], plane_m: float) -> _Registration:
    calibration = _calibration(folder)
    sizes = {band: _size(path) for band, path in images.items()}
    mappings = {band: homography(calibration, _CAMERAS[band], plane_m) for band in images if band in _CAMERAS}
    view = common_view(sizes["rgb"], {band: (sizes[band], h) for band, h in mappings.items()})
    width, height = sizes["rgb"]
    if (view[2] - view[0]) * (view[3] - view[1]) < _MIN_COMMON * width * height:
        shown = ", ".join(f"{band} {w}x{h}" for band, (w, h) in sizes.items())
        raise MS2Error(
            f"{folder}: by its calibration the cameras hardly see the same ({shown}): give the images in their "
            "original sizes"
        )
    return {band: tuple(float(f"{value:.9g}") for value in h.reshape(-1)) for band, h in mappings.items()}, view


def homography(calibration: Mapping[str, np.ndarray], camera: str, plane_m: float) -> np.ndarray:
    """Return H = K_rgb (R + t nᵀ / d) K⁻¹ from an infrared camera's ("nir", "thr") pixels to RGB pixels, H[2, 2] = 1.

    The plane faces the RGB camera, at d metres from the infrared one; with d = ∞ only the rotation counts.
    """
    rotation, moved = calibration["R_nir2rgb"], calibration["T_nir2rgb"].reshape(3) / 1000
    if camera == "thr":  # X_rgb = R_nir2rgb X_nir + T_nir2rgb and X_thr = R_nir2thr X_nir + T_nir2thr
        rotation = rotation @ calibration["R_nir2thr"].T
        moved = moved - rotation @ calibration["T_nir2thr"].reshape(3) / 1000
    normal = rotation[2]  # the RGB camera's axis, in the infrared camera's frame
    between = rotation + np.outer(moved, normal) / plane_m
    h = calibration["K_rgbL"] @ between @ np.linalg.inv(calibration[f"K_{camera}L"])
    return h / h[2, 2]


def common_view(
    rgb: tuple[int, int], others: Mapping[str, tuple[tuple[int, int], np.ndarray]]
) -> tuple[int, int, int, int]:
    """Return a rectangle x1 y1 x2 y2 of RGB pixels that all cameras see; of no area if there is none.

    Args:
        rgb: (width, height) of the RGB image.
        others: (width, height) and homography to RGB pixels of the other images.
    """
    seen = np.ones((rgb[1], rgb[0]), np.uint8)
    for size, h in others.values():
        seen &= cv2.warpPerspective(np.full((size[1], size[0]), 255, np.uint8), h, rgb) == 255
    x1, y1, x2, y2 = 0, 0, rgb[0], rgb[1]
    while x1 < x2 and y1 < y2:
        part = seen[y1:y2, x1:x2]
        sides = part[:, 0].mean(), part[0].mean(), part[:, -1].mean(), part[-1].mean()
        if min(sides) == 1:
            break
        worst = int(np.argmin(sides))
        x1, y1, x2, y2 = x1 + (worst == 0), y1 + (worst == 1), x2 - (worst == 2), y2 - (worst == 3)
    return x1, y1, max(x1, x2), max(y1, y2)


def _calibration(folder: Path) -> dict[str, np.ndarray]:
    """Read the matrices of a sequence: `calib.npz`, else `calib.npy`."""
    plain, path = folder / "calib.npz", folder / "calib.npy"
    if os.path.lexists(plain):
        path, found = plain, _read_npz(plain)
    elif not os.path.lexists(path):
        raise MS2Error(
            f"{path} does not exist, without which the infrared images can't be registered to RGB: extract it from the "
            "archive of sync_data"
        )
    else:
        try:
            found = read_array_dict(path)
        except ObjectArrayError as error:
            raise MS2Error(
                f'{error}. If you trust the file, convert it once: python -c "import numpy; '
                f"numpy.savez('{plain}', **numpy.load('{path}', allow_pickle=True).item())\""
            ) from None
    for name in ("K_rgbL", "K_nirL", "K_thrL", "R_nir2rgb", "R_nir2thr", "T_nir2rgb", "T_nir2thr"):
        if name not in found or not _is_plausible(name, found[name]):
            raise MS2Error(f"{path}: {name} is missing or no {_KINDS[name[0]]}: extract the file again")
    return found


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, NpzFile):
            with file:
                return {name: np.asarray(file[name], np.float64) for name in file.files}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise MS2Error(f"{path}: {error}; write or extract it again") from None
    raise MS2Error(f"{path} is a single array, not an archive of the matrices: write or extract it again")


_KINDS = {"K": "matrix of intrinsics", "R": "rotation matrix", "T": "translation in millimetres"}


def _is_plausible(name: str, value: np.ndarray) -> bool:
    if not np.isfinite(value).all():
        return False
    if name[0] == "T":
        return value.size == 3 and float(np.abs(value).max()) < 10_000
    if value.shape != (3, 3):
        return False
    if name[0] == "R":
        return bool(np.abs(value @ value.T - np.eye(3)).max() < 1e-3 and np.linalg.det(value) > 0)
    return bool(value[0, 0] > 0 and value[1, 1] > 0 and value[2, 2] == 1 and math.isclose(value[1, 0], 0))


def _size(path: Path) -> tuple[int, int]:
    with errors_as(MS2Error):
        size = claimed_size(read_bytes(path, "image"))
    if size is None:
        raise ImageFileError(f"{path}: not an image, or a damaged one")
    return size
