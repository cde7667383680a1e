"""Files of a published data set, found by name and never outside its root.

Letters: h w image size.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from spectradino_core.data.images import IMAGE_ENDINGS
from spectradino_core.data.labels import LabelError
from spectradino_core.data.labels.files import is_roboflow, plain_stem, read_text
from spectradino_core.files import folder_fault, listing


class BenchmarkError(LabelError):
    """A root does not hold the expected data set or only part of it, or a file is damaged; names the culprit."""


T = TypeVar("T")

_NAME = re.compile(r"[\w][\w.\- ()]*")
_MAX_ASPECT_ERROR = 0.02


def locate(root: Path, wanted: Sequence[str], nested: Sequence[str] = ()) -> Path:
    """Return the folder that holds `wanted`: the root or one of its folders `nested`, as archives often have one.

    Raises:
        BenchmarkError: no such folder, or it is incomplete; names what is there and what is missing.
    """
    if fault := folder_fault(root):
        raise BenchmarkError(fault)
    candidates = [root, *(root / name for name in nested if (root / name).is_dir())]
    lacking = {folder: [name for name in wanted if not (folder / name).exists()] for folder in candidates}
    best = min(candidates, key=lambda folder: len(lacking[folder]))
    if lacking[best]:
        part = "it seems only partly extracted: it lacks" if len(lacking[best]) < len(wanted) else "it holds none of"
        raise BenchmarkError(f"{best}: {part} {', '.join(lacking[best])}; there is {listing(best)}")
    return best


def by_stem(folder: Path, endings: Sequence[str] = IMAGE_ENDINGS) -> dict[str, Path]:
    """Map stems to a folder's files with one of these endings (any case), sorted, without hidden files.

    Roboflow's renaming is undone, unless several files would get one name, as in its exports with augmentation.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise BenchmarkError(f"{folder}: can't be listed ({error.strerror})") from None
    names = [name for name in names if name.lower().endswith(tuple(endings))]
    count = Counter(map(plain_stem, names))
    return {
        stem if count[stem := plain_stem(name)] == 1 else os.path.splitext(name)[0]: folder / name for name in names
    }


def names_of(path: Path, suffixes: Sequence[str] = ()) -> list[str]:
    """Read a list of names, one per line, without repetitions; `suffixes` are cut off.

    Raises:
        BenchmarkError: the file can't be read or is empty, or a line is no plain name (a path could leave the root).
    """
    try:
        lines = read_text(path, "list of names", Counter()).splitlines()
    except LabelError as error:
        raise BenchmarkError(f"{error}; expected a list of names") from None
    names: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        name = plain_stem(name) if is_roboflow(name) else name
        for suffix in suffixes:
            name = name.removesuffix(suffix)
        if not name:
            continue
        if not _NAME.fullmatch(name) or ".." in name:
            raise BenchmarkError(f"{path}, line {number}: {line.strip()[:80]!r} is no plain file name")
        names[name] = None
    if not names:
        raise BenchmarkError(f"{path}: the list is empty")
    return list(names)


def relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def on_grid(image: np.ndarray, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """Resample an infrared image to the pixel grid [h, w] of its RGB image; registered sets may store another.

    Raises:
        BenchmarkError: the aspect ratios differ by more than 2 %, so it is another view.
    """
    height, width = shape[:2]
    if image.shape[:2] == (height, width):
        return image
    aspect = (image.shape[1] / image.shape[0]) / (width / height)
    if abs(aspect - 1) > _MAX_ASPECT_ERROR:
        raise BenchmarkError(
            f"{path}: {image.shape[1]}x{image.shape[0]} pixels, its RGB image has {width}x{height}: "
            "not the same view, so boxes and masks would not fit"
        )
    shrinks = image.shape[1] > width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def evenly_spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items, evenly spread from the first to the last."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, count).astype(int))]
