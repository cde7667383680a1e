"""Contact sheets: every band of a scene side by side, with boxes and mask.

Usage: `python -m spectradino_core.scenes --out scenes.png`.
"""

from __future__ import annotations

import cv2
import numpy as np

from spectradino_core.modality import Modality
from spectradino_core.scenes.scene import BOX_CLASSES, MASK_PALETTE, UNLABELLED, Scene

__all__ = ["colourise_mask", "contact_sheet", "display"]

_BOX_COLOURS = {"person": (255, 60, 60), "bicycle": (255, 200, 0), "car": (60, 200, 255)}


def display(image: np.ndarray) -> np.ndarray:
    """Return any band as uint8 RGB [H, W, 3]; 16-bit images are stretched between percentiles 1 and 99.5."""
    if image.dtype != np.uint8:
        low, high = np.percentile(image, (1.0, 99.5))
        image = np.clip((image - low) * (255.0 / max(high - low, 1.0)), 0, 255).astype(np.uint8)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def colourise_mask(mask: np.ndarray) -> np.ndarray:
    """Convert a mask [H, W] to RGB uint8 [H, W, 3] with MASK_PALETTE; unlabelled is black."""
    palette = np.zeros((UNLABELLED + 1, 3), np.uint8)
    palette[: len(MASK_PALETTE)] = MASK_PALETTE
    return palette[mask]


def contact_sheet(scenes: list[Scene], boxes: bool = True, mask: bool = True) -> np.ndarray:
    """Draw one row per scene, its bands and then its mask, as uint8 RGB [rows * H, columns * W, 3]."""
    rows = []
    for scene in scenes:
        cells = []
        for band in sorted(scene.images):
            image = scene.images[band]
            if band is Modality.SWIR:
                # Proportional to radiance: needs a tone curve before the stretch.
                image = np.sqrt(image.astype(np.float32))
            cell = np.ascontiguousarray(display(image).copy())
            cells.append(_annotate(cell, scene, band, boxes))
        if mask:
            cells.append(colourise_mask(scene.mask))
        rows.append(np.hstack(cells))
    return np.vstack(rows)


def _annotate(cell: np.ndarray, scene: Scene, band: Modality, boxes: bool) -> np.ndarray:
    if boxes:
        outlines = scene.boxes
        if band is not Modality.RGB:
            corners = np.concatenate([outlines[:, :2], outlines[:, 2:]])
            back = np.linalg.inv(scene.ir_to_rgb)
            mapped = np.column_stack([corners, np.ones(len(corners))]) @ back.T
            outlines = np.hstack(np.split(mapped[:, :2] / mapped[:, 2:], 2)) if len(outlines) else outlines
        for (x1, y1, x2, y2), label in zip(np.rint(outlines).astype(int).tolist(), scene.labels, strict=True):
            cv2.rectangle(cell, (x1, y1), (x2 - 1, y2 - 1), _BOX_COLOURS[BOX_CLASSES[label]], 1)
    caption = f"{band.key} seed {scene.seed} {scene.time_of_day}"
    cv2.putText(cell, caption, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return cell
