"""Options (`SceneOptions`) and result (`Scene`) of rendering a synthetic scene.

Letters: `H height`, `W width`, `N objects`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.modality import Modality

BOX_CLASSES = ("person", "bicycle", "car")
"""Classes of the boxes; labels are indices into it."""

MASK_CLASSES = ("road", "building", "vegetation", "sky", "person", "bicycle", "car")
"""Classes of the mask; pixels are indices into it, or UNLABELLED. Sidewalks and paved squares count as road."""

MASK_PALETTE: tuple[tuple[int, int, int], ...] = (
    (128, 64, 128),
    (70, 70, 70),
    (107, 142, 35),
    (70, 130, 180),
    (220, 20, 60),
    (255, 170, 0),
    (0, 60, 200),
)
"""RGB colour of each mask class."""

UNLABELLED = 255
"""Mask value of pixels without a class: poles, signs, bins, bare soil."""

FAR_M = 1024.0
"""Depth of the sky, in metres."""

TIMES_OF_DAY = ("day", "dusk", "night")


@dataclass(frozen=True)
class SceneOptions:
    """Rendering options. The scene depends only on the seed and `time_of_day`, never on the size or the bands.

    Attributes:
        width, height: pixels of every band.
        bands: the bands to render.
        time_of_day: "day", "dusk" or "night"; None draws it from the seed.
        misregistration_px: maximum displacement of any pixel by the seeded homography of the IR images.
        clock_offset_ms: the IR cameras expose, and stamp, this much later than the RGB camera (may be negative).
        noise: sensor noise on or off.
        noise_level: factor on the standard deviation of all noise.
        blur: optical blur on or off.
        supersample: factor of supersampling before averaging: 1 is fast, 2 has smoother edges.
        traffic: factor on the number of cars, people and bicycles.
        start_ns: time stamp of the (first) RGB image, nanoseconds.
    """

    width: int = 640
    height: int = 512
    bands: tuple[Modality, ...] = (Modality.RGB, Modality.LWIR)
    time_of_day: str | None = None
    misregistration_px: float = 0.0
    clock_offset_ms: float = 0.0
    noise: bool = True
    noise_level: float = 1.0
    blur: bool = True
    supersample: int = 1
    traffic: float = 1.0
    start_ns: int = 1_700_000_000_000_000_000

    def __post_init__(self) -> None:
        if self.width < 32 or self.height < 32:
            raise ValueError(
                f"scene size {self.width}x{self.height} is too small: width and height must be at least 32"
            )
        if self.time_of_day is not None and self.time_of_day not in TIMES_OF_DAY:
            raise ValueError(
                f"unknown time_of_day {self.time_of_day!r}: choose one of {', '.join(TIMES_OF_DAY)} or None"
            )
        if not self.bands:
            raise ValueError("bands is empty: name at least one of rgb, nir, swir, lwir")
        object.__setattr__(self, "bands", tuple(Modality.parse(band) for band in self.bands))
        if not 0.0 <= self.misregistration_px <= 0.1 * min(self.width, self.height):
            raise ValueError(
                f"misregistration_px {self.misregistration_px} must lie in 0 .. a tenth of the shorter side"
            )
        if self.noise_level < 0.0 or self.traffic < 0.0:
            raise ValueError("noise_level and traffic must not be negative")
        if self.supersample not in (1, 2, 3, 4):
            raise ValueError(f"supersample {self.supersample} must be 1, 2, 3 or 4")


@dataclass
class Scene:
    """One moment of a synthetic scene in all requested bands, with its ground truth.

    Attributes:
        images: RGB uint8 [H, W, 3] (R, G, B order); NIR uint8 [H, W]; SWIR uint16 [H, W] of 14 bits;
            LWIR uint16 [H, W] in hundredths of a kelvin.
        boxes: float32 [N, 4], x1 y1 x2 y2 in pixels of the RGB image, x2 and y2 exclusive: the extent of the object's
            own silhouette as it would be without occluders, clipped to the image.
        labels: int64 [N], indices into BOX_CLASSES.
        visible: float32 [N], fraction of the object that is in the image and not occluded, 0..1.
        tracks: int64 [N], track ids, constant throughout a sequence.
        mask: uint8 [H, W], indices into MASK_CLASSES or UNLABELLED, in the RGB camera's view.
        instances: uint16 [H, W]; pixel value k + 1 belongs to box k, 0 to none.
        depth: float32 [H, W], metres along the optical axis, FAR_M for the sky, in the RGB camera's view.
        stamps_ns: exposure time of each band's image.
        time_of_day: "day", "dusk" or "night".
        ir_to_rgb: float64 [3, 3] homography from IR pixels to RGB pixels (homogeneous columns).
        seed: the seed it was rendered from.
    """

    images: dict[Modality, np.ndarray]
    boxes: np.ndarray
    labels: np.ndarray
    visible: np.ndarray
    tracks: np.ndarray
    mask: np.ndarray
    instances: np.ndarray
    depth: np.ndarray
    stamps_ns: dict[Modality, int]
    time_of_day: str
    ir_to_rgb: np.ndarray
    seed: int
