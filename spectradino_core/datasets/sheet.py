"""Contact sheet of labelled pairs: RGB and infrared, both with their labels, and the mask.

Letters: h w image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from spectradino_core.data.paired_folder import UNLABELLED
from spectradino_core.data.sample import PairedSample
from spectradino_core.datasets.benchmark import LabelledItem, LabelledPairs
from spectradino_core.datasets.files import evenly_spread
from spectradino_core.files import written_atomically
from spectradino_core.runtime.overlay import BOX_COLOURS, infrared_to_grey

_WIDTH = 420
_LINE = 20
_GAP = 4
_PAPER = 250
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_ALPHA = 0.4


def write_sheet(path: Path, pairs: LabelledPairs, count: int = 8) -> None:
    """Draw `count` pairs, spread over the split and its subsets, into an image file; raises OSError or ValueError."""
    ending = path.suffix.lower()
    if ending not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"{path}: a sheet is written as .png or .jpg")
    rows = [_row(pairs, pairs.load(item)) for item in chosen(pairs, count)]
    width = max((row.shape[1] for row in rows), default=_WIDTH)
    parts = [_padded(part, width - part.shape[1]) for part in (*rows, _legend(pairs, width))]
    sheet = np.vstack(parts)
    done, data = cv2.imencode(ending, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if not done:  # a JPEG has at most 65500 rows
        raise ValueError(f"{path}: a sheet of {sheet.shape[1]}x{sheet.shape[0]} can't be encoded: draw fewer pairs")
    with written_atomically(path) as scratch:
        scratch.write_bytes(data.tobytes())


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
    infrared = cv2.resize(infrared_to_grey(sample.infrared), size, interpolation=cv2.INTER_AREA)
    images = [colour, infrared]
    if sample.mask is not None:
        mask = cv2.resize(np.ascontiguousarray(sample.mask), size, interpolation=cv2.INTER_NEAREST)
        painted = _painted(mask, pairs.palette)
        labelled = ((mask != UNLABELLED) & painted.any(axis=2))[..., None]  # a black class is background: not painted
        images = [np.where(labelled, cv2.addWeighted(one, 1 - _ALPHA, painted, _ALPHA, 0), one) for one in images]
        images.append(painted)
    for image in images[:2]:
        _draw_boxes(image, sample, scale)
    body = np.hstack([_padded(image, _GAP) for image in images])
    caption = [sample.name, *sample.subsets, f"{sample.size[0]}x{sample.size[1]}", str(sample.infrared.dtype)]
    if sample.boxes is not None:
        caption.append(f"{len(sample.boxes)} boxes")
    return np.vstack([_text("  ".join(caption), body.shape[1]), body])


def _painted(mask: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Colour a mask; white where unlabelled."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    return table[mask]


def _draw_boxes(image: np.ndarray, sample: PairedSample, scale: float) -> None:
    for boxes, labels, thickness in (
        (sample.ignored, sample.ignored_labels, 1),
        (sample.boxes, sample.labels, 2 if scale > 0.5 else 1),
    ):
        for box, label in zip(() if boxes is None else boxes, () if labels is None else labels, strict=True):
            colour = (160, 160, 160) if boxes is sample.ignored else BOX_COLOURS[int(label) % len(BOX_COLOURS)]
            x1, y1, x2, y2 = (round(float(v) * scale) for v in box)
            cv2.rectangle(image, (x1, y1), (x2, y2), colour, thickness)


def _legend(pairs: LabelledPairs, width: int) -> np.ndarray:
    entries = [(name, BOX_COLOURS[i % len(BOX_COLOURS)]) for i, name in enumerate(pairs.box_classes)]
    entries += list(zip(pairs.mask_classes, pairs.palette, strict=True))
    lines = [_text("", width)]
    x = _GAP
    for name, colour in entries:
        length = cv2.getTextSize(name, _FONT, 0.4, 1)[0][0] + 30
        if x + length > width and x > _GAP:
            lines.append(_text("", width))
            x = _GAP
        cv2.rectangle(lines[-1], (x, 4), (x + 14, _LINE - 4), colour, cv2.FILLED)
        cv2.rectangle(lines[-1], (x, 4), (x + 14, _LINE - 4), (0, 0, 0), 1)
        cv2.putText(lines[-1], name, (x + 18, _LINE - 6), _FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        x += length
    return np.vstack(lines)


def _text(text: str, width: int) -> np.ndarray:
    line = np.full((_LINE, width, 3), _PAPER, np.uint8)
    cv2.putText(line, text, (_GAP, _LINE - 6), _FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return line


def _padded(image: np.ndarray, right: int) -> np.ndarray:
    return np.pad(image, ((0, 0), (0, right), (0, 0)), constant_values=_PAPER)
