"""Label files from outside: COCO JSON, Pascal VOC XML, YOLO text and class masks, each read in one place.

Everything that reads labels (bags, folders of pairs, published data sets, own data) uses these readers, so a file that
one command accepts is accepted by all of them. Oddities that real files are full of are tolerated, counted by name
(`NOTES`) and reported; damage is refused by a `LabelError` that names the file and the entry.

- `objects.py`: objects of one image, boxes as they count, class names, notes.
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
