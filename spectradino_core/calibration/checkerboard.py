"""Checkerboard of RGB and IR tiles in RGB pixels, for visual inspection of a registration.

If the registration is right, edges continue across tiles.

Letters: h x w the RGB image, h' x w' the IR image.
"""

from __future__ import annotations

import cv2
import numpy as np

from spectradino_core.calibration.registration import Registration, Warp
from spectradino_core.drawing import stretched
from spectradino_core.invalid_counts import InvalidCounts

_LINE = (235, 235, 235)
_OUTLINE = (64, 220, 255)
_UNSEEN = 0.35
_TILES = 8
"""Tiles along the longer side."""


def checkerboard(rgb: np.ndarray, infrared: np.ndarray, registration: Registration | None = None) -> np.ndarray:
    """Draw alternating RGB and IR tiles, uint8 RGB [h, w, 3].

    IR tiles are stretched between the 1st and 99th percentile of the part inside the RGB image; RGB tiles that the IR
    camera does not see are darkened, and its field of view is outlined.

    Args:
        rgb, infrared: uint8 [h, w, 3] in RGB order, and uint8 or uint16 [h', w'].
        registration: IR-to-RGB mapping; None: the IR image covers the whole RGB image.

    Raises:
        ValueError, RegistrationError: an image has another shape or type, or a size that the registration is not for.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"an RGB frame must be uint8 [h, w, 3], got {rgb.dtype} {tuple(rgb.shape)}")
    if infrared.ndim != 2 or infrared.dtype not in (np.uint8, np.uint16) or infrared.size == 0:
        raise ValueError(f"an IR frame must be uint8 or uint16 [h, w], got {infrared.dtype} {tuple(infrared.shape)}")
    height, width = rgb.shape[:2]
    size, ir_size = (width, height), (infrared.shape[1], infrared.shape[0])
    if registration is None:
        registration = Registration.whole(ir_size, size)
    warp = Warp.of(registration, ir_size, size, size)
    warped, seen = warp(infrared), warp.valid
    if seen is None:
        seen = np.ones((height, width), bool)

    valid = InvalidCounts()(infrared)
    counted = seen if valid is None else seen & (warp(valid) == 255)
    grey = stretched(warped, warped[counted] if counted.any() else warped)
    hot = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)

    side = -(-max(width, height) // _TILES)
    columns, rows = np.arange(width) // side, np.arange(height)[:, None] // side
    infrared_tiles = ((columns + rows) % 2 == 1) & seen
    out = np.where(infrared_tiles[..., None], hot, rgb)
    if not seen.all():
        out = np.where(seen[..., None], out, (out * _UNSEEN).astype(np.uint8))
    thickness = max(1, round(max(width, height) / 1000))
    lines = np.zeros((height, width), np.uint8)
    for at in range(side, width, side):
        cv2.line(lines, (at, 0), (at, height - 1), 1, thickness)
    for at in range(side, height, side):
        cv2.line(lines, (0, at), (width - 1, at), 1, thickness)
    drawn = lines.astype(bool) & seen
    out[drawn] = (out[drawn] * 0.5 + np.array(_LINE) * 0.5).astype(np.uint8)
    if not seen.all():
        edges, _ = cv2.findContours(seen.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(out, edges, -1, _OUTLINE, thickness + 1, cv2.LINE_AA)
    return out
