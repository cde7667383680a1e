"""RGB images modified to look like those of another camera, for training the placeholder for DINOv2.

Infrared images show the same outlines in other tones, warm roads bright and cold skies dark, often in another order of
grey levels. No infrared image is used: tones are drawn at random.
"""

from __future__ import annotations

import cv2
import numpy as np

_MIN_SPAN = 60
"""Grey values that a curve covers at least, so that something is left to see."""
_SHADING = 50


def disguised(
    image: np.ndarray, rng: np.random.Generator, grey: float, negative: float, tones: bool = False
) -> np.ndarray:
    """Make an RGB image uint8 [H, W, 3] grey with one probability, and negative with another.

    Args:
        image: the image.
        rng: random generator.
        grey, negative: these probabilities; both may apply.
        tones: grey by `toned` instead of the usual grey.
    """
    if rng.random() < grey:
        mono = toned(image, rng) if tones else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = np.repeat(mono[..., None], 3, axis=2)
    return 255 - image if rng.random() < negative else image


def toned(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mix channels to one, with tones bent by a non-monotonic curve; half of the images are also shaded.

    Args:
        image: uint8 [H, W, 3].
        rng: of mixture, curve and shading.

    Returns:
        uint8 [H, W].
    """
    mixture = rng.dirichlet((1, 1, 1)).astype(np.float32)
    mono = cv2.LUT(np.clip(image @ mixture, 0, 255).astype(np.uint8), _curve(rng))
    if rng.random() < 0.5:
        coarse = rng.uniform(-_SHADING, _SHADING, (3, 3)).astype(np.float32)
        field = cv2.resize(coarse, (mono.shape[1], mono.shape[0]), interpolation=cv2.INTER_CUBIC)
        mono = np.clip(mono + field, 0, 255).astype(np.uint8)
    return mono


def _curve(rng: np.random.Generator) -> np.ndarray:
    """Return a look-up table uint8 [256] through three to five random tones."""
    knots = int(rng.integers(3, 6))
    values = np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, knots), rng.uniform(0, 255, knots)).astype(np.float32)
    low, high = values.min(), values.max()
    if high - low < _MIN_SPAN:
        values = (values - low) / max(high - low, 1) * _MIN_SPAN + low
    return np.clip(values, 0, 255).astype(np.uint8)
