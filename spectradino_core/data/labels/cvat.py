"""Reading of CVAT's own XML, "CVAT for images 1.1": boxes, polygons, ellipses and masks as boxes."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from spectradino_core.data.labels.coco import CocoFile, CocoImage, size_of
from spectradino_core.data.labels.files import posix_name
from spectradino_core.data.labels.objects import ImageLabels, LabelError, LabelledObject, OtherFormatError
from spectradino_core.data.labels.voc import parse_xml


def read_cvat(path: Path) -> CocoFile:
    """Read the images and objects of all its images.

    Raises:
        OtherFormatError: not CVAT's XML, or that of a video.
        LabelError: damaged; names the file and the image.
    """
    notes: Counter[str] = Counter()
    root = parse_xml(path, notes, "label file")
    if root.tag != "annotations" or root.find("image") is None:
        raise OtherFormatError("XML files are not 'CVAT for images'")
    images = []
    for one in root.iter("image"):
        name = one.get("name") or ""
        entry = {"id": one.get("id"), "file_name": name}
        image = CocoImage(entry, posix_name(name), size_of(one.attrib))
        image.labels = ImageLabels(_objects(path, name, one, notes), size=image.size)
        images.append(image)
    declared = [label.findtext("name") or "" for label in root.iter("label")]
    used = [one.name for image in images for one in image.labels.objects]
    return CocoFile(path, {}, images, tuple(name for name in dict.fromkeys([*declared, *used]) if name), +notes)


def _objects(path: Path, name: str, image: Element, notes: Counter[str]) -> list[LabelledObject]:
    found = []
    for shape in image:
        if shape.tag == "tag":  # of the whole image
            continue
        try:
            corners = _corners(shape)
        except (KeyError, ValueError):
            corners = (math.nan,) * 4
        label = (shape.get("label") or "").strip()
        if corners is None:
            notes["other_shapes"] += 1
        elif not label or not all(map(math.isfinite, corners)):
            raise LabelError(f"{path}: image {name!r} has a {shape.tag[:40]} without label or with damaged coordinates")
        else:
            found.append(LabelledObject(label, corners))
    return found


def _corners(shape: Element) -> tuple[float, float, float, float] | None:
    """Return the bounding box of a shape; None: not an area."""

    def values(*keys: str) -> list[float]:
        return [float(shape.attrib[key]) for key in keys]

    if shape.tag == "polygon":
        points = np.array([pair.split(",") for pair in shape.attrib["points"].split(";")], np.float64)
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        return float(x1), float(y1), float(x2), float(y2)
    if shape.tag == "mask":
        x, y, width, height = values("left", "top", "width", "height")
        return x, y, x + width, y + height
    if shape.tag == "box":
        x1, y1, x2, y2 = values("xtl", "ytl", "xbr", "ybr")
        x, y, a, b = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    elif shape.tag == "ellipse":
        x, y, a, b = values("cx", "cy", "rx", "ry")
    else:
        return None
    turn = math.radians(float(shape.get("rotation") or 0))
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    if shape.tag == "box":
        a, b = a * cos + b * sin, a * sin + b * cos
    else:
        a, b = math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos)
    return x - a, y - b, x + a, y + b
