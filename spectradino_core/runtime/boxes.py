"""Box arithmetic on plain arrays: overlap and non-maximum suppression.

Letters: N, K boxes as x1 y1 x2 y2; C classes.
"""

from __future__ import annotations

import numpy as np

CANDIDATES = 400
"""Number of (box, class) entries considered, which bounds the time: the best relative to their class's threshold."""


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of boxes `a` [N, 4] and `b` [K, 4]: float32 [N, K]."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    # one plane per coordinate: several times faster than a last axis of two
    ax1, ay1, ax2, ay2 = (column[:, None] for column in a.T)
    bx1, by1, bx2, by2 = b.T
    width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1)
    height = np.minimum(ay2, by2) - np.maximum(ay1, by1)
    overlap = width.clip(0) * height.clip(0)
    area_a = (ax2 - ax1).clip(0) * (ay2 - ay1).clip(0)
    area_b = (bx2 - bx1).clip(0) * (by2 - by1).clip(0)
    return overlap / np.maximum(area_a + area_b - overlap, np.float32(1e-9))


def select_detections(
    boxes: np.ndarray,
    scores: np.ndarray,
    threshold: float | np.ndarray,
    nms_iou: float,
    max_detections: int,
    candidates: int = CANDIDATES,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Apply class-wise non-maximum suppression to dense predictions.

    Args:
        boxes, scores: [N, 4] in any pixels, [N, C] in 0..1; a box may be kept for several classes.
        threshold: minimum score, for all classes or float32 [C] per class.
        nms_iou: IoU above which the lower-scored of two boxes of one class is dropped.
        max_detections, candidates: maximum number of detections; see `CANDIDATES`.

    Returns:
        boxes float32 [K, 4], scores float32 [K], labels int64 [K], best first, equal scores in the input's order.
    """
    rows, labels = np.nonzero(scores >= threshold)
    values = scores[rows, labels]
    if len(values) > candidates:
        limits = np.maximum(np.broadcast_to(np.asarray(threshold, np.float32), scores.shape[1:])[labels], 1e-6)
        best = np.sort(np.argsort(-values / limits, kind="stable")[:candidates])
        rows, labels, values = rows[best], labels[best], values[best]
    order = np.argsort(-values, kind="stable")
    rows, labels, values = rows[order], labels[order], values[order]
    picked = boxes[rows].astype(np.float32)
    if len(set(labels.tolist())) == len(labels) <= max_detections:  # at most one per class: nothing to suppress
        return picked, values.astype(np.float32), labels.astype(np.int64)
    same_class = labels[:, None] == labels[None, :]
    overlapping = (iou_matrix(picked, picked) > nms_iou) & same_class
    is_candidate = np.ones(len(picked), bool)
    kept: list[int] = []
    for i in range(len(picked)):
        if len(kept) >= max_detections:
            break
        if is_candidate[i]:
            kept.append(i)
            is_candidate &= ~overlapping[i]
    return picked[kept], values[kept].astype(np.float32), labels[kept].astype(np.int64)
