"""Box arithmetic on plain arrays: overlap and non-maximum suppression.

Letters: N, K boxes as x1 y1 x2 y2; C classes.
"""

from __future__ import annotations

import numpy as np

__all__ = ["iou_matrix", "select_detections"]


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of `a` [N, 4] with every box of `b` [K, 4]: float32 [N, K]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a = np.prod(np.clip(a[:, 2:] - a[:, :2], 0, None), axis=1)
    area_b = np.prod(np.clip(b[:, 2:] - b[:, :2], 0, None), axis=1)
    return (overlap / np.maximum(area_a[:, None] + area_b[None] - overlap, 1e-9)).astype(np.float32)


def select_detections(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, nms_iou: float, most: int, candidates: int = 400
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class-wise non-maximum suppression over dense predictions.

    Args:
        boxes: [N, 4] in any pixels.
        scores: [N, C] in 0..1; a box may be kept for several classes.
        threshold: least score kept.
        nms_iou: of two boxes of one class that overlap more than this, the lower-scored goes.
        most: largest number of detections returned.
        candidates: how many best-scored (box, class) entries are looked at, which bounds the time.

    Returns:
        boxes float32 [K, 4], scores float32 [K], labels int64 [K], best first; equal scores keep the input's order, so
        that the same input gives the same answer.
    """
    rows, labels = np.nonzero(scores >= threshold)
    values = scores[rows, labels]
    order = np.argsort(-values, kind="stable")[:candidates]
    rows, labels, values = rows[order], labels[order], values[order]
    picked = boxes[rows].astype(np.float32)
    same_class = labels[:, None] == labels[None, :]
    clashes = (iou_matrix(picked, picked) > nms_iou) & same_class
    alive = np.ones(len(picked), bool)
    kept: list[int] = []
    for i in range(len(picked)):
        if len(kept) >= most:
            break
        if alive[i]:
            kept.append(i)
            alive &= ~clashes[i]
    return picked[kept], values[kept].astype(np.float32), labels[kept].astype(np.int64)
