"""Draw detections and mask over a frame.

Letters: h x w a source image.
"""

from __future__ import annotations

import numpy as np

from spectradino_core.calibration.registration import Registration
from spectradino_core.drawing import box_colour, draw_box, infrared_to_grey, with_mask
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.runtime.rgb_grid import infrared_in_colour_pixels


def caption(result: PerceptionResult, number: int, info: ModelInfo) -> str:
    """Return class name, identity and maximum temperature, if there are any, and score of a detection."""
    identity = result.track_ids[number] if result.track_ids else ""
    name = info.box_classes[int(result.labels[number])]
    text = " ".join(word for word in (name, identity, f"{result.scores[number]:.2f}") if word)
    if result.temperatures is not None and not np.isnan(hottest := result.temperatures[number, 2]):
        text += f" max {hottest:.1f} C"
    return text


def draw_overlay(image: np.ndarray, result: PerceptionResult, info: ModelInfo) -> np.ndarray:
    """Draw mask, boxes and captions over a copy of `image`, uint8 [h, w, 3] in RGB order, of the result's size."""
    canvas = image.copy() if result.mask is None else with_mask(image, result.mask, info.palette)
    side = min(result.size)
    thickness, scale = 1 if side < 700 else 2, max(0.35, side / 1100)
    for number, (box, label) in enumerate(zip(result.boxes, result.labels, strict=True)):
        draw_box(canvas, box, box_colour(label), caption(result, number, info), thickness, scale)
    return canvas


def overlay_of(
    result: PerceptionResult,
    rgb: np.ndarray | None,
    infrared: np.ndarray | None,
    registration: Registration | None,
    info: ModelInfo,
) -> np.ndarray | None:
    """Draw a result over the RGB image, or over the IR frame without one; None without either.

    `registration` is for a result of the IR frame alone in RGB pixels.
    """
    canvas = rgb if rgb is not None or infrared is None else infrared_to_grey(infrared)
    if canvas is not None and result.registered and registration is not None:
        canvas = infrared_in_colour_pixels(canvas, registration, result.size)
    return None if canvas is None else draw_overlay(canvas, result, info)
