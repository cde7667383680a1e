"""Temperatures inside detected boxes, from the raw counts of a radiometric infrared camera.

Letters: K detections, h x w the infrared frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from spectradino_core.calibration.registration import Registration
from spectradino_core.invalid_counts import InvalidCounts
from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.runtime.rgb_grid import boxes_in_infrared_pixels
from spectradino_core.thermal import ThermalContract


@dataclass(frozen=True)
class TemperatureScale:
    """Linear scale of a radiometric camera: Celsius = `kelvin_per_count` x count + `celsius_offset`."""

    kelvin_per_count: float
    celsius_offset: float

    def describe(self) -> str:
        """Return the scale in words, for logs."""
        return f"{self.kelvin_per_count:g} K per count from {self.celsius_offset:g} Celsius"


def with_temperatures(
    result: PerceptionResult,
    infrared: np.ndarray,
    registration: Registration | None,
    contract: ThermalContract,
    scale: TemperatureScale,
) -> PerceptionResult:
    """Return a result of `Pipeline` with the temperatures of its detections in the IR frame, counts uint16 [h, w].

    `registration` is the one by which the pair was fused, `contract` decides which counts are valid.

    Raises:
        RegistrationError: the registration is not for images of these sizes.
    """
    boxes, seen = boxes_in_infrared_pixels(result, registration, (infrared.shape[1], infrared.shape[0]))
    found = np.full((len(boxes), 3), np.nan, np.float32)
    if seen.any():
        valid = InvalidCounts(contract.invalid_counts, contract.recognise_invalid)(infrared)
        found[seen] = temperatures_in(boxes[seen], infrared, valid, scale)
    return replace(result, temperatures=found)


def temperatures_in(
    boxes: np.ndarray, infrared: np.ndarray, valid: np.ndarray | None, scale: TemperatureScale
) -> np.ndarray:
    """Return minimum, mean and maximum temperature inside boxes.

    Args:
        boxes: float [K, 4], x1 y1 x2 y2 in pixels of the frame, inside it. Pixels whose centres lie in a box count; of
            a box without any, the pixel at its centre does.
        infrared, valid: raw counts uint16 [h, w]; uint8 [h, w], not 0 at valid pixels, None: all are valid.
        scale: temperature by count.

    Returns:
        float32 [K, 3] in Celsius, NaN where a box has no valid pixel.
    """
    height, width = infrared.shape
    found = np.full((len(boxes), 3), np.nan, np.float32)
    for row, (x1, y1, x2, y2) in zip(found, boxes.tolist(), strict=True):
        place = _pixels(y1, y2, height), _pixels(x1, x2, width)
        counts, seen = infrared[place], None if valid is None else valid[place]
        if seen is None or cv2.countNonZero(seen):
            low, high, _, _ = cv2.minMaxLoc(counts, seen)
            row[:] = low, cv2.mean(counts, seen)[0], high
    return (found * scale.kelvin_per_count + scale.celsius_offset).astype(np.float32)


def _pixels(low: float, high: float, size: int) -> slice:
    """Return the pixels of one axis whose centres, at half numbers, lie between two edges; at least one."""
    first, end = math.ceil(low - 0.5), math.ceil(high - 0.5)
    if end <= first:
        first = min(max(math.floor((low + high) / 2), 0), size - 1)
        end = first + 1
    return slice(max(first, 0), min(end, size))
