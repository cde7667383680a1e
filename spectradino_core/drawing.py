"""Draw on images for people, uint8 [h, w, 3] in RGB order: grey levels, masks, boxes, text; and encode image files.

Letters: h x w an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from spectradino_core.invalid_counts import InvalidCounts

Colour = tuple[int, int, int]

BOX_COLOURS: tuple[Colour, ...] = (
    (255, 64, 64),
    (64, 220, 255),
    (255, 214, 10),
    (120, 255, 120),
    (255, 120, 255),
    (255, 160, 64),
    (160, 160, 255),
)
"""RGB colours of box classes, repeated cyclically; see `box_colour`."""

BLACK, PAPER = (0, 0, 0), (250, 250, 250)
LINE_HEIGHT = 20
"""Height of a `text_line` in pixels."""

_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4
_MASK_ALPHA = 0.35


def box_colour(label: int) -> Colour:
    """Return the RGB colour of a box class."""
    return BOX_COLOURS[int(label) % len(BOX_COLOURS)]


def stretched(image: np.ndarray, sample: np.ndarray, percent: tuple[float, float] = (1, 99)) -> np.ndarray:
    """Convert counts of any type [h, w] to uint8, stretched between two percentiles of `sample`."""
    low, high = np.percentile(sample, percent)
    return np.clip((image.astype(np.float32) - low) * (255.0 / max(high - low, 1.0)), 0, 255).astype(np.uint8)


def infrared_to_grey(frame: np.ndarray) -> np.ndarray:
    """Convert a frame uint8 or uint16 [h, w] to grey uint8 [h, w, 3], stretched between its 1st and 99th percentile.

    Dead pixels and borders are excluded from the percentiles but drawn, so that they are visible.
    """
    seen, valid = frame[::4, ::4], InvalidCounts()(frame)  # every 16th pixel is accurate enough for display
    if valid is not None and valid[::4, ::4].any():
        seen = seen[valid[::4, ::4] > 0]
    return cv2.cvtColor(stretched(frame, seen), cv2.COLOR_GRAY2RGB)


def in_palette(mask: np.ndarray, palette: Sequence[Colour] | np.ndarray, unlabelled: int = 0) -> np.ndarray:
    """Colour a class mask, uint8 [h, w], by the RGB of each class; `unlabelled`: grey level of all other values."""
    table = np.full((1, 256, 3), unlabelled, np.uint8)
    table[0, : len(palette)] = palette
    return cv2.LUT(cv2.merge([mask] * 3), table)


def with_mask(image: np.ndarray, mask: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """Blend a class mask, uint8 [h, w], over a copy of an image, but not where unlabelled or black (background)."""
    painted = in_palette(mask, palette)
    blended = cv2.addWeighted(image, 1 - _MASK_ALPHA, painted, _MASK_ALPHA, 0)
    return cv2.copyTo(image, cv2.inRange(painted, BLACK, BLACK), blended)


def draw_box(
    canvas: np.ndarray,
    box: Sequence[float] | np.ndarray,
    colour: Colour,
    text: str = "",
    thickness: int = 2,
    scale: float = 0.38,
    below: bool = False,
) -> None:
    """Draw a box x1 y1 x2 y2, with its text above the upper edge or `below` the lower one, but inside the image."""
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness)
    if not text:
        return
    (width, height), base = cv2.getTextSize(text, _FONT, scale, 1)
    height += base
    left = min(max(x1, 0), max(0, canvas.shape[1] - width))
    top = min(y2, canvas.shape[0] - height) if below else max(y1 - height, 0)
    cv2.rectangle(canvas, (left, top), (left + width, top + height), colour, cv2.FILLED)
    write_text(canvas, text, (left, top + height - base // 2 - 1), scale=scale)


def write_text(
    canvas: np.ndarray, text: str, origin: tuple[int, int], colour: Colour = BLACK, scale: float = _FONT_SCALE
) -> None:
    """Write text with the left end of its baseline at `origin`."""
    cv2.putText(canvas, text, origin, _FONT, scale, colour, 1, cv2.LINE_AA)


def text_width(text: str) -> int:
    """Return the width of a text in pixels."""
    return int(cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)[0][0])


def text_line(text: str, width: int) -> np.ndarray:
    """Return a line of text on paper, uint8 [LINE_HEIGHT, width, 3]."""
    line = np.full((LINE_HEIGHT, width, 3), PAPER, np.uint8)
    write_text(line, text, (4, LINE_HEIGHT - 6))
    return line


def encoded(image: np.ndarray, ending: str, *options: int) -> bytes:
    """Return an image, RGB or one channel [h, w], as a file of the type of a name's ending, such as ".png".

    Raises:
        ValueError: the format cannot hold it; a JPEG, for example, has at most 65500 rows.
    """
    try:
        done, data = cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image, options)
    except cv2.error:  # an empty image, an unknown ending
        done = False
    if not done:
        raise ValueError(f"an image of {image.shape[1]}x{image.shape[0]} can't be stored as {ending[1:].upper()}")
    return data.tobytes()


def jpeg_of(image: np.ndarray, quality: int) -> bytes:
    """Return an image as a JPEG file of a quality 0 to 100."""
    return encoded(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality)
