"""The answers that are furthest from the truth, drawn beside it, for people to look at.

Letters: h x w a source image.
"""

from __future__ import annotations

import numpy as np

from spectradino_core.data.sample import PairedSample
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.overlay import draw_overlay, infrared_to_grey
from spectradino_core.runtime.percepts import Mode, Percepts

__all__ = ["Worst", "draw_comparison"]


class Worst:
    """Keeps the pictures of the few worst answers of a run; of equally bad ones the earlier."""

    def __init__(self, count: int = 8) -> None:
        self._count = count
        self._kept: list[tuple[float, np.ndarray, str]] = []

    def offer(self, bad: float, sample: PairedSample, percepts: Percepts, info: ModelInfo, threshold: float) -> None:
        """Takes an answer in if it is among the worst so far; perfect ones never are. For `bad` see `Answers.add`."""
        if bad <= 0 or self._count < 1 or (len(self._kept) == self._count and bad <= self._kept[-1][0]):
            return
        boxes, share = int(bad), bad % 1
        parts = [f"{boxes} mistaken boxes" if boxes != 1 else "1 mistaken box"] if sample.boxes is not None else []
        parts += [f"{100 * share:.0f} % of the pixels mistaken"] if sample.mask is not None else []
        caption = f"{sample.name}: {', '.join(parts)}"
        self._kept.append((bad, draw_comparison(sample, percepts, info, threshold), caption))
        self._kept = sorted(self._kept, key=lambda kept: -kept[0])[: self._count]

    def pictures(self) -> list[tuple[np.ndarray, str]]:
        """(picture uint8 [h, 2w, 3], caption), the worst first."""
        return [(picture, caption) for _, picture, caption in self._kept]


def draw_comparison(sample: PairedSample, percepts: Percepts, info: ModelInfo, threshold: float) -> np.ndarray:
    """What was found, on the colour picture, and to the right of it what is true, on the infrared one: [h, 2w, 3]."""
    served = percepts.scores >= threshold
    found = Percepts(
        percepts.boxes[served],
        percepts.scores[served],
        percepts.labels[served],
        percepts.mask if sample.mask is not None else None,
        percepts.mode,
        percepts.size,
    )
    boxes = np.zeros((0, 4), np.float32) if sample.boxes is None else sample.boxes
    labels = np.zeros(0, np.int64) if sample.labels is None else sample.labels
    true = Percepts(boxes, np.ones(len(boxes), np.float32), labels, sample.mask, Mode.FUSED, sample.size)
    grey = infrared_to_grey(sample.infrared)
    return np.hstack([draw_overlay(sample.rgb, found, info), draw_overlay(grey, true, info)])
