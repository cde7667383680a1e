"""Boxes in Pascal VOC XML files: no document types, so no entities to expand; in any encoding."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from spectradino_core.data.labels.files import decode_text, read_bytes
from spectradino_core.data.labels.objects import ImageLabels, LabelError, LabelledObject

__all__ = ["read_voc"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECLARATION = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")


def read_voc(path: Path) -> ImageLabels:
    """Every object, its corners as stored. The file's own image size is not relied on: it may be wrong.

    Raises:
        LabelError: not such a file, or one with a document type; names it.
    """
    notes: Counter[str] = Counter()
    root = _parse(path, notes)
    found = []
    for place, item in enumerate(root.findall("object")):
        name, box = item.findtext("name"), item.find("bndbox")
        try:
            corners = tuple(float((box.findtext(key) if box is not None else None) or "none") for key in _CORNERS)
        except ValueError:
            corners = ()
        if not name or not name.strip() or len(corners) != 4 or not np.isfinite(corners).all():
            raise LabelError(f"{path}: object {place} has no name or no bndbox with {', '.join(_CORNERS)}")
        difficult = (item.findtext("difficult") or "0").strip().lower() in ("1", "true", "yes")
        box_corners = (corners[0], corners[1], corners[2], corners[3])
        found.append(LabelledObject(name.strip(), box_corners, difficult=difficult))
    return ImageLabels(found, notes, _size(root))


def _size(root: Element) -> tuple[int, int] | None:
    try:
        width, height = (int(float(root.findtext(f"size/{side}") or "")) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _parse(path: Path, notes: Counter[str]) -> Element:
    data = read_bytes(path, "VOC label file")
    declared = _DECLARATION.match(data.removeprefix(b"\xef\xbb\xbf"))
    try:
        text = decode_text(data, notes, declared[1].decode("ascii") if declared else None)
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not XML, or cut short ({error})") from None
    # The parser gets UTF-8, whatever the declaration says: it knows few encodings itself.
    builder, parser = TreeBuilder(), expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise LabelError(f"{path}: has a document type (<!DOCTYPE ..>), which annotations don't need; refused")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text.strip().encode(), True)
        return builder.close()
    except (expat.ExpatError, UnicodeEncodeError) as error:
        raise LabelError(f"{path}: not XML, or cut short ({error})") from None
