"""Preprocess source frames to network input, with the same code in training, in replay and on the robot.

The image is scaled to fit the network's input with its aspect ratio kept, placed at the top left corner, and the rest
is padded: RGB with the mean colour, IR with 0. `Letterbox` keeps the exact factors, so that boxes map back to the
pixels they came from whatever the rounding.

Letters: H x W the network's input, h x w a source image, K boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.calibration.registration import Registration, Warp
from spectradino_core.modality import IMAGENET_MEAN, IMAGENET_STD
from spectradino_core.runtime.scaling import fill_invalid, scale, scale_valid, weigh
from spectradino_core.thermal import ThermalNormaliser

RGB_GAIN = np.float32(1.0) / (np.float32(255.0) * np.array(IMAGENET_STD, np.float32))
RGB_BIAS = np.array(IMAGENET_MEAN, np.float32) / np.array(IMAGENET_STD, np.float32)
"""Normalisation v * gain - bias of values 0..255 by channel; float32 [3] each."""
RGB_VALUES = np.arange(256, dtype=np.float32) * RGB_GAIN[:, None] - RGB_BIAS[:, None]
"""Lookup table [3, 256] of the normalised values by channel: a lookup is one pass, arithmetic two."""


class FrameError(ValueError):
    """A frame has an unsupported shape or type."""


@dataclass(frozen=True)
class Letterbox:
    """Geometry, each (width, height): source image, network's input, and scaled content at its top left corner."""

    source: tuple[int, int]
    network: tuple[int, int]
    content: tuple[int, int]

    @classmethod
    def fit(cls, source: tuple[int, int], network: tuple[int, int]) -> Letterbox:
        """Fit `source` into `network`, both (width, height), as large as possible with its aspect ratio kept."""
        scale = min(network[0] / source[0], network[1] / source[1])
        content = tuple(max(1, min(n, round(s * scale))) for s, n in zip(source, network, strict=True))
        return cls(source, network, (content[0], content[1]))

    def to_source(self, boxes: np.ndarray) -> np.ndarray:
        """Map boxes [K, 4] x1 y1 x2 y2 from network to source pixels, clipped to the source image."""
        factors = np.array([s / c for s, c in zip(self.source, self.content, strict=True)] * 2, np.float32)
        limits = np.array(self.source * 2, np.float32)
        return np.minimum(np.maximum(boxes.astype(np.float32) * factors, np.float32(0.0)), limits)

    def to_network(self, boxes: np.ndarray) -> np.ndarray:
        """Map boxes [K, 4] x1 y1 x2 y2 from source to network pixels."""
        factors = np.array([c / s for s, c in zip(self.source, self.content, strict=True)] * 2, np.float32)
        return boxes.astype(np.float32) * factors

    def mask_to_source(self, mask: np.ndarray) -> np.ndarray:
        """Map a class mask uint8 [H, W] of the network's input to uint8 [h, w] of the source image.

        Each pixel takes the class nearest to its centre, consistent with boxes and images; OpenCV's INTER_NEAREST uses
        the pixel's corner and shifts the mask by up to half a pixel.
        """
        content = mask[: self.content[1], : self.content[0]]
        return cv2.resize(np.ascontiguousarray(content), self.source, interpolation=cv2.INTER_NEAREST_EXACT)

    def mask_to_network(self, mask: np.ndarray, fill: int = 255) -> np.ndarray:
        """Map a class mask uint8 [h, w] of the source image to uint8 [H, W], `fill` outside the image."""
        out = np.full((self.network[1], self.network[0]), fill, np.uint8)
        out[: self.content[1], : self.content[0]] = cv2.resize(
            mask, self.content, interpolation=cv2.INTER_NEAREST_EXACT
        )
        return out


def scaled_rgb(image: np.ndarray, box: Letterbox, out: np.ndarray | None = None) -> np.ndarray:
    """Scale an RGB image to the box's `content`, uint8; FrameError if it is not uint8 [h, w, 3]."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise FrameError(f"an RGB frame must be uint8 [h, w, 3], got {image.dtype} {tuple(image.shape)}")
    return scale(image, box.content, out)


def rgb_input(image: np.ndarray, box: Letterbox, out: np.ndarray | None = None) -> np.ndarray:
    """Convert an RGB image, uint8 [h, w, 3], to network input float32 [3, H, W], normalised as DINOv2 expects.

    `out` is an optional buffer, 0 outside the image, such as the result of an earlier call with the same `box`: much
    cheaper than new memory.

    Raises:
        FrameError: not uint8 [h, w, 3].
    """
    small = scaled_rgb(image, box)
    if out is None:
        out = np.zeros((3, box.network[1], box.network[0]), np.float32)
    for channel, plane in enumerate(cv2.split(small)):  # faster than strided passes over [h, w, 3]
        cv2.LUT(plane, RGB_VALUES[channel], dst=out[channel, : box.content[1], : box.content[0]])
    return out


def scaled_infrared(
    frame: np.ndarray, box: Letterbox, registration: Registration | None = None, valid: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Scale or warp an IR frame of raw counts, uint8 or uint16 [h', w'], to its area in the network's input.

    With a registration the frame is warped to the pixels of the RGB image, which `box` places; where the IR camera sees
    nothing, the input is 0, and the contract's percentiles exclude it. Without one it is stretched over the whole RGB
    image whatever its size, assuming that both cameras have the same field of view.

    Invalid pixels (`valid` as of `InvalidCounts`) are filled from their neighbourhood; deep inside an invalid region
    they count as not seen.

    Returns:
        Counts of the frame's type and of the box's `content`; and bool of that size, where the camera sees something,
        None: everywhere.

    Raises:
        RegistrationError: the registration is not for images of these sizes.
    """
    if registration is None:
        if valid is None:
            return scale(frame, box.content), None
        return scale_valid(frame, valid, box.content)
    warp = Warp.of(registration, (frame.shape[1], frame.shape[0]), box.source, box.content)
    if valid is None:
        return warp(scale(frame, warp.averaged)), warp.valid
    averaged, known = scale_valid(frame, valid, warp.averaged)
    counts, seen = warp(averaged), warp.valid
    if known is not None:
        all_known = warp(known.view(np.uint8) * np.uint8(255)) == 255  # of all interpolated pixels
        seen = all_known if seen is None else seen & all_known
    return counts, seen


def without_invalid(frame: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Fill the invalid pixels of a frame as `scaled_infrared` does, without scaling; 0 deep inside invalid regions."""
    if valid is None:
        return frame
    counts, known = fill_invalid(*weigh(frame, valid))
    if known is not None:
        counts[~known] = 0
    return counts


def infrared_input(
    frame: np.ndarray,
    box: Letterbox,
    normaliser: ThermalNormaliser,
    registration: Registration | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Convert an IR frame to network input, float32 [1, H, W] in [0, 1]; see `scaled_infrared`; `out`: see `rgb_input`.

    Raises:
        ThermalError: the frame does not fit the model's thermal contract.
        RegistrationError: the registration is not for images of these sizes.
    """
    small, valid = scaled_infrared(frame, box, registration, normaliser.valid_pixels(frame))
    if out is None:
        out = np.zeros((1, box.network[1], box.network[0]), np.float32)
    normaliser(small, valid, out[0, : box.content[1], : box.content[0]])
    return out
