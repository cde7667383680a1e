"""Paired augmentation: one geometry for both bands and the labels, photometry for each band by itself.

Every function takes its own random generator, so that sample i of a run is the same whoever draws it and whenever.

Letters: h x w a pair's pixel grid, K objects (and, apart, those to be ignored).
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

__all__ = ["PLAIN", "Augmentation", "augment", "flip", "jitter_infrared", "jitter_rgb", "shrink", "zoom"]


@dataclass(frozen=True)
class Augmentation:
    """How far the pairs are varied.

    Attributes:
        flip: probability of a left-right flip.
        zoom: least and greatest factor; below 1 the picture shrinks into an empty frame, above 1 a crop is taken.
        stretch: greatest relative change of the aspect ratio.
        brightness, contrast, gamma: greatest relative change of the colour frame.
        saturation: greatest relative change of the colours' strength.
        blur: probability, for each band, of a slight defocus.
        local_contrast: probability that an 8-bit infrared frame is equalised locally, as many cameras do by themselves.
        infrared_gain: greatest relative change of the infrared frame's contrast before its normalisation.
        infrared_gamma: as `gamma`, of the infrared frame.
        inversion: probability that an infrared frame is reversed, as cameras do that show what is hot in black.
        noise: greatest standard deviation of added noise, in 8-bit counts; on 16 bits in 255ths of the frame's span.
        eight_bit: probability that a 16-bit infrared frame is seen as an 8-bit camera with automatic gain gives it.
        thermal_defects: probability that a 16-bit infrared frame gets dead pixels, dead lines, a border or telemetry
            rows (see `thermal_defects.random_defects`), after everything else. They are recognised and filled as on the
            robot when the frame becomes network input.
        filled_defects: probability that an 8-bit infrared frame looks as if such defects had been recognised in its
            counts and filled: most data sets hold 8 bits, in which nothing is recognised.
        band_dropout: probability, for each band, that it is hidden, so that single-band inference holds up.
        misregistration: maximum shift between the two frames of a pair, as a fraction of their width: cameras are never
            registered exactly. Labels stay with the RGB frame.
        low_light: probability that the RGB frame is darkened to what a camera gives in the dark: few counts and noise.
        least_visible: a box that keeps a smaller share of its area after a crop is dropped.

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
    least_visible: float = 0.35

    def __post_init__(self) -> None:
        chances = (
            "flip",
            "blur",
            "local_contrast",
            "inversion",
            "eight_bit",
            "thermal_defects",
            "filled_defects",
            "low_light",
            "least_visible",
        )
        strengths = (
            "stretch",
            "brightness",
            "contrast",
            "gamma",
            "saturation",
            "infrared_gain",
            "infrared_gamma",
            "noise",
            "misregistration",
        )
        wrong = [name for name in chances if not 0 <= getattr(self, name) <= 1]
        wrong += [name for name in strengths if not getattr(self, name) >= 0]
        if wrong:
            raise ValueError(f"augmentation: {', '.join(wrong)} out of range (probabilities lie in 0..1)")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"augmentation: zoom goes from a least to a greatest factor above 0, not {self.zoom}")
        if not 0 <= self.band_dropout <= 0.5:
            raise ValueError(f"augmentation: band_dropout is for each of two bands, 0..0.5, not {self.band_dropout}")


_DARK = (0.05, 0.4)
"""Gain of a frame in low light."""
_DARK_NOISE = 10.0
"""Maximum standard deviation of its noise, in counts: the sensor's own gain is high."""

_COUNTS_PER_LEVEL, _FIRST_COUNT = 32, 7000
"""Counts of a 14-bit thermal camera as an 8-bit image of them shows: 8,160 of its 16,384, about their middle."""

PLAIN = Augmentation(
    flip=0, zoom=(1, 1), brightness=0, contrast=0, gamma=0, saturation=0, blur=0, local_contrast=0, infrared_gain=0,
    noise=0, eight_bit=0, band_dropout=0,
)  # fmt: skip
"""Nothing is varied."""


def augment(sample: PairedSample, options: Augmentation, rng: np.random.Generator) -> PairedSample:
    """A variation of `sample`; the input's arrays are not changed."""
    if options == PLAIN:
        return replace(sample)
    if rng.random() < options.flip:
        sample = flip(sample)
    factor = float(np.exp(rng.uniform(*np.log(options.zoom))))
    wider = float(np.exp(rng.uniform(-1, 1) * np.log1p(options.stretch) / 2)) if options.stretch else 1.0
    apart = options.misregistration * sample.size[0] if all(sample.present) else 0.0
    sample = zoom(sample, factor, rng, options.least_visible, wider, apart)
    if sample.present[0]:
        sample.rgb = jitter_rgb(sample.rgb, options, rng)
    if sample.present[1]:
        sample.infrared = jitter_infrared(sample.infrared, options, rng)
    return sample


def flip(sample: PairedSample) -> PairedSample:
    """Left and right exchanged."""

    def turned(boxes: np.ndarray | None) -> np.ndarray | None:
        if boxes is None:
            return None
        boxes = boxes.copy()
        boxes[:, [0, 2]] = sample.size[0] - boxes[:, [2, 0]]
        return boxes

    return replace(
        sample,
        rgb=sample.rgb[:, ::-1],
        infrared=sample.infrared[:, ::-1],
        boxes=turned(sample.boxes),
        ignored=turned(sample.ignored),
        mask=None if sample.mask is None else sample.mask[:, ::-1],
    )


def zoom(
    sample: PairedSample,
    factor: float,
    rng: np.random.Generator,
    least_visible: float,
    wider: float = 1.0,
    apart: float = 0.0,
) -> PairedSample:
    """The pair seen `factor` times larger at a random place, in a frame of the same size.

    Areas that come into view from outside are black in RGB, the frame's median in infrared, unlabelled in the mask.

    Args:
        sample: the pair.
        factor: below 1 the picture shrinks into an empty frame, above 1 a crop is taken.
        rng: draws the place.
        least_visible: boxes that keep a smaller share of their area are dropped.
        wider: the width grows by this factor and the height shrinks by it.
        apart: maximum shift in pixels, in x and in y, of the infrared frame against the rest.
    """
    width, height = sample.size
    scale = np.array([factor * wider, factor / wider])
    spare_x, spare_y = width - width * scale[0], height - height * scale[1]
    shift_x, shift_y = rng.uniform(min(0, spare_x), max(0, spare_x)), rng.uniform(min(0, spare_y), max(0, spare_y))
    # pixel centres: x' + 0.5 = factor (x + 0.5) + shift
    matrix = np.array(
        [[scale[0], 0, shift_x + scale[0] / 2 - 0.5], [0, scale[1], shift_y + scale[1] / 2 - 0.5]], np.float64
    )

    shifted = matrix if not apart else matrix + np.array([[0, 0, rng.uniform(-apart, apart)] for _ in "xy"])

    def warp(image: np.ndarray, flags: int, border: float, by: np.ndarray = matrix) -> np.ndarray:
        return cv2.warpAffine(np.ascontiguousarray(image), by, (width, height), flags=flags, borderValue=(border,) * 4)

    def moved(boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        placed = boxes * np.tile(scale, 2) + np.array([shift_x, shift_y] * 2)
        clipped = np.clip(placed, 0, np.array([width, height] * 2))
        area, before = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (clipped, placed))
        keep = area > least_visible * before
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
    """The pair made to fit into (width, height) with its aspect kept; as it is where it fits already.

    For training: a network of 280 x 224 pixels has no use of the megapixels around it, and memory has.
    """
    factor = min(largest[0] / sample.size[0], largest[1] / sample.size[1])
    if factor >= 1:
        return sample
    size = max(1, round(sample.size[0] * factor)), max(1, round(sample.size[1] * factor))
    ratio = np.array([new / old for new, old in zip(size, sample.size, strict=True)] * 2, np.float32)
    mask = sample.mask
    infrared = without_invalid(sample.infrared, InvalidCounts()(sample.infrared))  # else it is averaged with the rest
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
    noise = options.noise
    if options.low_light and rng.random() < options.low_light:
        out = cv2.convertScaleAbs(out, alpha=float(np.exp(rng.uniform(*np.log(_DARK)))))
        noise = max(noise, _DARK_NOISE)
    return _add_noise(_defocus(out, options, rng), rng.uniform(0, noise), rng)


def jitter_infrared(frame: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Automatic gain to 8 bits now and then, reversal, gamma, changed contrast, blur and noise: uint8 or uint16 [h, w].

    A frame that stays 16 bits wide keeps its range of counts, which may be temperatures. Both kinds may get defects.
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
        # Nothing is drawn without defects, so that runs of before stay as they were.
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
    """What is left of defects when they were recognised in 16-bit counts and filled: uint8 [h, w].

    What the robot's network sees as 0, deep inside of invalid regions, becomes as dark as the darkest hundredth, which
    the contract's percentiles make about 0; black would move them.
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
    """Gamma within the frame's own range and noise, of raw counts uint16 [h, w]."""
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
    """Gaussian noise from a generator that OpenCV seeds from ours: ten times the speed of NumPy's."""
    noise = np.empty(image.shape, np.int16)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    cv2.randn(noise.reshape(len(noise), -1), 0, max(std, 1e-3))  # one channel: scalars would fill only the first
    return np.clip(image + noise, 0, 255).astype(np.uint8)
