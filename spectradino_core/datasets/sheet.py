"""Contact sheet of labelled pairs: RGB and infrared, both with their labels, and the mask.

Letters: h w image size.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from spectradino_core import drawing
from spectradino_core.data.sample import PairedSample
from spectradino_core.datasets.benchmark import LabelledItem, LabelledPairs
from spectradino_core.datasets.files import evenly_spread
from spectradino_core.files import write_file

_WIDTH = 420
_GAP = 4


def write_sheet(path: Path, pairs: LabelledPairs, count: int = 8) -> None:
    """Draw `count` pairs, spread over the split and its subsets, into an image file; raises OSError or ValueError."""
    ending = path.suffix.lower()
    if ending not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"{path}: a sheet is written as .png or .jpg")
    rows = [_row(pairs, pairs.load(item)) for item in chosen(pairs, count)]
    width = max((row.shape[1] for row in rows), default=_WIDTH)
    parts = [_padded(part, width - part.shape[1]) for part in (*rows, _legend(pairs, width))]
    sheet = np.vstack(parts)
    try:
        data = drawing.encoded(sheet, ending)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: draw fewer pairs") from None
    write_file(path, data)


def chosen(pairs: LabelledPairs, count: int) -> list[LabelledItem]:
    """Return items evenly spread over the split, and over its subsets where items state them."""
    groups: dict[tuple[str, ...], list[LabelledItem]] = {}
    for item in pairs:
        groups.setdefault(item.subsets, []).append(item)
    parts = list(groups.values())[:count]
    picked: list[LabelledItem] = []
    for i, part in enumerate(parts):
        wanted = count // len(parts) + (i < count % len(parts))
        picked += evenly_spread(part, wanted)
    return picked


def _row(pairs: LabelledPairs, sample: PairedSample) -> np.ndarray:
    scale = _WIDTH / sample.size[0]
    size = (_WIDTH, max(1, round(sample.size[1] * scale)))
    colour = cv2.resize(np.ascontiguousarray(sample.rgb), size, interpolation=cv2.INTER_AREA)
    infrared = cv2.resize(drawing.infrared_to_grey(sample.infrared), size, interpolation=cv2.INTER_AREA)
    images = [colour, infrared]
    if sample.mask is not None:
        mask = cv2.resize(np.ascontiguousarray(sample.mask), size, interpolation=cv2.INTER_NEAREST)
        images = [drawing.with_mask(one, mask, pairs.palette) for one in images]
        images.append(drawing.in_palette(mask, pairs.palette, unlabelled=255))
    for image in images[:2]:
        _draw_boxes(image, sample, scale)
    body = np.hstack([_padded(image, _GAP) for image in images])
    caption = [sample.name, *sample.subsets, f"{sample.size[0]}x{sample.size[1]}", str(sample.infrared.dtype)]
    if sample.boxes is not None:
        caption.append(f"{len(sample.boxes)} boxes")
    return np.vstack([drawing.text_line("  ".join(caption), body.shape[1]), body])


def _draw_boxes(image: np.ndarray, sample: PairedSample, scale: float) -> None:
    for boxes, labels, thickness in (
        (sample.ignored, sample.ignored_labels, 1),
        (sample.boxes, sample.labels, 2 if scale > 0.5 else 1),
    ):
        for box, label in zip(() if boxes is None else boxes, () if labels is None else labels, strict=True):
            colour = (160, 160, 160) if boxes is sample.ignored else drawing.box_colour(label)
            drawing.draw_box(image, box * scale, colour, thickness=thickness)


def _legend(pairs: LabelledPairs, width: int) -> np.ndarray:
    entries = [(name, drawing.box_colour(i)) for i, name in enumerate(pairs.box_classes)]
    entries += list(zip(pairs.mask_classes, pairs.palette, strict=True))
    lines = [drawing.text_line("", width)]
    x = _GAP
    for name, colour in entries:
        length = drawing.text_width(name) + 30
        if x + length > width and x > _GAP:
            lines.append(drawing.text_line("", width))
            x = _GAP
        cv2.rectangle(lines[-1], (x, 4), (x + 14, drawing.LINE_HEIGHT - 4), colour, cv2.FILLED)
        cv2.rectangle(lines[-1], (x, 4), (x + 14, drawing.LINE_HEIGHT - 4), drawing.BLACK, 1)
        drawing.write_text(lines[-1], name, (x + 18, drawing.LINE_HEIGHT - 6))
        x += length
    return np.vstack(lines)


def _padded(image: np.ndarray, right: int) -> np.ndarray:
    return np.pad(image, ((0, 0), (0, right), (0, 0)), constant_values=drawing.PAPER[0])
