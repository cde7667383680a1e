"""Seeded views of an item: one crop and one flip for all its images, photometry for each by itself.

Letters: h w a source image, S side of the square view in pixels.
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

__all__ = [
    "COLOURS", "PLAIN", "ViewOptions", "colour_tensor", "cut", "infrared_levels", "infrared_tensor", "take_view",
]  # fmt: skip

_INVALID = InvalidCounts()


@dataclass(frozen=True)
class ViewOptions:
    """How views are drawn. The paper says nothing of it; the crop is ImageNet's usual one, less extreme.

    Attributes:
        scale: least and greatest share of the picture's area that a crop covers.
        ratio: least and greatest width over height of the crop, before it is made square.
        flip: probability of a left-right flip.
        photometry: how far brightness, contrast and the like vary, per image; None: not at all. Its geometry (`flip`,
            `zoom`) and `band_dropout` don't apply here.
        count: how many different views of an item there are; 0: a fresh one each time. With a count, view v of an item
            is always the same, so that what the teacher says of it can be kept.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    photometry: Augmentation | None = field(default_factory=Augmentation)
    count: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"a crop covers a share in (0, 1] of the picture, not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"the aspect ratio's range {self.ratio} is empty or not positive")
        if not 0 <= self.flip <= 1 or self.count < 0:
            raise ValueError(f"flip {self.flip} must lie in 0..1 and count {self.count} must not be negative")


PLAIN = ViewOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, photometry=None, count=1)
"""The largest centred square and nothing else: for evaluation, and for a teacher whose answers are kept."""


def take_view(item: ImageSet, options: ViewOptions, side: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """All images of `item` cut, flipped, resized to S x S, and varied: the dtypes stay as they are.

    The crop is drawn in shares of the picture, so images of one field of view with different pixel counts stay paired.
    """
    height, width = item.images["rgb"].shape[:2]
    box = _draw_box(width, height, options, rng)
    flipped = rng.random() < options.flip
    out = {}
    for key, image in item.images.items():
        if image.dtype == np.uint16 and key not in ("rgb", "depth", "segmentation"):
            image = without_invalid(image, _INVALID(image))  # before it is resized, which would mix it with the rest
        small = cut(image, box, side, nearest=key == "segmentation")
        out[key] = np.ascontiguousarray(small[:, ::-1]) if flipped else small
    # Each image has a generator of its own: which modalities are asked for does not change how the others look.
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
    """The part of `image` inside `box`, resized to S x S.

    Args:
        image: [h, w] or [h, w, 3].
        box: x1, y1, x2, y2 in shares of the picture, 0..1.
        side: S.
        nearest: take the nearest pixel (class numbers are not averaged).
    """
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
    """A random resized crop in shares of the picture; the largest centred one of that aspect where none fits."""
    for _ in range(10):
        area = width * height * rng.uniform(*options.scale)
        ratio = float(np.exp(rng.uniform(*np.log(options.ratio))))
        w, h = (area * ratio) ** 0.5, (area / ratio) ** 0.5
        if w <= width and h <= height:
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return x / width, y / height, (x + w) / width, (y + h) / height
    ratio = min(max(width / height, options.ratio[0]), options.ratio[1])
    w, h = min(width, height * ratio), min(height, width / ratio)
    x, y = (width - w) / 2, (height - h) / 2
    return x / width, y / height, (x + w) / width, (y + h) / height


def colour_tensor(image: np.ndarray) -> np.ndarray:
    """uint8 [S, S, 3] to float32 [3, S, S], normalised as DINOv2 expects."""
    scaled = image.astype(np.float32) / np.float32(255.0)
    scaled = (scaled - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


COLOURS = colour_tensor(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))[:, 0]
"""What `colour_tensor` makes of each value of each channel, float32 [3, 256]."""


def infrared_tensor(frame: np.ndarray, contract: ThermalContract) -> np.ndarray:
    """Raw counts uint8 or uint16 [S, S] to float32 [1, S, S] in [0, 1]; 0 where nothing was measured.

    Raises:
        ThermalError: the frame does not fit the contract.
    """
    counts, low, gain, known = infrared_levels(frame, contract)
    above = np.subtract(counts, low, dtype=np.float32)
    if known is not None:
        above *= known
    above *= gain
    return np.clip(above, 0.0, 1.0, out=above)[None]


def infrared_levels(
    frame: np.ndarray, contract: ThermalContract
) -> tuple[np.ndarray, np.float32, np.float32, np.ndarray | None]:
    """What `infrared_tensor` makes of a frame, before it is computed.

    Returns:
        Counts of the frame's type and shape, invalid ones filled; the count that becomes 0; what one count is worth;
        and where something was measured, bool [S, S], or None: everywhere.

    Raises:
        ThermalError: the frame does not fit the contract.
    """
    normaliser = ThermalNormaliser(contract)
    try:
        valid = normaliser.valid_pixels(frame)
    except NoValidPixelError:  # one such frame in a data set is no reason to end a run
        return np.zeros_like(frame), np.float32(0), np.float32(0), None
    counts, known = (frame, None) if valid is None else fill_invalid(*weigh(frame, valid))
    return (counts, *normaliser.levels(counts, known), known)
