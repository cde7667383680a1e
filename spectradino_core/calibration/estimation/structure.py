"""Structure features that RGB and IR images share: position and orientation of edges.

Grey levels are not comparable across bands (hot may be bright or dark, only one camera sees a shadow); an edge's
direction modulo 180 degrees mostly is. An image becomes channels of oriented gradients, blurred and normalised by the
gradients around, so that faint edges count nearly as much as strong ones and noise counts little. The idea follows
channel features of oriented gradients (Ye et al., "Fast and Robust Matching for Multimodal Remote Sensing Image
Registration", TGRS 2019); the normalisation is our own.

Letters: h x w an image, C orientations.
"""

from __future__ import annotations

import cv2
import numpy as np

ORIENTATIONS = 6
_SURROUND = 12.0
_FLOOR = 0.35
_BLUR = 1.5


def grey_image(image: np.ndarray) -> np.ndarray:
    """Return one channel of float32 [h, w] in 0..1; raises ValueError for an image of another kind.

    This is the luminance of RGB uint8 [h, w, 3], or IR counts uint8 or uint16 [h, w] between percentiles 0.5 and 99.5.
    """
    if image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16) or image.size == 0:
        raise ValueError(
            f"an image must be uint8 [h, w, 3], or uint8 or uint16 [h, w], got {image.dtype} {tuple(image.shape)}"
        )
    sample = image[:: max(1, image.shape[0] // 256), :: max(1, image.shape[1] // 256)]
    low, high = np.percentile(sample, (0.5, 99.5))
    scaled = (image.astype(np.float32) - np.float32(low)) * np.float32(1.0 / max(high - low, 1.0))
    return np.clip(scaled, 0.0, 1.0)


def warped(
    infrared: np.ndarray, matrix: np.ndarray, size: tuple[int, int], scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Warp an IR image by a matrix of about this scale: float32 [h, w], and a bool [h, w] mask of valid pixels."""
    if scale < 1:
        infrared = cv2.GaussianBlur(infrared, (0, 0), 0.4 / scale)
    image = cv2.warpPerspective(infrared, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.warpPerspective(np.ones(infrared.shape, np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    return image, seen > 0


def structure(grey: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Return channels of oriented gradients of a grey image, float32 [C, h, w]; 0 where there is no structure.

    Only the pixels of `valid`, bool [h, w], count; None: all.
    """
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
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
    # Doubling the angle maps both directions across an edge, and so both polarities, to the same value.
    squared = np.maximum(strength * strength, 1e-12)
    double_cos, double_sin = (across * across - down * down) / squared, 2 * across * down / squared
    weight = strength / (strength + around + np.float32(_FLOOR * usual + 1e-6))
    channels = np.empty((ORIENTATIONS, *grey.shape), np.float32)
    for k in range(ORIENTATIONS):
        angle = 2 * np.pi * k / ORIENTATIONS
        near = np.maximum(
            0.5 + 0.5 * (double_cos * np.float32(np.cos(angle)) + double_sin * np.float32(np.sin(angle))), 0
        )
        channels[k] = cv2.GaussianBlur(weight * near * near, (0, 0), _BLUR)
    # The orientations' mean marks texture, which differs between bands more than orientation does.
    channels -= 0.75 * channels.mean(axis=0)
    return channels
