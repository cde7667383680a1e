"""Paired augmentation: one geometry for both bands and the labels, photometry for each band by itself.

Every function takes its own random generator, so that sample i of a run is the same whoever draws it and whenever.

Letters: h x w a pair's pixel grid, K objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.data.sample import PairedSample

__all__ = ["Augmentation", "augment", "flip", "jitter_infrared", "jitter_rgb", "zoom"]


@dataclass(frozen=True)
class Augmentation:
    """How far the pairs are varied.

    Attributes:
        flip: probability of a left-right flip.
        zoom: least and greatest factor; below 1 the picture shrinks into an empty frame, above 1 a crop is taken.
        brightness, contrast, gamma: greatest relative change of the colour frame.
        saturation: greatest relative change of the colours' strength.
        blur: probability, for each band, of a slight defocus.
        local_contrast: probability that an 8-bit infrared frame is equalised locally, as many cameras do by themselves.
        infrared_gain: greatest relative change of the infrared frame's contrast before its normalisation.
        noise: greatest standard deviation of added noise, in 8-bit counts.
        eight_bit: probability that a 16-bit infrared frame is seen as an 8-bit camera with automatic gain gives it.
        band_dropout: probability, for each band, that it is hidden, so that single-band inference holds up.
        least_visible: a box that keeps a smaller share of its area after a crop is dropped.
    """

    flip: float = 0.5
    zoom: tuple[float, float] = (0.75, 1.6)
    brightness: float = 0.25
    contrast: float = 0.25
    gamma: float = 0.3
    saturation: float = 0.4
    blur: float = 0.2
    local_contrast: float = 0.3
    infrared_gain: float = 0.3
    noise: float = 4.0
    eight_bit: float = 0.5
    band_dropout: float = 0.15
    least_visible: float = 0.35


def augment(sample: PairedSample, options: Augmentation, rng: np.random.Generator) -> PairedSample:
    """A variation of `sample`; the input's arrays are not changed."""
    if rng.random() < options.flip:
        sample = flip(sample)
    sample = zoom(sample, float(np.exp(rng.uniform(*np.log(options.zoom)))), rng, options.least_visible)
    sample.rgb = jitter_rgb(sample.rgb, options, rng)
    sample.infrared = jitter_infrared(sample.infrared, options, rng)
    return sample


def flip(sample: PairedSample) -> PairedSample:
    """Left and right exchanged."""
    boxes = sample.boxes
    if boxes is not None:
        boxes = boxes.copy()
        boxes[:, [0, 2]] = sample.size[0] - boxes[:, [2, 0]]
    return PairedSample(
        rgb=sample.rgb[:, ::-1],
        infrared=sample.infrared[:, ::-1],
        boxes=boxes,
        labels=sample.labels,
        mask=None if sample.mask is None else sample.mask[:, ::-1],
        name=sample.name,
    )


def zoom(sample: PairedSample, factor: float, rng: np.random.Generator, least_visible: float) -> PairedSample:
    """The pair seen `factor` times larger at a random place, in a frame of the same size.

    Areas that come into view from outside are black in RGB, the frame's median in infrared, unlabelled in the mask.
    """
    width, height = sample.size
    spare_x, spare_y = width - width * factor, height - height * factor
    shift_x, shift_y = rng.uniform(min(0, spare_x), max(0, spare_x)), rng.uniform(min(0, spare_y), max(0, spare_y))
    # pixel centres: x' + 0.5 = factor (x + 0.5) + shift
    matrix = np.array([[factor, 0, shift_x + factor / 2 - 0.5], [0, factor, shift_y + factor / 2 - 0.5]])

    def warp(image: np.ndarray, flags: int, border: float) -> np.ndarray:
        return cv2.warpAffine(
            np.ascontiguousarray(image), matrix, (width, height), flags=flags, borderValue=(border,) * 4
        )

    boxes, labels = sample.boxes, sample.labels
    if boxes is not None and labels is not None:
        moved = boxes * factor + np.array([shift_x, shift_y] * 2, np.float32)
        clipped = np.clip(moved, 0, np.array([width, height] * 2, np.float32))
        area, before = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (clipped, moved))
        keep = area > least_visible * before
        boxes, labels = clipped[keep].astype(np.float32), labels[keep]
    return PairedSample(
        rgb=warp(sample.rgb, cv2.INTER_LINEAR, 0),
        infrared=warp(sample.infrared, cv2.INTER_LINEAR, float(np.median(sample.infrared[::8, ::8]))),
        boxes=boxes,
        labels=labels,
        mask=None if sample.mask is None else warp(sample.mask, cv2.INTER_NEAREST, 255),
        name=sample.name,
    )


def jitter_rgb(image: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Gamma, saturation, contrast, brightness, now and then grey or out of focus, and noise: uint8 [h, w, 3]."""
    gamma = np.exp(rng.uniform(-options.gamma, options.gamma))
    table = np.clip(255 * np.linspace(0, 1, 256) ** gamma, 0, 255).astype(np.uint8)
    colour = 0.0 if rng.random() < 0.1 else 1 + rng.uniform(-options.saturation, options.saturation)
    grey = np.tile(np.array([0.299, 0.587, 0.114]), (3, 1))
    gains = (1 + rng.uniform(-options.contrast, options.contrast)) * (1 + rng.uniform(-0.06, 0.06, 3))
    mix = gains[:, None] * (colour * np.eye(3) + (1 - colour) * grey)
    shift = 255 * rng.uniform(-options.brightness, options.brightness) * 0.5
    out = cv2.LUT(np.ascontiguousarray(image), table)
    out = cv2.transform(out, np.column_stack([mix, [shift] * 3]))
    return _add_noise(_defocus(out, options, rng), rng.uniform(0, options.noise), rng)


def jitter_infrared(frame: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Automatic gain to 8 bits now and then, changed contrast, blur and noise: uint8 or uint16 [h, w]."""
    if frame.dtype == np.uint16 and rng.random() < options.eight_bit:
        low, high = np.percentile(frame[::4, ::4], (rng.uniform(0, 2), rng.uniform(98, 100)))
        gain = 255 / max(high - low, 1)
        frame = np.clip((frame.astype(np.float32) - low) * gain, 0, 255).astype(np.uint8)
    if frame.dtype != np.uint8:
        return _defocus(np.ascontiguousarray(frame), options, rng)
    frame = np.ascontiguousarray(frame)
    if rng.random() < options.local_contrast:
        frame = cv2.createCLAHE(float(rng.uniform(1, 4)), (4, 4)).apply(frame)
    gain, middle = 1 + rng.uniform(-options.infrared_gain, options.infrared_gain), float(frame.mean())
    ramp = (np.arange(256) - middle) * gain + middle + rng.uniform(-12, 12)
    frame = cv2.LUT(frame, np.clip(ramp, 0, 255).astype(np.uint8))
    return _add_noise(_defocus(frame, options, rng), rng.uniform(0, options.noise), rng)


def _defocus(image: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    if rng.random() >= options.blur:
        return image
    return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.2)))


def _add_noise(image: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise from a generator that OpenCV seeds from ours: ten times the speed of NumPy's."""
    noise = np.empty(image.shape, np.int16)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    cv2.randn(noise.reshape(len(noise), -1), 0, max(std, 1e-3))  # one channel: scalars would fill only the first
    return np.clip(image + noise, 0, 255).astype(np.uint8)
