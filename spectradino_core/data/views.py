"""Seeded views of an item: one crop and flip for all its images, separate photometric augmentation of each.

Letters: h x w source image, S side of the square view in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from spectradino_core.data.augment import Augmentation, jitter_infrared, jitter_rgb
from spectradino_core.data.sources import ImageSet
from spectradino_core.invalid_counts import InvalidCounts
from spectradino_core.modality import IMAGENET_MEAN, IMAGENET_STD
from spectradino_core.runtime.preprocess import without_invalid
from spectradino_core.runtime.scaling import fill_invalid, weigh
from spectradino_core.thermal import NoValidPixelError, ThermalContract, ThermalNormaliser

_INVALID = InvalidCounts()

DEPTH_RANGE_M = (1.0, 100.0)
"""Depths mapped to white and black, for streets; indoors 0.5 to 10 m. Ours: fixed, so that equal depths have equal
values in all images."""


@dataclass(frozen=True)
class ViewOptions:
    """Distribution of views. Assumed, as the paper does not describe it: ImageNet's random resized crop, less extreme.

    Attributes:
        scale: minimum and maximum area of a crop as a fraction of the largest crop of its aspect ratio that fits. As a
            fraction of the image, few crops of a wide one (1224 x 384) would fit.
        ratio: minimum and maximum aspect ratio (width / height) of a crop, before it is resized to a square.
        centred: place crops at the centre instead of at random.
        flip: probability of a horizontal flip.
        photometry: photometric augmentation of each image; None: none. Its geometric options (`flip`, `zoom`) and
            `band_dropout` are not used.
        count: number of different views per item; 0: unlimited. With a count, view v of an item is always the same, so
            that the teacher's embedding can be cached.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    centred: bool = False
    flip: float = 0.5
    photometry: Augmentation | None = field(default_factory=Augmentation)
    count: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be a range within (0, 1], not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be a range of positive numbers, not {self.ratio}")
        if not 0 <= self.flip <= 1 or self.count < 0:
            raise ValueError(f"flip {self.flip} must be in 0..1 and count {self.count} must not be negative")


PLAIN = ViewOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0), centred=True, flip=0.0, photometry=None, count=1)
"""The largest centred square without augmentation, for evaluation."""


def take_view(item: ImageSet, options: ViewOptions, side: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Crop, flip, resize to S x S and augment all images of `item`; dtypes do not change.

    The crop is relative to the image size, so images of different sizes with one field of view stay registered.
    """
    height, width = item.images["rgb"].shape[:2]
    box = _draw_box(width, height, options, rng)
    flipped = rng.random() < options.flip
    out = {}
    for key, image in item.images.items():
        if image.dtype == np.uint16 and key not in ("rgb", "depth", "segmentation"):
            image = without_invalid(image, _INVALID(image))  # resizing would mix invalid with valid pixels
        small = cut(image, box, side, nearest=key == "segmentation")
        out[key] = np.ascontiguousarray(small[:, ::-1]) if flipped else small
    # Each image has its own generator, so that its augmentation does not depend on the requested modalities.
    seed = int(rng.integers(2**63))
    if options.photometry is not None:
        for key, image in out.items():
            own = np.random.default_rng((seed, *key.encode()))
            if key == "rgb":
                out[key] = jitter_rgb(image, options.photometry, own)
            elif key not in ("depth", "segmentation"):
                out[key] = jitter_infrared(image, options.photometry, own)
    return out


def cut(image: np.ndarray, box: tuple[float, float, float, float], side: int, nearest: bool = False) -> np.ndarray:
    """Crop `image` to `box` (x1, y1, x2, y2 as fractions of its size) and resize to S x S; `nearest`: class indices."""
    height, width = image.shape[:2]
    x1, y1 = min(width - 1, round(box[0] * width)), min(height - 1, round(box[1] * height))
    x2, y2 = max(x1 + 1, round(box[2] * width)), max(y1 + 1, round(box[3] * height))
    part = np.ascontiguousarray(image[y1:y2, x1:x2])
    if part.shape[:2] == (side, side):
        return part
    if nearest:
        return cv2.resize(part, (side, side), interpolation=cv2.INTER_NEAREST_EXACT)
    shrinks = part.shape[0] > side or part.shape[1] > side
    return cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _draw_box(
    width: int, height: int, options: ViewOptions, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Draw a crop as fractions of the image size: x1, y1, x2, y2."""
    ratio = float(np.exp(rng.uniform(*np.log(options.ratio))))
    side = rng.uniform(*options.scale) ** 0.5  # relative to the largest crop of this ratio
    w, h = side * min(width, height * ratio), side * min(height, width / ratio)
    left, top = (0.5, 0.5) if options.centred else rng.random(2)
    x, y = left * (width - w), top * (height - h)
    return x / width, y / height, (x + w) / width, (y + h) / height


def colour_tensor(image: np.ndarray) -> np.ndarray:
    """Normalise uint8 [S, S, 3] to float32 [3, S, S] with ImageNet's mean and standard deviation."""
    scaled = image.astype(np.float32) / np.float32(255.0)
    scaled = (scaled - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


COLOURS = colour_tensor(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))[:, 0]
"""Result of `colour_tensor` by channel and pixel value, float32 [3, 256]."""


def infrared_tensor(frame: np.ndarray, contract: ThermalContract) -> np.ndarray:
    """Normalise raw counts uint8 or uint16 [S, S] to float32 [1, S, S] in [0, 1]; 0 at invalid pixels."""
    counts, low, gain, known = infrared_levels(frame, contract)
    above = np.subtract(counts, low, dtype=np.float32)
    if known is not None:
        above *= known
    above *= gain
    return np.clip(above, 0.0, 1.0, out=above)[None]


def infrared_levels(
    frame: np.ndarray, contract: ThermalContract
) -> tuple[np.ndarray, np.float32, np.float32, np.ndarray | None]:
    """Return from what `infrared_tensor` is computed, see `transfer.RawInfrared`.

    That is the counts with invalid ones filled, low, gain, and valid pixels (bool [S, S]; None: all).

    Raises:
        ThermalError: the frame does not match the contract.
    """
    normaliser = ThermalNormaliser(contract)
    try:
        valid = normaliser.valid_pixels(frame)
    except NoValidPixelError:  # a single such frame must not end the run
        return np.zeros_like(frame), np.float32(0), np.float32(0), None
    counts, known = (frame, None) if valid is None else fill_invalid(*weigh(frame, valid))
    return (counts, *normaliser.levels(counts, known), known)


def map_tensor(
    key: str, image: np.ndarray, thermal: ThermalContract, depth_range_m: tuple[float, float] = DEPTH_RANGE_M
) -> np.ndarray:
    """Convert an image of any modality but RGB, [S, S], to float32 [1, S, S] in [0, 1]."""
    if key == "depth":
        return depth_values(image, depth_range_m)[None]
    if key == "segmentation":
        return segmentation_values(image)[None]
    return infrared_tensor(image, thermal)


def depth_values(metres: np.ndarray, range_m: tuple[float, float] = DEPTH_RANGE_M) -> np.ndarray:
    """Map depth in metres logarithmically to brightness: 1 at the near end, 0 at the far end and where unknown (0).

    Raises:
        ValueError: not 0 < near < far.
    """
    near, far = range_m
    if not 0 < near < far:
        raise ValueError(f"a depth range has a near end above 0 and below its far end, not {near:g} to {far:g} m")
    known = metres > 0
    depth = np.clip(np.where(known, metres, far), near, far)
    value = 1 - np.log(depth / near) / np.log(far / near)
    return np.where(known, np.clip(value, 0, 1), 0).astype(np.float32)


def segmentation_values(mask: np.ndarray) -> np.ndarray:
    """Map class indices to brightness, the same in all images; 0 where unlabelled.

    Class c gets the fractional part of (c + 1) times the golden ratio, which separates neighbouring indices.
    """
    table = ((np.arange(256) + 1) * 0.6180339887498949 % 1).astype(np.float32)
    table[255] = 0
    return table[mask]
