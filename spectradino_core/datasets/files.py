"""Files of a data set from outside: found by name, never outside its root.

Letters: h w an image.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from spectradino_core.data.images import read_colour, read_counts
from spectradino_core.data.labels import LabelError
from spectradino_core.data.labels.files import is_roboflow, plain_stem, read_text
from spectradino_core.files import listing

__all__ = [
    "IMAGES",
    "BenchmarkError",
    "by_stem",
    "locate",
    "matched",
    "names_of",
    "on_grid",
    "read_pair",
    "relative",
]


class BenchmarkError(LabelError):
    """A root is not the data set it was said to be, only part of it, or a file in it is damaged; names which."""


IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

_NAME = re.compile(r"[\w][\w.\- ()]*")
_MOST_ASPECT_ERROR = 0.02


def locate(root: Path, wanted: Sequence[str], nested: Sequence[str] = ()) -> Path:
    """The folder that holds `wanted`: the root itself or one of its folders `nested`, as archives often have one.

    Raises:
        BenchmarkError: there is no such folder, or not all of it; says what is there and what lacks.
    """
    if not root.is_dir():
        raise BenchmarkError(f"{root}: no such folder")
    candidates = [root, *(root / name for name in nested if (root / name).is_dir())]
    lacking = {folder: [name for name in wanted if not (folder / name).exists()] for folder in candidates}
    best = min(candidates, key=lambda folder: len(lacking[folder]))
    if lacking[best]:
        part = "it seems only partly extracted: it lacks" if len(lacking[best]) < len(wanted) else "it holds none of"
        raise BenchmarkError(f"{best}: {part} {', '.join(lacking[best])}; there is {listing(best)}")
    return best


def by_stem(folder: Path, endings: Sequence[str] = IMAGES) -> dict[str, Path]:
    """The folder's files with one of these endings (any case) by name without ending, sorted; hidden ones left out.

    Roboflow's renaming is undone, but where several files would have one name: its export of a set with augmentation.

    Raises:
        BenchmarkError: no such folder.
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
    """The names in a list file, one a line, in its order, each once; `suffixes` are cut off.

    Raises:
        BenchmarkError: the file can't be read, is empty, or a line is no plain name (a path could lead elsewhere).
    """
    try:
        lines = read_text(path, "list of names", Counter()).splitlines()
    except LabelError as error:
        raise BenchmarkError(f"{error}; a list of names is wanted") from None
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
    """For messages: the path below the root."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def read_pair(rgb: Path, infrared: Path) -> tuple[np.ndarray, np.ndarray]:
    """Colour uint8 [h, w, 3] in RGB order, and infrared uint8 or uint16 [h, w] on the colour image's grid.

    Raises:
        ImageFileError: see `images`.
        BenchmarkError: the two don't show the same view.
    """
    colour = read_colour(rgb)
    return colour, on_grid(read_counts(infrared), colour.shape[:2], infrared)


def on_grid(image: np.ndarray, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """An infrared image [.., ..] on the pixel grid [h, w] of its colour partner.

    Registered sets store some bands at another resolution; that is resampled. Another aspect is another view.

    Raises:
        BenchmarkError: the aspects differ by more than 2 %.
    """
    height, width = shape[:2]
    if image.shape[:2] == (height, width):
        return image
    aspect = (image.shape[1] / image.shape[0]) / (width / height)
    if abs(aspect - 1) > _MOST_ASPECT_ERROR:
        raise BenchmarkError(
            f"{path}: {image.shape[1]}x{image.shape[0]} pixels, its colour image has {width}x{height}: "
            "not the same view, so boxes and masks would not fit"
        )
    shrinks = image.shape[1] > width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def matched(
    root: Path, names: Sequence[str], folders: Mapping[str, Mapping[str, Path]], wanted: Mapping[str, str]
) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """For each name its files, and for each name that lacks one, what lacks.

    Args:
        root: for messages.
        names: names of items.
        folders: by role ("rgb", "infrared", ..), the files of its folder by stem.
        wanted: by role, how its file is called, "{}" standing for the name, without ending.
    """
    whole: dict[str, dict[str, Path]] = {}
    missing: list[str] = []
    for name in names:
        files = {role: folders[role].get(pattern.format(name)) for role, pattern in wanted.items()}
        lacking = next((role for role, path in files.items() if path is None), None)
        if lacking is None:
            whole[name] = {role: path for role, path in files.items() if path is not None}
        else:
            example = next(iter(folders[lacking].values()), None)
            where = lacking if example is None else relative(root, example.parent)
            missing.append(f"{where}/{wanted[lacking].format(name)}")
    return whole, missing
