"""Source frames to network input: the same code in training, in replay and on the robot.

The picture is scaled to fit the network's input with its aspect kept, laid at the top left corner, and the rest is
filled: RGB with the mean colour, infrared with 0. `Letterbox` remembers the exact factors, so that boxes come back on
the pixels they came from whatever the rounding was.

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

__all__ = [
    "RGB_BIAS",
    "RGB_GAIN",
    "RGB_VALUES",
    "FrameError",
    "Letterbox",
    "infrared_input",
    "rgb_input",
    "scaled_infrared",
    "scaled_rgb",
    "without_invalid",
]

RGB_GAIN = np.float32(1.0) / (np.float32(255.0) * np.array(IMAGENET_STD, np.float32))
RGB_BIAS = np.array(IMAGENET_MEAN, np.float32) / np.array(IMAGENET_STD, np.float32)
"""A value v of 0..255 becomes v * gain - bias, channel by channel; float32 [3] each."""
RGB_VALUES = np.arange(256, dtype=np.float32) * RGB_GAIN[:, None] - RGB_BIAS[:, None]
"""What each of the 256 values of each channel becomes, [3, 256]: a look-up is one pass where arithmetic is two."""


class FrameError(ValueError):
    """A frame is not the kind of array that the pipeline takes."""


@dataclass(frozen=True)
class Letterbox:
    """Where a source image lies in the network's input.

    Attributes:
        source: (width, height) of the source image in pixels.
        network: (width, height) of the network's input.
        content: (width, height) of the scaled picture inside it, from the top left corner.
    """

    source: tuple[int, int]
    network: tuple[int, int]
    content: tuple[int, int]

    @classmethod
    def fit(cls, source: tuple[int, int], network: tuple[int, int]) -> Letterbox:
        """The largest placing of `source` in `network`, both (width, height), that keeps the aspect."""
        scale = min(network[0] / source[0], network[1] / source[1])
        content = tuple(max(1, min(n, round(s * scale))) for s, n in zip(source, network, strict=True))
        return cls(source, network, (content[0], content[1]))

    def to_source(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [K, 4] x1 y1 x2 y2 from network pixels to source pixels, clipped to the source image."""
        factors = np.array([s / c for s, c in zip(self.source, self.content, strict=True)] * 2, np.float32)
        limits = np.array(self.source * 2, np.float32)
        return np.minimum(np.maximum(boxes.astype(np.float32) * factors, np.float32(0.0)), limits)

    def to_network(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [K, 4] x1 y1 x2 y2 from source pixels to network pixels."""
        factors = np.array([c / s for s, c in zip(self.source, self.content, strict=True)] * 2, np.float32)
        return boxes.astype(np.float32) * factors

    def mask_to_source(self, mask: np.ndarray) -> np.ndarray:
        """A class mask uint8 [H, W] over the network's input to uint8 [h, w] over the source image.

        Each pixel takes the class nearest to its centre, as boxes and pictures are laid; OpenCV's plain INTER_NEAREST
        goes by the pixel's corner and shifts the mask by up to half a pixel.
        """
        content = mask[: self.content[1], : self.content[0]]
        return cv2.resize(np.ascontiguousarray(content), self.source, interpolation=cv2.INTER_NEAREST_EXACT)

    def mask_to_network(self, mask: np.ndarray, fill: int = 255) -> np.ndarray:
        """A class mask uint8 [h, w] over the source image to uint8 [H, W], `fill` outside the picture."""
        out = np.full((self.network[1], self.network[0]), fill, np.uint8)
        out[: self.content[1], : self.content[0]] = cv2.resize(
            mask, self.content, interpolation=cv2.INTER_NEAREST_EXACT
        )
        return out


def scaled_rgb(image: np.ndarray, box: Letterbox, out: np.ndarray | None = None) -> np.ndarray:
    """A colour image uint8 [h, w, 3] scaled to its picture in the network's input: uint8, of the box's `content`.

    Raises:
        FrameError: not uint8 [h, w, 3].
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise FrameError(f"a colour frame is uint8 [h, w, 3], got {image.dtype} {tuple(image.shape)}")
    return scale(image, box.content, out)


def rgb_input(image: np.ndarray, box: Letterbox, out: np.ndarray | None = None) -> np.ndarray:
    """A colour image uint8 [h, w, 3] in RGB order to float32 [3, H, W], normalised as DINOv2 expects.

    `out`, where given, is filled and returned: float32 [3, H, W] that is 0 outside of the picture, as the result of an
    earlier call with the same `box` is. Memory that is written again costs a fraction of fresh memory.

    Raises:
        FrameError: not uint8 [h, w, 3].
    """
    small = scaled_rgb(image, box)
    if out is None:
        out = np.zeros((3, box.network[1], box.network[0]), np.float32)
    for channel, plane in enumerate(cv2.split(small)):  # planar passes beat strided ones over [h, w, 3]
        cv2.LUT(plane, RGB_VALUES[channel], dst=out[channel, : box.content[1], : box.content[0]])
    return out


def scaled_infrared(
    frame: np.ndarray, box: Letterbox, registration: Registration | None = None, valid: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """An infrared frame of raw counts, uint8 or uint16 [h', w'], laid over its picture in the network's input.

    With a registration the frame is warped onto the pixels of its colour partner, which `box` places; where the
    infrared camera sees nothing, the input is 0 as it is outside of the picture, and the contract's percentiles don't
    look there. Without one it is laid over the whole colour picture whatever its own size: the two cameras are taken to
    see the same field.

    Args:
        frame: the counts.
        box: where the image lies in the network's input.
        registration: where infrared pixels lie in the RGB image.
        valid: uint8 [h', w'], 255 where a pixel of the frame is a measurement, else 0 (see `InvalidCounts`); None:
            everywhere. Invalid pixels are kept out of all averages and filled from their surroundings; what lies deep
            inside an invalid region counts as not seen.

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
        return warp(frame), warp.valid
    averaged, known = scale_valid(frame, valid, warp.averaged)
    counts, seen = warp(averaged), warp.valid
    if known is not None:
        all_known = warp(known.view(np.uint8) * np.uint8(255)) == 255  # of the pixels that one was mixed from
        seen = all_known if seen is None else seen & all_known
    return counts, seen


def without_invalid(frame: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """A frame of its own size whose invalid pixels are filled from their surroundings.

    Args:
        frame: counts, uint8 or uint16 [h, w].
        valid: as of `scaled_infrared`.

    Returns:
        Counts of the frame's type and shape, the frame itself where all is valid; deep inside invalid regions 0.
    """
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
    """An infrared frame of raw counts, uint8 or uint16 [h', w'], to float32 [1, H, W] in [0, 1]; see `scaled_infrared`.

    `out` is as in `rgb_input`, float32 [1, H, W].

    Raises:
        ThermalError: the frame does not fit the model's thermal contract.
        RegistrationError: the registration is not for images of these sizes.
    """
    small, valid = scaled_infrared(frame, box, registration, normaliser.valid_pixels(frame))
    if out is None:
        out = np.zeros((1, box.network[1], box.network[0]), np.float32)
    normaliser(small, valid, out[0, : box.content[1], : box.content[0]])
    return out
