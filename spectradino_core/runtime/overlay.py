"""Draw detections and mask over a frame.

Letters: h x w a source image.
"""

from __future__ import annotations

import cv2
import numpy as np

from spectradino_core.invalid_counts import InvalidCounts
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import PerceptionResult

BOX_COLOURS = (
    (255, 64, 64),
    (64, 220, 255),
    (255, 214, 10),
    (120, 255, 120),
    (255, 120, 255),
    (255, 160, 64),
    (160, 160, 255),
)
"""RGB colours of box classes, repeated cyclically."""

_QUALITY = 80


def infrared_to_grey(frame: np.ndarray) -> np.ndarray:
    """Convert a frame uint8 or uint16 [h, w] to grey uint8 [h, w, 3], stretched between its 1st and 99th percentile.

    Dead pixels and borders are excluded from the percentiles but drawn, so that they are visible.
    """
    seen, valid = frame[::4, ::4], InvalidCounts()(frame)  # every 16th pixel is accurate enough for display
    if valid is not None and valid[::4, ::4].any():
        seen = seen[valid[::4, ::4] > 0]
    low, high = np.percentile(seen, (1, 99))
    grey = np.clip((frame.astype(np.float32) - low) * (255.0 / max(high - low, 1.0)), 0, 255).astype(np.uint8)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


def caption(result: PerceptionResult, number: int, info: ModelInfo) -> str:
    """Return class name, identity and maximum temperature, if there are any, and score of a detection."""
    identity = result.track_ids[number] if result.track_ids else ""
    name = info.box_classes[int(result.labels[number])]
    text = " ".join(word for word in (name, identity, f"{result.scores[number]:.2f}") if word)
    if result.temperatures is not None and not np.isnan(hottest := result.temperatures[number, 2]):
        text += f" max {hottest:.1f} C"
    return text


def jpeg_of(image: np.ndarray) -> bytes:
    """Compress an image uint8 [h, w, 3] in RGB order as JPEG."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"an image of {image.shape[1]}x{image.shape[0]} can't be stored as JPEG")
    return data.tobytes()


def draw_overlay(image: np.ndarray, result: PerceptionResult, info: ModelInfo, mask_alpha: float = 0.35) -> np.ndarray:
    """Draw mask, boxes and captions over a copy of `image`, uint8 [h, w, 3] in RGB order, of the result's size.

    `mask_alpha` is the opacity of the mask, 0 (no mask) to 1.
    """
    canvas = image.copy()
    if result.mask is not None and mask_alpha > 0:
        table = np.zeros((1, 256, 3), np.uint8)
        table[0, : len(info.palette)] = info.palette
        coloured = cv2.LUT(cv2.merge([result.mask] * 3), table)
        blended = cv2.addWeighted(canvas, 1 - mask_alpha, coloured, mask_alpha, 0)
        labelled = cv2.compare(result.mask, len(info.palette), cv2.CMP_LT)
        canvas = cv2.copyTo(blended, labelled, canvas)
    scale = max(0.35, min(result.size) / 1100)
    for number, (box, label) in enumerate(zip(result.boxes, result.labels, strict=True)):
        colour = BOX_COLOURS[int(label) % len(BOX_COLOURS)]
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 1 if min(result.size) < 700 else 2)
        text = caption(result, number, info)
        (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        top = max(y1, height + base)
        cv2.rectangle(canvas, (x1, top - height - base), (x1 + width, top), colour, cv2.FILLED)
        cv2.putText(canvas, text, (x1, top - base // 2 - 1), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas
