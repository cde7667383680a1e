"""Reading of Pascal VOC XML files in any encoding; document types, and thus entity expansion, are refused."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from spectradino_core.data.labels.files import decode_text, read_bytes
from spectradino_core.data.labels.objects import ImageLabels, LabelError, LabelledObject, OtherFormatError
from spectradino_core.text import printable

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECLARATION = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")


def read_voc(path: Path) -> ImageLabels:
    """Read the objects of one image with their corners as stored; the file's image size may be wrong.

    Raises:
        OtherFormatError: XML with another root than <annotation>.
        LabelError: damaged, or a file with a document type.
    """
    notes: Counter[str] = Counter()
    root = parse_xml(path, notes)
    if root.tag != "annotation":
        raise OtherFormatError(f"{path}: not VOC, its root is <{printable(root.tag)[:40]}>, not <annotation>")
    found = []
    for number, item in enumerate(root.findall("object")):
        name, box = item.findtext("name"), item.find("bndbox")
        try:
            corners = tuple(float((box.findtext(key) if box is not None else None) or "none") for key in _CORNERS)
        except ValueError:
            corners = ()
        if not name or not name.strip() or len(corners) != 4 or not np.isfinite(corners).all():
            raise LabelError(f"{path}: object {number} has no name or no bndbox with {', '.join(_CORNERS)}")
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


def parse_xml(path: Path, notes: Counter[str], kind: str = "VOC label file") -> Element:
    """Return the root of an XML file; raises LabelError."""
    data = read_bytes(path, kind)
    declared = _DECLARATION.match(data.removeprefix(b"\xef\xbb\xbf"))
    try:
        text = decode_text(data, notes, declared[1].decode("ascii") if declared else None)
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not XML, or truncated ({error})") from None
    # The text is decoded here and passed as UTF-8, because expat knows few encodings.
    builder, parser = TreeBuilder(), expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise LabelError(f"{path}: has a document type (<!DOCTYPE ..>), which is refused: remove that line")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text.strip().encode(), True)
        return builder.close()
    except (expat.ExpatError, UnicodeEncodeError) as error:
        raise LabelError(f"{path}: not XML, or truncated ({error})") from None
