"""What colour and infrared pictures of one thing have in common: where its edges are and which way they run.

Grey levels say nothing across bands (hot may be bright or dark, a shadow is seen by one camera only), an edge's
direction modulo 180 degrees mostly does. So a picture becomes channels of oriented gradients, blurred, and scaled by
the gradients around, so that a faint edge counts nearly as much as a strong one and noise counts little. The idea is
that of channel features of oriented gradients (Ye et al., "Fast and Robust Matching for Multimodal Remote Sensing Image
Registration", TGRS 2019), the scaling is ours.

Letters: h x w a picture, C orientations.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["ORIENTATIONS", "grey_picture", "structure"]

ORIENTATIONS = 6
_SURROUND = 12.0
_FLOOR = 0.35


def grey_picture(image: np.ndarray) -> np.ndarray:
    """One channel of float32 [h, w] in 0..1: luminance of uint8 [h, w, 3] in RGB order, or infrared counts uint8 or
    uint16 [h, w] between their 0.5th and 99.5th percentile.

    Raises:
        ValueError: the image is of another kind.
    """
    if image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16) or image.size == 0:
        raise ValueError(
            f"an image is uint8 [h, w, 3], or uint8 or uint16 [h, w], got {image.dtype} {tuple(image.shape)}"
        )
    sample = image[:: max(1, image.shape[0] // 256), :: max(1, image.shape[1] // 256)]
    low, high = np.percentile(sample, (0.5, 99.5))
    scaled = (image.astype(np.float32) - np.float32(low)) * np.float32(1.0 / max(high - low, 1.0))
    return np.clip(scaled, 0.0, 1.0)


def structure(picture: np.ndarray, valid: np.ndarray | None = None, blur: float = 1.5) -> np.ndarray:
    """Channels of oriented gradients, float32 [C, h, w]; 0 where there is nothing to see.

    Args:
        picture: float32 [h, w].
        valid: bool [h, w], where the picture holds what the camera saw; None: everywhere.
        blur: standard deviation of the blur of the channels, in pixels.
    """
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
    across, down = cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
    strength = cv2.magnitude(across, down)
    if valid is not None:
        inside = cv2.erode(valid.astype(np.uint8), np.ones((9, 9), np.uint8), borderType=cv2.BORDER_CONSTANT)
        inside = inside.astype(np.float32)
        strength *= inside
        around = cv2.GaussianBlur(strength, (0, 0), _SURROUND)
        around /= np.maximum(cv2.GaussianBlur(inside, (0, 0), _SURROUND), 1e-3)
        usual = float(strength.sum()) / max(float(inside.sum()), 1.0)
    else:
        around, usual = cv2.GaussianBlur(strength, (0, 0), _SURROUND), float(strength.mean())
    # Twice the angle is the same for both directions across an edge, so for both polarities.
    squared = np.maximum(strength * strength, 1e-12)
    double_cos, double_sin = (across * across - down * down) / squared, 2 * across * down / squared
    weight = strength / (strength + around + np.float32(_FLOOR * usual + 1e-6))
    channels = np.empty((ORIENTATIONS, *picture.shape), np.float32)
    for k in range(ORIENTATIONS):
        angle = 2 * np.pi * k / ORIENTATIONS
        near = np.maximum(
            0.5 + 0.5 * (double_cos * np.float32(np.cos(angle)) + double_sin * np.float32(np.sin(angle))), 0
        )
        channels[k] = cv2.GaussianBlur(weight * near * near, (0, 0), blur)
    # What all directions share says where texture is, which differs between bands more than directions do.
    channels -= 0.75 * channels.mean(axis=0)
    return channels
