"""COCO's detection scores: mAP over IoU 0.5 to 0.95, mAP50, mAP75, per class, and precision-recall curves.

The counting is faster-coco-eval's, equal to pycocotools (area "all", 100 detections of a class in an image). What the
demo needs, AP50 without that library, is in `detection.py`; both are held to pycocotools.

Letters: K detections, N true boxes, boxes as x1 y1 x2 y2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectradino_core.evaluation.detection import MAX_DETECTIONS, checked_arrays, mean_average_precision
from spectradino_core.evaluation.spread import none_for_nan

__all__ = ["RECALLS", "DetectionScores", "coco_scores"]

RECALLS = np.linspace(0.0, 1.0, 101)
"""The recalls that COCO reads precision at."""

_IOUS = np.linspace(0.5, 0.95, 10)
_AREA_OF_ALL = [0, 1e5**2]


@dataclass(frozen=True)
class DetectionScores:
    """Scores in 0..1; nan where no box is true.

    Attributes:
        map: mean over IoU 0.5, 0.55 .. 0.95 and over the classes that have true boxes.
        map50, map75: at one IoU.
        ap, ap50, ap75: the same by class.
        instances: true boxes by class, those to be ignored left out.
        precision: by class, precision at IoU 0.5 at each of `RECALLS`, float64 [101]; nan without true boxes.
    """

    map: float
    map50: float
    map75: float
    ap: Mapping[str, float]
    ap50: Mapping[str, float]
    ap75: Mapping[str, float]
    instances: Mapping[str, int]
    precision: Mapping[str, np.ndarray]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.ap)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the curves; None where a value is nan, which JSON does not know."""
        return {
            **{name: none_for_nan(getattr(self, name)) for name in ("map", "map50", "map75")},
            **{
                name: {label: none_for_nan(value) for label, value in getattr(self, name).items()}
                for name in ("ap", "ap50", "ap75")
            },
            "instances": dict(self.instances),
        }


def coco_scores(
    predictions: Sequence[Sequence[np.ndarray]],
    truths: Sequence[Sequence[np.ndarray]],
    classes: Sequence[str],
    max_detections: int = MAX_DETECTIONS,
) -> DetectionScores:
    """COCO's scores of a set of images.

    Args:
        predictions: for each image (boxes [K, 4], scores [K], labels [K]), boxes in the pixels of the true ones.
        truths: for each image, in the same order, (boxes [N, 4], labels [N]) or (boxes, labels, ignored bool [N]). A
            box to be ignored is COCO's crowd region: finding it is neither right nor wrong, however often, and a
            detection counts as on it by the share of the detection's area that it covers.
        classes: names; labels are indices into them.
        max_detections: the best-scored of each class that count in each image.

    Raises:
        ValueError: different numbers of images, arrays that don't fit each other, numbers that are not finite, or
            labels beyond `classes`; the message names the image by its place.
        ModuleNotFoundError: faster-coco-eval is not installed.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} images were predicted, {len(truths)} have truth")
    if len(set(classes)) != len(classes) or not classes:
        raise ValueError(f"classes need names that differ, got {list(classes)}")
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (found, true) in enumerate(zip(predictions, truths, strict=True)):
        if len(found) != 3:
            raise ValueError(f"prediction {image}: (boxes, scores, labels) are wanted, got {len(found)} arrays")
        boxes, scores, labels = checked_arrays(f"prediction {image}", found, len(classes))
        results += [
            {"image_id": image + 1, "category_id": int(label) + 1, "bbox": box, "score": float(score)}
            for box, score, label in zip(_xywh(boxes), scores, labels, strict=True)
        ]
        boxes, labels = checked_arrays(f"truth {image}", true[:2], len(classes))
        ignored = _ignored(f"truth {image}", true[2:], len(boxes))
        annotations += [
            {"image_id": image + 1, "category_id": int(label) + 1, "bbox": box, "iscrowd": int(ignore)}
            for box, label, ignore in zip(_xywh(boxes), labels, ignored, strict=True)
        ]
    for rows in (annotations, results):
        for number, row in enumerate(rows, start=1):
            row["id"] = number
            row["area"] = row["bbox"][2] * row["bbox"][3]
    counts = [0] * len(classes)
    for row in annotations:
        counts[row["category_id"] - 1] += not row["iscrowd"]
    head = {
        "images": [{"id": image + 1} for image in range(len(truths))],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
    }
    if not truths or not any(counts):
        precision = np.full((len(_IOUS), len(RECALLS), len(classes)), -1.0)
    else:
        truth, found_set = COCO(head | {"annotations": annotations}), COCO(head | {"annotations": results})
        evaluation = COCOeval_faster(truth, found_set, "bbox", print_function=_silent)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [_AREA_OF_ALL], ["all"]
        evaluation.params.maxDets = [max_detections]
        evaluation.params.iouThrs, evaluation.params.recThrs = _IOUS, RECALLS
        evaluation.evaluate()
        evaluation.accumulate()
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]
    return _scores(precision, classes, counts)


def _scores(precision: np.ndarray, classes: Sequence[str], counts: Sequence[int]) -> DetectionScores:
    """From precision [IoUs, recalls, classes], -1 where a class has no true boxes."""
    known = np.where(precision < 0, np.nan, precision)
    at_iou = known.mean(axis=1)  # nan for all of a class or for none
    ap, ap50, ap75 = (
        {name: float(value) for name, value in zip(classes, values, strict=True)}
        for values in (at_iou.mean(axis=0), at_iou[0], at_iou[5])
    )
    return DetectionScores(
        map=mean_average_precision(ap),
        map50=mean_average_precision(ap50),
        map75=mean_average_precision(ap75),
        ap=ap,
        ap50=ap50,
        ap75=ap75,
        instances=dict(zip(classes, counts, strict=True)),
        precision={name: known[0, :, label].copy() for label, name in enumerate(classes)},
    )


def _ignored(what: str, flags: Sequence[np.ndarray], boxes: int) -> np.ndarray:
    """bool [N]; nothing is to be ignored where nothing was said."""
    ignored = np.asarray(flags[0] if flags else np.zeros(boxes, bool))
    if len(flags) > 1 or ignored.shape != (boxes,) or ignored.dtype != bool:
        raise ValueError(f"{what}: what may follow boxes and labels is one bool array [{boxes}], of those to ignore")
    return ignored


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    """COCO's x, y, width, height; a box turned inside out is empty."""
    return np.concatenate([boxes[:, :2], np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)], axis=1).tolist()


def _silent(*_: Any) -> None:
    """In place of the library's messages."""
