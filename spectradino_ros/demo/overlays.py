"""Overlays of results: one image per pair and a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from spectradino_core.data.sample import PairedSample
from spectradino_core.drawing import box_colour, infrared_to_grey, with_mask
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import PerceptionResult

PANEL_WIDTH = 640
"""Width of each of the two panels in pixels; the height follows from the frame's aspect."""

_GAP = 4
_STRIP = 40
_TAG_SCALE = 0.4
_TAG_HEIGHT = 14
_BACKGROUND = (24, 26, 30)
_BRIGHT = (236, 238, 240)
_DIM = (150, 156, 164)
_OVERSAMPLING = 4


def pair_overlay(
    sample: PairedSample, result: PerceptionResult | None, info: ModelInfo, title: str, facts: str, threshold: float
) -> np.ndarray:
    """Draw both images of a pair side by side, with mask and boxes of at least `threshold`, above a caption.

    The caption has `title` on the left and `facts` on the right. Returns uint8 [H, 2 * PANEL_WIDTH + gap, 3], RGB.
    """
    width, height = sample.size
    factor = PANEL_WIDTH / width
    size = (PANEL_WIDTH, max(1, round(height * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    panels = [
        cv2.resize(frame, size, interpolation=method) for frame in (sample.rgb, infrared_to_grey(sample.infrared))
    ]
    if result is not None:
        shown = _scaled(result, size, threshold)
        # The mask is drawn on the RGB panel only, so that the IR panel stays grey.
        if shown.mask is not None:
            panels[0] = with_mask(panels[0], shown.mask, info.palette)
        for panel in panels:
            _boxes(panel, shown, info)
    for panel, name in zip(panels, ("RGB", info.infrared.name), strict=True):
        _badge(panel, name)
    if result is None:
        for panel in panels:
            panel[:] = panel // 3
            _text(panel, "no result", (PANEL_WIDTH // 2 - 55, size[1] // 2), _BRIGHT, 0.7)
    strip = np.full((_STRIP, 2 * PANEL_WIDTH + _GAP, 3), _BACKGROUND, np.uint8)
    _text(strip, title, (12, 27), _BRIGHT, 0.65)
    _text(strip, facts, (strip.shape[1] - 12 - _text_width(facts, 0.65), 27), _DIM, 0.65)
    gap = np.full((size[1], _GAP, 3), _BACKGROUND, np.uint8)
    return np.concatenate([np.concatenate([panels[0], gap, panels[1]], axis=1), strip])


def contact_sheet(
    images: Sequence[np.ndarray], info: ModelInfo, title: str, facts: str, columns: int = 3, cell_width: int = 800
) -> np.ndarray:
    """Arrange images in a grid below a title and a legend of the class colours.

    Args:
        images: RGB images of any size, at least one.
        info: class names and colours.
        title, facts: the two lines at the top.
        columns: maximum number of columns.
        cell_width: width to which each image is scaled, in pixels.
    """
    columns = min(columns, len(images))
    cells = []
    for image in images:
        height = max(1, round(image.shape[0] * cell_width / image.shape[1]))
        cells.append(cv2.resize(image, (cell_width, height), interpolation=cv2.INTER_AREA))
    margin = 16
    width = columns * cell_width + (columns + 1) * margin
    rows = []
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        band = np.full((max(cell.shape[0] for cell in row) + margin, width, 3), _BACKGROUND, np.uint8)
        for column, cell in enumerate(row):
            left = margin + column * (cell_width + margin)
            band[: cell.shape[0], left : left + cell_width] = cell
        rows.append(band)
    return np.concatenate([_header(width, margin, info, title, facts), *rows])


def _header(width: int, margin: int, info: ModelInfo, title: str, facts: str) -> np.ndarray:
    boxes = [(name, box_colour(i)) for i, name in enumerate(info.box_classes)]
    groups = {"boxes": boxes, "mask": list(zip(info.mask_classes, info.palette, strict=True))}
    rows = {group: keys for group, keys in groups.items() if keys}
    header = np.full((94 + 24 * len(rows), width, 3), _BACKGROUND, np.uint8)
    _text(header, title, (margin, 38), _BRIGHT, 0.9)
    _text(header, facts, (margin, 68), _DIM, 0.55)
    for row, (group, keys) in enumerate(rows.items()):
        top, left = 90 + 24 * row, margin + 70
        _text(header, group, (margin, top + 12), _BRIGHT, 0.5)
        for name, colour in keys:
            thickness = cv2.FILLED if group == "mask" else 2
            cv2.rectangle(header, (left, top), (left + 13, top + 13), colour, thickness, cv2.LINE_AA)
            _text(header, name, (left + 21, top + 12), _DIM, 0.5)
            left += 21 + _text_width(name, 0.5) + 22
    return header


def _scaled(result: PerceptionResult, size: tuple[int, int], threshold: float) -> PerceptionResult:
    """Scale a result to `size` (width, height) and remove boxes that score less than `threshold`."""
    factors = np.array([new / old for new, old in zip(size, result.size, strict=True)] * 2, np.float32)
    kept = result.selected(result.scores >= threshold)
    mask = None if kept.mask is None else cv2.resize(kept.mask, size, interpolation=cv2.INTER_NEAREST)
    return replace(kept, boxes=kept.boxes * factors, mask=mask, size=size)


def _boxes(panel: np.ndarray, result: PerceptionResult, info: ModelInfo) -> None:
    """Draw boxes with class and score; tags are placed by descending score and skipped without room."""
    height, width = panel.shape[:2]
    corners = np.round(result.boxes).astype(int).tolist()
    colours = [box_colour(label) for label in result.labels]
    for (x1, y1, x2, y2), colour in reversed(list(zip(corners, colours, strict=True))):
        thickness = 2 if min(x2 - x1, y2 - y1) > 24 else 1
        cv2.rectangle(panel, (x1, y1), (min(x2, width - 1), min(y2, height - 1)), colour, thickness)
    # Occupied by the band's badge.
    taken = [(width - 70, 0, width, 22)]
    for (x1, y1, x2, y2), colour, score, label in zip(corners, colours, result.scores, result.labels, strict=True):
        text = f"{info.box_classes[int(label)]} {score:.2f}"
        tag_width = _text_width(text, _TAG_SCALE) + 6
        for left, top in ((x1, y1 - _TAG_HEIGHT), (x2 - tag_width, y1 - _TAG_HEIGHT), (x1, y2), (x2 - tag_width, y2)):
            left = min(max(left, 0), width - tag_width)
            tag = (left, top, left + tag_width, top + _TAG_HEIGHT)
            if 0 <= top <= height - _TAG_HEIGHT and not any(_overlap(tag, other) for other in taken):
                cv2.rectangle(panel, tag[:2], (tag[2] - 1, tag[3] - 1), colour, cv2.FILLED)
                _text(panel, text, (left + 3, top + _TAG_HEIGHT - 4), (0, 0, 0), _TAG_SCALE)
                taken.append(tag)
                break


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _badge(panel: np.ndarray, name: str) -> None:
    width = _text_width(name, 0.45) + 16
    panel[:22, -width:] = panel[:22, -width:] // 3
    _text(panel, name, (panel.shape[1] - width + 8, 15), _BRIGHT, 0.45)


def _text_width(text: str, scale: float) -> int:
    (width, _), _ = cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_DUPLEX, scale * _OVERSAMPLING, _OVERSAMPLING)
    return -(-width // _OVERSAMPLING)


def _text(canvas: np.ndarray, text: str, origin: tuple[int, int], colour: tuple[int, int, int], scale: float) -> None:
    """Draw text at baseline `origin`, enlarged and scaled down, because thin strokes look broken."""
    height, width = canvas.shape[0], canvas.shape[1]
    n = _OVERSAMPLING
    up, down = round(26 * scale) + 2, round(10 * scale) + 2
    top, bottom = max(0, origin[1] - up), min(height, origin[1] + down)
    left, right = max(0, origin[0]), min(width, origin[0] + _text_width(text, scale) + 2)
    if right <= left or bottom <= top:
        return
    large = np.zeros(((bottom - top) * n, (right - left) * n), np.uint8)
    position = ((origin[0] - left) * n, (origin[1] - top) * n)
    cv2.putText(large, _ascii(text), position, cv2.FONT_HERSHEY_DUPLEX, scale * n, 255, n, cv2.LINE_AA)
    cover = cv2.resize(large, (right - left, bottom - top), interpolation=cv2.INTER_AREA)[..., None] / np.float32(255)
    patch = canvas[top:bottom, left:right]
    patch[:] = (patch * (1 - cover) + np.array(colour, np.float32) * cover + 0.5).astype(np.uint8)


def _ascii(text: str) -> str:
    """Replace characters that OpenCV's fonts don't have."""
    return text.replace("·", "-").replace("–", "-").encode("ascii", "replace").decode()
