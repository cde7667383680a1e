"""MS2 in miniature with its true geometry: image sizes, calibration and layout, of few frames.

The images show one scene, far away or on a plane that faces the RGB camera: a chart of soft blobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

SIZES = {"rgb": (1224, 384), "nir": (1280, 352), "thr": (640, 256)}
SEQUENCES = ("_2021-08-06-10-59-33", "_2021-08-13-16-08-46")
"""The first of the training and of the validation split."""


def intrinsics(focal: float, x: float, y: float) -> np.ndarray:
    return np.array([[focal, 0, x], [0, focal, y], [0, 0, 1]])


def rotation(*degrees: float) -> np.ndarray:
    return cv2.Rodrigues(np.radians(degrees))[0]


CALIBRATION = {
    "K_rgbL": intrinsics(764.5, 579.5, 153.0),
    "K_nirL": intrinsics(638.9, 632.7, 163.1),
    "K_thrL": intrinsics(387.8, 300.8, 151.6),
    "R_nir2rgb": rotation(-0.51, 0.41, 0.27),
    "T_nir2rgb": np.array([[53.9], [1.6], [22.5]]),
    "R_nir2thr": rotation(9.48, 0.31, -0.28),
    "T_nir2thr": np.array([[65.3], [326.9], [590.7]]),
    "R_rgbL": np.eye(3, dtype=int),
}
"""Rounded from the data set's: the thermal camera is 0.6 m behind and looks nine degrees further down."""


def poses() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(R, t in metres) from each camera to the RGB camera."""
    found = {"rgb": (np.eye(3), np.zeros(3))}
    nir = CALIBRATION["R_nir2rgb"], CALIBRATION["T_nir2rgb"][:, 0] / 1000
    between = nir[0] @ CALIBRATION["R_nir2thr"].T
    return found | {"nir": nir, "thr": (between, nir[1] - between @ CALIBRATION["T_nir2thr"][:, 0] / 1000)}


def chart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Brightness 0..1 of the scene at tangents x, y of the angles that the RGB camera sees it at."""
    return 0.5 + 0.25 * np.sin(70 * x + 9 * y) + 0.25 * np.sin(55 * y - 12 * x)


def image(camera: str, distance_m: float) -> np.ndarray:
    """What a camera sees of the chart on a plane at a distance from it along the RGB camera's axis, 0..1."""
    turned, moved = poses()[camera]
    width, height = SIZES[camera]
    rays = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))], axis=-1)
    rays = rays @ np.linalg.inv(CALIBRATION[f"K_{camera}L"]).T @ turned.T  # in the RGB camera's axes
    points = rays / rays[..., 2:] + (moved / distance_m if np.isfinite(distance_m) else 0)
    return chart(points[..., 0] / points[..., 2], points[..., 1] / points[..., 2])


def write_ms2(
    root: Path, frames: int = 3, sequences: Sequence[str] = SEQUENCES, distance_m: float = 20.0, calibrated: bool = True
) -> Path:
    """Write a miniature below `root` and return it."""
    depth = {"rgb": 255, "nir": 255, "thr": 12_000}
    files = {}
    for camera, largest in depth.items():
        seen = image(camera, distance_m)
        counts = np.round(seen * largest + (8000 if camera == "thr" else 0))
        counts = counts.astype(np.uint16 if camera == "thr" else np.uint8)
        files[camera] = cv2.imencode(".png", np.dstack([counts] * 3) if camera == "rgb" else counts)[1].tobytes()
    for sequence in sequences:
        for camera, data in files.items():
            folder = root / "sync_data" / sequence / camera / "img_left"
            folder.mkdir(parents=True)
            for frame in range(frames):
                (folder / f"{frame:06d}.png").write_bytes(data)
        if calibrated:
            np.save(root / "sync_data" / sequence / "calib.npy", CALIBRATION)  # type: ignore[arg-type]
    return root
