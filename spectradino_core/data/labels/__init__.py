"""Readers of label files: COCO JSON, Pascal VOC XML, YOLO text and class masks.

Everything that reads labels (bags, folders of pairs, published data sets, own data) uses these readers, so all commands
accept the same files. Common deviations of real files are tolerated, counted by name (`NOTES`) and reported; damaged
files are refused with a `LabelError` that names the file and the entry.

- `objects.py`: objects of one image, conversion to boxes, class names, notes.
- `files.py`: bounded reading of text in any encoding, paths that may not leave their root, image names.
- `coco.py`, `voc.py`, `yolo.py`, `masks.py`: one format each.
"""

from __future__ import annotations

from spectradino_core.data.labels.objects import (
    CLASS_ALIASES,
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
    "CLASS_ALIASES",
    "NOTES",
    "UNLABELLED",
    "Boxes",
    "ClassNames",
    "ImageLabels",
    "LabelError",
    "LabelledObject",
    "boxes_of",
    "describe_notes",
]
