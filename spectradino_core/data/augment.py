"""Augmentation of pairs: one geometric transform for both bands and the labels, separate photometry of each band.

Every function takes its own random generator, so that sample i of a run does not depend on the process that draws it.

Letters: h x w pixel grid of the pair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from spectradino_core.data.sample import PairedSample
from spectradino_core.data.thermal_defects import random_defects
from spectradino_core.invalid_counts import InvalidCounts
from spectradino_core.runtime.preprocess import without_invalid
from spectradino_core.runtime.scaling import fill_invalid, weigh

_CHANCES = (
    "flip", "blur", "local_contrast", "inversion", "eight_bit", "thermal_defects", "filled_defects", "low_light",
    "min_visible",
)  # fmt: skip
_STRENGTHS = (
    "stretch", "brightness", "contrast", "gamma", "saturation", "infrared_gain", "infrared_gamma", "noise",
    "misregistration",
)  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """Strengths and probabilities of the augmentations.

    Attributes:
        flip: probability of a horizontal flip.
        zoom: minimum and maximum factor; below 1 the image is scaled down and padded, above 1 it is cropped.
        stretch: maximum relative change of the aspect ratio.
        brightness, contrast, gamma: maximum relative change of the RGB frame.
        saturation: maximum relative change of the RGB frame's saturation.
        blur: probability, for each band, of a slight defocus.
        local_contrast: probability of local histogram equalisation of an 8-bit infrared frame, as in many cameras.
        infrared_gain: maximum relative change of the infrared frame's contrast before its normalisation.
        infrared_gamma: like `gamma`, for the infrared frame.
        inversion: probability that the infrared frame is inverted, as by cameras in black-hot mode.
        noise: maximum standard deviation of added noise, in 8-bit counts; for 16 bits in 255ths of the frame's range.
        eight_bit: probability that a 16-bit infrared frame is converted to 8 bits with automatic gain, as by a camera.
        thermal_defects: probability that a 16-bit infrared frame gets dead pixels, dead lines, a border or telemetry
            rows (see `thermal_defects.random_defects`), after everything else. They are detected and filled as on the
            robot when the frame becomes network input.
        filled_defects: probability that an 8-bit infrared frame gets such defects as they look after filling. Most data
            sets have 8 bits, in which defects are not detected.
        band_dropout: probability, for each band, that its stream is switched off, for robust single-band inference.
        misregistration: maximum shift between the two frames as a fraction of their width, as cameras are never
            registered exactly. Labels stay with the RGB frame.
        low_light: probability that the RGB frame is darkened to few counts with noise, as at night.
        min_visible: minimum visible fraction of a box after a crop; other boxes are dropped.

    Raises:
        ValueError: a probability outside of 0..1, a negative strength, or an empty range of zoom.
    """

    flip: float = 0.5
    zoom: tuple[float, float] = (0.75, 1.6)
    stretch: float = 0.0
    brightness: float = 0.25
    contrast: float = 0.25
    gamma: float = 0.3
    saturation: float = 0.4
    blur: float = 0.2
    local_contrast: float = 0.3
    infrared_gain: float = 0.3
    infrared_gamma: float = 0.0
    inversion: float = 0.0
    noise: float = 4.0
    eight_bit: float = 0.5
    thermal_defects: float = 0.0
    filled_defects: float = 0.0
    band_dropout: float = 0.15
    misregistration: float = 0.0
    low_light: float = 0.0
    min_visible: float = 0.35

    def __post_init__(self) -> None:
        wrong = [name for name in _CHANCES if not 0 <= getattr(self, name) <= 1]
        wrong += [name for name in _STRENGTHS if not getattr(self, name) >= 0]
        if wrong:
            raise ValueError(
                f"augmentation: {', '.join(wrong)} out of range; give probabilities in 0..1 and strengths of at least 0"
            )
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"augmentation: zoom must be a range of factors above 0, not {self.zoom}")
        if not 0 <= self.band_dropout <= 0.5:
            raise ValueError(f"augmentation: band_dropout must be in 0..0.5 per band, not {self.band_dropout}")


_LOW_LIGHT_GAIN = (0.05, 0.4)
_LOW_LIGHT_NOISE = 10.0
"""Maximum standard deviation of noise in low light, in counts, as the sensor's gain is high."""

_COUNTS_PER_LEVEL, _FIRST_COUNT = 32, 7000
"""Counts of a 14-bit thermal camera that an 8-bit image is taken to show: 8,160 of 16,384, about the middle."""

PLAIN = Augmentation(
    flip=0, zoom=(1, 1), brightness=0, contrast=0, gamma=0, saturation=0, blur=0, local_contrast=0, infrared_gain=0,
    noise=0, eight_bit=0, band_dropout=0,
)  # fmt: skip
"""No augmentation."""


def augment(sample: PairedSample, options: Augmentation, rng: np.random.Generator) -> PairedSample:
    """Return an augmented copy of `sample`."""
    if options == PLAIN:
        return replace(sample)
    if rng.random() < options.flip:
        sample = flip(sample)
    factor = float(np.exp(rng.uniform(*np.log(options.zoom))))
    wider = float(np.exp(rng.uniform(-1, 1) * np.log1p(options.stretch) / 2)) if options.stretch else 1.0
    max_shift_px = options.misregistration * sample.size[0] if all(sample.present) else 0.0
    sample = zoom(sample, factor, rng, options.min_visible, wider, max_shift_px)
    if sample.present[0]:
        sample.rgb = jitter_rgb(sample.rgb, options, rng)
    if sample.present[1]:
        sample.infrared = jitter_infrared(sample.infrared, options, rng)
    return sample


def flip(sample: PairedSample) -> PairedSample:
    """Flip the pair and its labels horizontally."""

    def flipped(boxes: np.ndarray | None) -> np.ndarray | None:
        if boxes is None:
            return None
        boxes = boxes.copy()
        boxes[:, [0, 2]] = sample.size[0] - boxes[:, [2, 0]]
        return boxes

    return replace(
        sample,
        rgb=sample.rgb[:, ::-1],
        infrared=sample.infrared[:, ::-1],
        boxes=flipped(sample.boxes),
        ignored=flipped(sample.ignored),
        mask=None if sample.mask is None else sample.mask[:, ::-1],
    )


def zoom(
    sample: PairedSample,
    factor: float,
    rng: np.random.Generator,
    min_visible: float,
    wider: float = 1.0,
    max_shift_px: float = 0.0,
) -> PairedSample:
    """Scale the pair by `factor` at a random position, in a frame of the same size.

    Padding is black in RGB, the frame's median in infrared, unlabelled in the mask.

    Args:
        sample, rng: the pair, and the generator of the position.
        factor, min_visible: see `Augmentation`.
        wider: factor on the width, and divisor of the height.
        max_shift_px: maximum shift in x and y, in pixels, of the infrared frame relative to the rest.
    """
    width, height = sample.size
    scale = np.array([factor * wider, factor / wider])
    spare_x, spare_y = width - width * scale[0], height - height * scale[1]
    shift_x, shift_y = rng.uniform(min(0, spare_x), max(0, spare_x)), rng.uniform(min(0, spare_y), max(0, spare_y))
    # pixel centres: x' + 0.5 = factor (x + 0.5) + shift
    matrix = np.array(
        [[scale[0], 0, shift_x + scale[0] / 2 - 0.5], [0, scale[1], shift_y + scale[1] / 2 - 0.5]], np.float64
    )

    shifted = (
        matrix
        if not max_shift_px
        else matrix + np.array([[0, 0, rng.uniform(-max_shift_px, max_shift_px)] for _ in "xy"])
    )

    def warp(image: np.ndarray, flags: int, border: float, transform: np.ndarray = matrix) -> np.ndarray:
        return cv2.warpAffine(
            np.ascontiguousarray(image), transform, (width, height), flags=flags, borderValue=(border,) * 4
        )

    def moved(boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        placed = boxes * np.tile(scale, 2) + np.array([shift_x, shift_y] * 2)
        clipped = np.clip(placed, 0, np.array([width, height] * 2))
        area, before = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (clipped, placed))
        keep = area > min_visible * before
        return clipped[keep].astype(np.float32), labels[keep]

    changed = replace(
        sample,
        rgb=warp(sample.rgb, cv2.INTER_LINEAR, 0),
        infrared=warp(sample.infrared, cv2.INTER_LINEAR, float(np.median(sample.infrared[::8, ::8])), shifted),
        mask=None if sample.mask is None else warp(sample.mask, cv2.INTER_NEAREST, 255),
    )
    if sample.boxes is not None and sample.labels is not None:
        changed.boxes, changed.labels = moved(sample.boxes, sample.labels)
    if sample.ignored is not None and sample.ignored_labels is not None:
        changed.ignored, changed.ignored_labels = moved(sample.ignored, sample.ignored_labels)
    return changed


def shrink(sample: PairedSample, largest: tuple[int, int]) -> PairedSample:
    """Scale the pair down to fit into (width, height) with its aspect ratio; smaller pairs are unchanged.

    Saves memory when the network's input is much smaller than the images.
    """
    factor = min(largest[0] / sample.size[0], largest[1] / sample.size[1])
    if factor >= 1:
        return sample
    size = max(1, round(sample.size[0] * factor)), max(1, round(sample.size[1] * factor))
    ratio = np.array([new / old for new, old in zip(size, sample.size, strict=True)] * 2, np.float32)
    mask = sample.mask
    infrared = without_invalid(sample.infrared, InvalidCounts()(sample.infrared))  # or averaging would mix them in
    return replace(
        sample,
        rgb=cv2.resize(np.ascontiguousarray(sample.rgb), size, interpolation=cv2.INTER_AREA),
        infrared=cv2.resize(np.ascontiguousarray(infrared), size, interpolation=cv2.INTER_AREA),
        boxes=None if sample.boxes is None else sample.boxes.astype(np.float32) * ratio,
        ignored=None if sample.ignored is None else sample.ignored.astype(np.float32) * ratio,
        mask=None
        if mask is None
        else cv2.resize(np.ascontiguousarray(mask), size, interpolation=cv2.INTER_NEAREST_EXACT),
    )


def jitter_rgb(image: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Vary gamma, saturation, contrast and brightness, with random grey, defocus and noise; uint8 [h, w, 3]."""
    gamma = np.exp(rng.uniform(-options.gamma, options.gamma))
    table = np.clip(255 * np.linspace(0, 1, 256) ** gamma, 0, 255).astype(np.uint8)
    colour = 0.0 if rng.random() < 0.1 else 1 + rng.uniform(-options.saturation, options.saturation)
    grey = np.tile(np.array([0.299, 0.587, 0.114]), (3, 1))
    gains = (1 + rng.uniform(-options.contrast, options.contrast)) * (1 + rng.uniform(-0.06, 0.06, 3))
    mix = gains[:, None] * (colour * np.eye(3) + (1 - colour) * grey)
    shift = 255 * rng.uniform(-options.brightness, options.brightness) * 0.5
    out = cv2.LUT(np.ascontiguousarray(image), table)
    out = cv2.transform(out, np.column_stack([mix, [shift] * 3]))
    noise = options.noise
    if options.low_light and rng.random() < options.low_light:
        out = cv2.convertScaleAbs(out, alpha=float(np.exp(rng.uniform(*np.log(_LOW_LIGHT_GAIN)))))
        noise = max(noise, _LOW_LIGHT_NOISE)
    return _add_noise(_defocus(out, options, rng), rng.uniform(0, noise), rng)


def jitter_infrared(frame: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Vary an infrared frame: conversion to 8 bits, inversion, gamma, contrast, blur and noise; uint8 or uint16 [h, w].

    A frame that stays 16-bit keeps its range of counts, which may be temperatures. Both kinds may get defects.
    """
    if options.inversion and rng.random() < options.inversion:
        low, high = int(frame.min()), int(frame.max())
        frame = ((low + high) - frame.astype(np.int32)).astype(frame.dtype)
    if frame.dtype == np.uint16 and rng.random() < options.eight_bit:
        low, high = np.percentile(frame[::4, ::4], (rng.uniform(0, 2), rng.uniform(98, 100)))
        gain = 255 / max(high - low, 1)
        frame = np.clip((frame.astype(np.float32) - low) * gain, 0, 255).astype(np.uint8)
    exponent = (
        float(np.exp(rng.uniform(-options.infrared_gamma, options.infrared_gamma))) if options.infrared_gamma else 1.0
    )
    if frame.dtype != np.uint8:
        counts = _jitter_counts(_defocus(np.ascontiguousarray(frame), options, rng), exponent, options.noise, rng)
        # No random number is drawn if defects are off, so that earlier runs stay reproducible.
        if options.thermal_defects and rng.random() < options.thermal_defects:
            counts = random_defects(counts, rng)
        return counts
    frame = np.ascontiguousarray(frame)
    if rng.random() < options.local_contrast:
        frame = cv2.createCLAHE(float(rng.uniform(1, 4)), (4, 4)).apply(frame)
    gain, middle = 1 + rng.uniform(-options.infrared_gain, options.infrared_gain), float(frame.mean())
    ramp = (np.arange(256) - middle) * gain + middle + rng.uniform(-40, 40) * min(options.infrared_gain, 0.3)
    ramp = np.clip(ramp, 0, 255)
    if exponent != 1.0:
        ramp = 255 * (ramp / 255) ** exponent
    frame = cv2.LUT(frame, ramp.astype(np.uint8))
    frame = _add_noise(_defocus(frame, options, rng), rng.uniform(0, options.noise), rng)
    if options.filled_defects and rng.random() < options.filled_defects:
        frame = _with_filled_defects(frame, rng)
    return frame


def _with_filled_defects(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add defects as they look after detection and filling in 16-bit counts; uint8 [h, w].

    The interior of invalid regions, which is 0 in the robot's network input, gets the 1st percentile of the frame,
    which the contract's percentiles map to about 0. Black would change the percentiles.
    """
    counts = random_defects(frame.astype(np.uint16) * _COUNTS_PER_LEVEL + _FIRST_COUNT, rng)
    valid = InvalidCounts()(counts)
    known = None
    if valid is not None:
        counts, known = fill_invalid(*weigh(counts, valid))
    grey = np.clip(np.rint((counts.astype(np.float32) - _FIRST_COUNT) / _COUNTS_PER_LEVEL), 0, 255).astype(np.uint8)
    if known is not None:
        grey[~known] = np.percentile(grey[known], 1) if known.any() else 0
    return grey


def _jitter_counts(frame: np.ndarray, exponent: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Vary gamma within the frame's range of counts, and add noise; uint16 [h, w]."""
    low, high = (float(edge) for edge in np.percentile(frame[::4, ::4], (1, 99)))
    span = max(high - low, 1.0)
    out = frame.astype(np.float32)
    if exponent != 1.0:
        inside = np.clip((out - low) / span, 0, 1)
        out += span * (inside**exponent - inside)
    if noise:
        grain = np.empty(frame.shape, np.float32)
        cv2.setRNGSeed(int(rng.integers(2**31)))
        cv2.randn(grain, 0, max(rng.uniform(0, noise) * span / 255, 1e-3))
        out += grain
    return np.clip(np.rint(out), 0, 65535).astype(np.uint16)


def _defocus(image: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    if rng.random() >= options.blur:
        return image
    return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.2)))


def _add_noise(image: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise from OpenCV's generator, ten times as fast as NumPy's, seeded by ours."""
    noise = np.empty(image.shape, np.int16)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    cv2.randn(noise.reshape(len(noise), -1), 0, max(std, 1e-3))  # scalars would fill only the first of three channels
    return np.clip(image + noise, 0, 255).astype(np.uint8)
