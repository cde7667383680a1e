"""Gallery of the frames with the most mistakes: detections and true boxes drawn over them, kept as small JPEGs.

A mistake is a detection at the serving threshold that is false, or a true box that none finds, at IoU 0.5; where masks
are scored, the fraction of wrong pixels counts as a part of one. Of a recording without labels, frames evenly spread
over it are kept instead. Memory: `most` JPEGs.

Letters: h w an image, K detections, N true boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.detection import ImageMatches, match_image
from spectradino_core.evaluation.page import Page
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.overlay import draw_overlay, infrared_to_grey
from spectradino_core.runtime.perception_result import Mode, PerceptionResult

__all__ = ["Images", "TrueBoxes", "WorstFrame", "WorstFrames", "add_gallery"]

Images = Callable[[], Sequence[np.ndarray]]
"""Gives one or more images uint8 [h, w, 3] of one moment, in the same pixels; they are shown side by side."""

TrueBoxes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes [N, 4], labels int64 [N], and bool [N]: a region to be ignored."""

_RIGHT, _FALSE, _MISSED, _IGNORED, _UNJUDGED = (
    (40, 200, 80),
    (255, 70, 60),
    (255, 200, 0),
    (150, 150, 150),
    (80, 190, 255),
)
_LEGEND = "Green: right. Red: false. Yellow: not found. Grey: region to be ignored."
_LONGEST_SIDE = 800
_PAGE_SIDE = 1280
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.38
_QUALITY = 85


@dataclass(frozen=True)
class WorstFrame:
    """One frame to show.

    Attributes:
        mistakes: false detections, boxes not found, and the fraction of wrong pixels.
        stamp_ns: the moment; without stamps the frame's number.
        caption: of the image.
        jpeg: the image file.
    """

    mistakes: float
    stamp_ns: int
    caption: str
    jpeg: bytes


class WorstFrames:
    """Keeps the frames with the most mistakes, of equals the earlier one."""

    def __init__(self, info: ModelInfo, threshold: float, most: int = 8, apart_ns: int = 0) -> None:
        """
        Args:
            info: names of the classes.
            threshold: minimum score of a detection that counts.
            most: maximum number of frames, at least 0.
            apart_ns: of frames nearer to one another than this only the worst is kept: neighbours in a recording show
                the same mistakes.
        """
        self._info, self._threshold, self._most, self._apart_ns = info, threshold, most, apart_ns
        self._worst: list[WorstFrame] = []
        self._spread: list[tuple[int, WorstFrame]] = []
        self._every, self._seen = 1, 0

    def add(
        self,
        name: str,
        detections: PerceptionResult,
        images: Images,
        true: TrueBoxes | None,
        stamp_ns: int | None = None,
        matches: ImageMatches | None = None,
        wrong_pixels: float | None = None,
    ) -> None:
        """Keeps a frame if it is among the worst so far; one without a mistake never is.

        Args:
            name: begins the caption.
            detections: in the pixels of the images.
            images: called only if they are to be kept.
            true: boxes to find, in the same pixels; None: not labelled.
            stamp_ns: the moment; None: frames are numbered.
            matches: of detections and true boxes, where they are known already.
            wrong_pixels: fraction of the labelled pixels; None: the mask is not scored.
        """
        number, self._seen = self._seen, self._seen + 1
        stamp_ns = number if stamp_ns is None else stamp_ns
        if not self._most:
            return
        served = detections.scores >= self._threshold
        if true is None and wrong_pixels is None:
            self._keep_spread(number, name, stamp_ns, detections, served, images)
            return
        right = found = None
        mistakes, parts = wrong_pixels or 0, []
        if true is not None:
            arrays = (detections.boxes, detections.scores, detections.labels)
            matches = matches or match_image(arrays, true, len(self._info.box_classes), name=name)
            right, found = matches.outcomes[0][served] != 0, matches.found(served)
            mistakes += int((~right).sum() + (~found).sum())
            parts = [f"{right.sum()} right", f"{(~right).sum()} false", f"{(~found).sum()} not found"]
        if wrong_pixels is not None:
            parts.append(f"{100 * wrong_pixels:.0f} % of the pixels wrong")
        near = next((kept for kept in self._worst if abs(kept.stamp_ns - stamp_ns) < self._apart_ns), None)
        least = near or (self._worst[-1] if len(self._worst) == self._most else None)
        if mistakes <= (0 if least is None else least.mistakes):
            return
        drawn = [_draw_judged(image, detections, served, self._info, right, true, found) for image in images()]
        if least is not None:
            self._worst.remove(least)
        self._worst.append(WorstFrame(mistakes, stamp_ns, f"{name}: {', '.join(parts)}", _jpeg(drawn)))
        self._worst.sort(key=lambda kept: (-kept.mistakes, kept.stamp_ns))

    def add_sample(
        self, sample: PairedSample, detections: PerceptionResult, true: TrueBoxes | None, matches: ImageMatches | None,
        wrong_pixels: float | None,
    ) -> None:  # fmt: skip
        """The same of a labelled pair: RGB with the predicted mask on the left, IR with the true one on the right."""

        def images() -> list[np.ndarray]:
            mask = detections.mask if sample.mask is not None else None
            return [
                _with_mask(sample.rgb, mask, self._info),
                _with_mask(infrared_to_grey(sample.infrared), sample.mask, self._info),
            ]

        self.add(sample.name, detections, images, true, matches=matches, wrong_pixels=wrong_pixels)

    def frames(self) -> list[WorstFrame]:
        """The worst first; without any mistake those that are spread over the recording, in their order."""
        return list(self._worst) or [kept for _, kept in self._spread]

    def _keep_spread(
        self, number: int, name: str, stamp_ns: int, detections: PerceptionResult, served: np.ndarray, images: Images
    ) -> None:
        if number % self._every:
            return
        drawn = [_draw_judged(image, detections, served, self._info) for image in images()]
        self._spread.append((number, WorstFrame(0, stamp_ns, f"{name}: {served.sum()} detections", _jpeg(drawn))))
        if len(self._spread) > self._most:  # every second goes, and only every second comes from now on
            self._every *= 2
            self._spread = [row for row in self._spread if row[0] % self._every == 0]


def add_gallery(page: Page, frames: Iterable[tuple[bytes, str]], judged: bool = True) -> None:
    """Puts frames (JPEG, caption) on a page, where they are judged below a legend."""
    if judged:
        page.text(_LEGEND, soft=True)
    for jpeg, caption in frames:
        page.image(jpeg, caption, _PAGE_SIDE)


def _draw_judged(
    image: np.ndarray,
    detections: PerceptionResult,
    served: np.ndarray,
    info: ModelInfo,
    right: np.ndarray | None = None,
    true: TrueBoxes | None = None,
    found: np.ndarray | None = None,
) -> np.ndarray:
    """Boxes over a copy of an image: detections green if right, else red; true boxes not found yellow, regions grey.

    Args:
        image: uint8 [h, w, 3] in RGB order.
        detections: K of them.
        served: which of them are drawn, bool [K].
        info: names of the classes.
        right: which of those drawn are right; without, they are blue.
        true: the true boxes.
        found: which of them were found, bool [N].
    """
    scale = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image.copy()
    if true is not None and found is not None:
        for box, label, ignored, seen in zip(*true, found, strict=True):
            if ignored:
                _draw(canvas, box * scale, _IGNORED, "ignored")
            elif not seen:
                _draw(canvas, box * scale, _MISSED, info.box_classes[int(label)], below=True)
    rows = np.flatnonzero(served)
    for number in range(len(rows) - 1, -1, -1):  # the best score on top
        row = rows[number]
        colour = _UNJUDGED if right is None else _RIGHT if right[number] else _FALSE
        text = f"{info.box_classes[int(detections.labels[row])]} {detections.scores[row]:.2f}"
        _draw(canvas, detections.boxes[row] * scale, colour, text)
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


def _with_mask(image: np.ndarray, mask: np.ndarray | None, info: ModelInfo) -> np.ndarray:
    size = (int(image.shape[1]), int(image.shape[0]))
    return draw_overlay(
        image, PerceptionResult(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), mask, Mode.FUSED, size), info
    )


def _jpeg(images: Sequence[np.ndarray]) -> bytes:
    """The images side by side as one file."""
    image = cv2.cvtColor(np.hstack(images), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"an image of {image.shape[1]}x{image.shape[0]} can't be stored as JPEG")
    return data.tobytes()
