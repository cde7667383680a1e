"""The frames worth looking at: those with the most mistakes, drawn with truth and detections, kept as small JPEGs.

A mistake is a detection that the node would publish and that is false, or a true box that it did not find, at IoU 0.5.
Where nothing is labelled, frames evenly spread over the drive are kept instead. Memory: `most` pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.bags.ground_truth import TrueFrame, in_seconds
from spectradino_core.bags.scores import frame_errors
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.percepts import Percepts

__all__ = ["Picture", "Pictures", "WorstFrames", "draw_judged"]

Pictures = Callable[[], Sequence[np.ndarray]]
"""Gives one or more pictures uint8 [h, w, 3] of one moment, in the same pixels; they are shown side by side."""

_RIGHT, _FALSE, _MISSED, _CROWD, _UNJUDGED = (
    (40, 200, 80),
    (255, 70, 60),
    (255, 200, 0),
    (150, 150, 150),
    (80, 190, 255),
)
_APART_NS = 1_000_000_000
"""Of frames nearer to one another than this only the worst is kept: neighbours show the same mistakes."""
_LONGEST_SIDE = 800
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.38
_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """One picture to show.

    Attributes:
        mistakes: false detections and boxes not found.
        stamp_ns: the moment.
        caption: what is to be seen.
        jpeg: the picture's file.
    """

    mistakes: int
    stamp_ns: int
    caption: str
    jpeg: bytes


class WorstFrames:
    """Keeps the pictures of the frames with the most mistakes; of equals the earlier one."""

    def __init__(self, info: ModelInfo, threshold: float, most: int = 8) -> None:
        """
        Args:
            info: names of the classes.
            threshold: least score of a detection that counts.
            most: how many pictures are kept, at least 0.
        """
        self._info, self._threshold, self._most = info, threshold, most
        self._worst: list[Picture] = []
        self._spread: list[tuple[int, Picture]] = []
        self._every, self._seen = 1, 0

    def add(self, stamp_ns: int, percepts: Percepts, pictures: Pictures, truth: TrueFrame | None) -> None:
        """Looks at one answer.

        Args:
            stamp_ns: its moment.
            percepts: in the pixels of the pictures.
            pictures: asked only if they are to be kept.
            truth: what should have been found, in the same pixels; None: not labelled.
        """
        if not self._most:
            return
        served = percepts.scores >= self._threshold
        if truth is None or truth.boxes is None or truth.labels is None or truth.crowd is None:
            self._keep_spread(stamp_ns, percepts, served, pictures)
            return
        right, found = frame_errors(
            percepts.boxes[served], percepts.labels[served], truth.boxes, truth.labels, truth.crowd
        )
        mistakes = int((~right).sum() + (~found).sum())
        near = next((kept for kept in self._worst if abs(kept.stamp_ns - stamp_ns) < _APART_NS), None)
        least = near or (self._worst[-1] if len(self._worst) == self._most else None)
        if mistakes <= (0 if least is None else least.mistakes):
            return
        drawn = [draw_judged(image, percepts, served, self._info, right, truth, found) for image in pictures()]
        caption = (
            f"{in_seconds(stamp_ns)} ({percepts.mode.value}): {int(right.sum())} right, {int((~right).sum())} false, "
            f"{int((~found).sum())} not found"
        )
        if least is not None:
            self._worst.remove(least)
        self._worst.append(Picture(mistakes, stamp_ns, caption, _jpeg(np.hstack(drawn))))
        self._worst.sort(key=lambda kept: (-kept.mistakes, kept.stamp_ns))

    def pictures(self) -> list[Picture]:
        """The worst first; without any mistake those that are spread over the drive, in their order."""
        return list(self._worst) or [kept for _, kept in self._spread]

    def _keep_spread(self, stamp_ns: int, percepts: Percepts, served: np.ndarray, pictures: Pictures) -> None:
        number, self._seen = self._seen, self._seen + 1
        if number % self._every:
            return
        caption = f"{in_seconds(stamp_ns)} ({percepts.mode.value}): {int(served.sum())} detections"
        drawn = [draw_judged(image, percepts, served, self._info) for image in pictures()]
        self._spread.append((number, Picture(0, stamp_ns, caption, _jpeg(np.hstack(drawn)))))
        if len(self._spread) > self._most:  # every second goes, and only every second comes from now on
            self._every *= 2
            self._spread = [row for row in self._spread if row[0] % self._every == 0]


def draw_judged(
    image: np.ndarray,
    percepts: Percepts,
    served: np.ndarray,
    info: ModelInfo,
    right: np.ndarray | None = None,
    truth: TrueFrame | None = None,
    found: np.ndarray | None = None,
) -> np.ndarray:
    """Boxes over a copy of a picture: detections green if right, else red; true boxes not found yellow, crowds grey.

    Args:
        image: uint8 [h, w, 3] in RGB order.
        percepts: the detections [K].
        served: which of them are drawn, bool [K].
        info: names of the classes.
        right: which of those drawn are right; None: nobody knows, they are blue.
        truth: the true boxes [N].
        found: which of them were found, bool [N].
    """
    scale = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image.copy()
    if truth is not None and truth.boxes is not None and truth.labels is not None and truth.crowd is not None:
        for number, (box, label) in enumerate(zip(truth.boxes, truth.labels, strict=True)):
            if truth.crowd[number]:
                _draw(canvas, box * scale, _CROWD, "ignored")
            elif found is None or not found[number]:
                _draw(canvas, box * scale, _MISSED, info.box_classes[int(label)], below=True)
    rows = np.flatnonzero(served)
    for number in range(len(rows) - 1, -1, -1):  # the best score on top
        row = rows[number]
        colour = _UNJUDGED if right is None else _RIGHT if right[number] else _FALSE
        text = f"{info.box_classes[int(percepts.labels[row])]} {percepts.scores[row]:.2f}"
        _draw(canvas, percepts.boxes[row] * scale, colour, text)
    return canvas


def _draw(canvas: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], text: str, below: bool = False) -> None:
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 2)
    (width, height), base = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    left = min(max(x1, 0), max(0, canvas.shape[1] - width))
    top = min(y2, canvas.shape[0] - height - base) if below else max(y1 - height - base, 0)
    cv2.rectangle(canvas, (left, top), (left + width, top + height + base), colour, cv2.FILLED)
    place = (left, top + height + base // 2)
    cv2.putText(canvas, text, place, _FONT, _FONT_SCALE, (0, 0, 0), 1, cv2.LINE_AA)


def _jpeg(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"a picture of {image.shape[1]}x{image.shape[0]} can't be stored as JPEG")
    return data.tobytes()
