"""Gallery of the frames with the most mistakes, with detections and true boxes drawn, kept as small JPEGs.

Mistakes are false positives at the serving threshold and missed boxes, at IoU 0.5; if masks are scored, the fraction of
wrong pixels is added. Without labels, evenly spaced frames of the recording are kept instead. Memory: `max_frames`
JPEGs.

Letters: h x w image, K detections, N true boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.data.sample import PairedSample
from spectradino_core.drawing import draw_box, infrared_to_grey, jpeg_of, with_mask
from spectradino_core.evaluation.detection import ImageMatches, match_image
from spectradino_core.evaluation.page import Page
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import PerceptionResult

Images = Callable[[], Sequence[np.ndarray]]
"""Returns registered images of one frame, uint8 [h, w, 3] each, which are shown side by side."""

TrueBoxes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes [N, 4], labels int64 [N], and bool [N], ignored regions."""

_CORRECT, _FALSE, _MISSED = (40, 200, 80), (255, 70, 60), (255, 200, 0)
_IGNORED, _UNLABELLED = (150, 150, 150), (80, 190, 255)
_LEGEND = "Green: correct. Red: false. Yellow: missed. Grey: ignored region."
_MAX_SIDE = 800
_PAGE_SIDE = 1280
_QUALITY = 85


@dataclass(frozen=True)
class WorstFrame:
    """One frame of the gallery; `stamp_ns` is its number if there are no stamps."""

    mistakes: float
    stamp_ns: int
    caption: str
    jpeg: bytes


class WorstFrames:
    """Collects the frames with the most mistakes; of frames with equally many, the earlier ones."""

    def __init__(
        self, info: ModelInfo, threshold: float | np.ndarray, max_frames: int = 8, min_spacing_ns: int = 0
    ) -> None:
        """Start without frames.

        Args:
            info: metadata of the model, for class names.
            threshold: minimum score of counted detections, for all classes or [C] per class.
            max_frames: maximum number of frames.
            min_spacing_ns: minimum time between kept frames; of nearer ones, which tend to show the same mistakes, only
                the worst is kept.
        """
        self._info, self._threshold = info, threshold
        self._max_frames, self._min_spacing_ns = max_frames, min_spacing_ns
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
        """Keep a frame if it has mistakes and is among the worst so far.

        Args:
            name: start of the caption.
            detections: result in the pixels of the images.
            images: called only if the frame is kept.
            true: true boxes in the same pixels; None: not labelled.
            stamp_ns: time stamp; None: frames are numbered.
            matches: matching of detections and true boxes, if known.
            wrong_pixels: fraction of wrong labelled pixels; None: the mask is not scored.
        """
        number, self._seen = self._seen, self._seen + 1
        stamp_ns = number if stamp_ns is None else stamp_ns
        if not self._max_frames:
            return
        threshold = self._threshold
        served = detections.scores >= (threshold[detections.labels] if isinstance(threshold, np.ndarray) else threshold)
        if true is None and wrong_pixels is None:
            self._keep_spread(number, name, stamp_ns, detections, served, images)
            return
        correct = found = None
        mistakes, parts = wrong_pixels or 0, []
        if true is not None:
            arrays = (detections.boxes, detections.scores, detections.labels)
            matches = matches or match_image(arrays, true, len(self._info.box_classes), name=name)
            correct, found = matches.outcomes[0][served] != 0, matches.found(served)
            mistakes += int((~correct).sum() + (~found).sum())
            missed = Counter(self._info.box_classes[int(label)] for label in true[1][~found & ~true[2]])
            names = f" ({', '.join(f'{name} {count}' for name, count in missed.items())})" if missed else ""
            parts = [f"{correct.sum()} correct", f"{(~correct).sum()} false", f"{(~found).sum()} missed{names}"]
        if wrong_pixels is not None:
            parts.append(f"{100 * wrong_pixels:.0f} % wrong pixels")
        near = next((kept for kept in self._worst if abs(kept.stamp_ns - stamp_ns) < self._min_spacing_ns), None)
        replaced = near or (self._worst[-1] if len(self._worst) == self._max_frames else None)
        if mistakes <= (0 if replaced is None else replaced.mistakes):
            return
        drawn = [_draw_detections(image, detections, served, self._info, correct, true, found) for image in images()]
        if replaced is not None:
            self._worst.remove(replaced)
        self._worst.append(
            WorstFrame(mistakes, stamp_ns, f"{name}: {', '.join(parts)}", jpeg_of(np.hstack(drawn), _QUALITY))
        )
        self._worst.sort(key=lambda kept: (-kept.mistakes, kept.stamp_ns))

    def add_sample(
        self, sample: PairedSample, detections: PerceptionResult, true: TrueBoxes | None, matches: ImageMatches | None,
        wrong_pixels: float | None,
    ) -> None:  # fmt: skip
        """Add a labelled pair: RGB with the predicted mask on the left, IR with the true mask on the right."""

        def images() -> list[np.ndarray]:
            mask = detections.mask if sample.mask is not None else None
            shown = ((sample.rgb, mask), (infrared_to_grey(sample.infrared), sample.mask))
            return [image if mask is None else with_mask(image, mask, self._info.palette) for image, mask in shown]

        self.add(sample.name, detections, images, true, matches=matches, wrong_pixels=wrong_pixels)

    def frames(self) -> list[WorstFrame]:
        """Return the frames with the most mistakes first; without mistakes evenly spaced frames in their order."""
        return list(self._worst) or [kept for _, kept in self._spread]

    def _keep_spread(
        self, number: int, name: str, stamp_ns: int, detections: PerceptionResult, served: np.ndarray, images: Images
    ) -> None:
        if number % self._every:
            return
        drawn = [_draw_detections(image, detections, served, self._info) for image in images()]
        self._spread.append(
            (number, WorstFrame(0, stamp_ns, f"{name}: {served.sum()} detections", jpeg_of(np.hstack(drawn), _QUALITY)))
        )
        if len(self._spread) > self._max_frames:  # keep every second frame, also of those to come
            self._every *= 2
            self._spread = [row for row in self._spread if row[0] % self._every == 0]


def add_gallery(page: Page, frames: Iterable[tuple[bytes, str]], labelled: bool = True) -> None:
    """Add frames (JPEG, caption) to a page; `labelled`: with the legend of the colours."""
    if labelled:
        page.text(_LEGEND, soft=True)
    for file, caption in frames:
        page.image(file, caption, _PAGE_SIDE)


def _draw_detections(
    image: np.ndarray,
    detections: PerceptionResult,
    served: np.ndarray,
    info: ModelInfo,
    correct: np.ndarray | None = None,
    true: TrueBoxes | None = None,
    found: np.ndarray | None = None,
) -> np.ndarray:
    """Draw boxes on a copy of an image, with the colours of `_LEGEND`.

    Args:
        image: uint8 [h, w, 3] in RGB order.
        detections: K detections, of which `served`, bool [K], are drawn.
        correct: which of the drawn detections are correct; None: unknown, drawn in blue.
        true, found: true boxes, and which of them were found, bool [N].
    """
    scale = min(1.0, _MAX_SIDE / max(image.shape[:2]))
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image.copy()
    rows = np.flatnonzero(served)
    for number in range(len(rows) - 1, -1, -1):  # the highest score on top
        row = rows[number]
        colour = _UNLABELLED if correct is None else _CORRECT if correct[number] else _FALSE
        text = f"{info.box_classes[int(detections.labels[row])]} {detections.scores[row]:.2f}"
        draw_box(canvas, detections.boxes[row] * scale, colour, text)
    if true is not None and found is not None:  # last, or detections would hide the names in a crowd
        for box, label, ignored, seen in zip(*true, found, strict=True):
            if ignored:
                draw_box(canvas, box * scale, _IGNORED, "ignored")
            elif not seen:
                draw_box(canvas, box * scale, _MISSED, info.box_classes[int(label)], below=True)
    return canvas
