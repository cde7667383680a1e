"""Result of the pipeline for one pair of frames.

Letters: K detections, H x W the source image of the reference camera.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np


class Mode(str, Enum):
    """Streams that a result is based on."""

    FUSED = "fused"
    RGB_ONLY = "rgb_only"
    IR_ONLY = "ir_only"
    STALE = "stale"


@dataclass
class PerceptionResult:
    """Detections and mask of one pair, in the pixels of the reference camera's source image.

    Attributes:
        boxes, scores: float32 [K, 4], x1 y1 x2 y2 in source pixels, and float32 [K] in 0..1, best score first.
        labels: int64 [K], indices into the model's box classes.
        mask: uint8 [H, W], indices into the model's mask classes; None without a segmentation head.
        mode, size: the streams used; (width, height) of the source image.
        steps_ms: wall-clock milliseconds by step, in order: preprocess, engine, postprocess, and tracking with it.
        registered: an IR-only result that was mapped to the RGB image's pixels.
        native: that result before it was mapped, in the IR frame's pixels; None: it was not mapped.
        of_native: bool [detections of `native`], which of them are in this result, in the same order; None without it.
        ir_invalid: fraction of invalid IR pixels, 0..1; None without IR frame.
        temperatures: float32 [K, 3], minimum, mean and maximum in each box in Celsius, NaN where the IR frame has no
            valid pixel; None: not computed, see `runtime.temperatures`.
        track_ids: identity of each detection, "" without one; None: not tracked, see `runtime.tracking`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    mask: np.ndarray | None
    mode: Mode
    size: tuple[int, int]
    steps_ms: dict[str, float] = field(default_factory=dict)
    registered: bool = False
    native: PerceptionResult | None = None
    of_native: np.ndarray | None = None
    ir_invalid: float | None = None
    temperatures: np.ndarray | None = None
    track_ids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def selected(self, kept: np.ndarray) -> PerceptionResult:
        """Return a copy with the detections that are `kept`, bool [K]."""
        names = self.track_ids
        return replace(
            self,
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            temperatures=None if self.temperatures is None else self.temperatures[kept],
            track_ids=None if names is None else tuple(names[index] for index in np.flatnonzero(kept)),
        )
