"""Boxes in Pascal VOC XML files, which come from outside: no document types, so no entities to expand."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from spectradino_core.data.benchmarks.boxes import LabelledObject
from spectradino_core.data.benchmarks.files import BenchmarkError
from spectradino_core.files import FileError, read_bytes

__all__ = ["read_voc"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(path: Path) -> list[LabelledObject]:
    """Every object, its corners as stored. The file's own image size is not looked at: it may be wrong.

    Raises:
        BenchmarkError: not such a file, or one with a document type; names it.
    """
    root = _parse(path)
    found = []
    for place, item in enumerate(root.findall("object")):
        name, box = item.findtext("name"), item.find("bndbox")
        try:
            corners = tuple(float((box.findtext(key) if box is not None else None) or "none") for key in _CORNERS)
        except ValueError:
            corners = ()
        if not name or len(corners) != 4 or not np.isfinite(corners).all():
            raise BenchmarkError(f"{path}: object {place} has no name or no bndbox with {', '.join(_CORNERS)}")
        found.append(LabelledObject(name.strip(), (corners[0], corners[1], corners[2], corners[3])))
    return found


def _parse(path: Path) -> Element:
    try:
        data = read_bytes(path, "VOC label file")
    except FileError as error:
        raise BenchmarkError(str(error)) from None
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise BenchmarkError(f"{path}: has a document type (<!DOCTYPE ..>), which annotations don't need; refused")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except expat.ExpatError as error:
        raise BenchmarkError(f"{path}: not XML, or cut short ({error})") from None
