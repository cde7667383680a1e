"""Readers of label files: COCO JSON (`coco`), Pascal VOC XML (`voc`), YOLO text (`yolo`) and class masks (`masks`).

Everything that reads labels (bags, folders of pairs, published data sets, own data) uses these readers, so all commands
accept the same files. Common deviations of real files are tolerated, counted by name (`NOTES`) and reported; damaged
files are refused with a `LabelError` that names the file and the entry.
"""

from __future__ import annotations

from spectradino_core.data.labels.objects import (
    NOTES,
    UNLABELLED,
    Boxes,
    ClassNames,
    ImageLabels,
    LabelError,
    LabelledObject,
    boxes_of,
    describe_notes,
)

__all__ = [
    "NOTES", "UNLABELLED", "Boxes", "ClassNames", "ImageLabels", "LabelError", "LabelledObject", "boxes_of",
    "describe_notes",
]  # fmt: skip
