"""Reading of label files with size limits and any encoding, and of the paths in them, which may not leave their root.

A symbolic link inside a data root is followed; only a path *written in a file* that leads out of the root is refused.
"""

from __future__ import annotations

import codecs
import posixpath
import re
import unicodedata
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from spectradino_core import files
from spectradino_core.data.labels.objects import LabelError
from spectradino_core.files import errors_as, parse_json
from spectradino_core.text import printable

T = TypeVar("T")

_MAX_NAME = 255
_DRIVE = re.compile(r"[A-Za-z]:")
_ROBOFLOW = re.compile(r"(?P<stem>.+?)(_(jpe?g|png|bmp|tiff?|webp|gif))*\.rf\.[0-9A-Za-z]{8,64}", re.IGNORECASE)
_LABEL_STUDIO = re.compile(r"[0-9a-f]{8}-(?P<stem>\d{1,12}[._-]\d{9}|\d{10}[._-]\d{6}|\d{16,19})")
"""Only before a stamp: elsewhere eight digits may be a date that distinguishes images."""
_CHINESE = frozenset({"gb2312", "gbk", "gb18030", "hz"})
_SAFE_ENCODINGS = re.compile(
    r"utf-(8|16|32)(-[bl]e)?|utf-8-sig|ascii|iso8859-\d+|cp125\d|cp(437|850|852|866|932|949|950)|big5(hkscs)?|"
    r"shift_jis|euc_(jp|kr)|koi8-[ru]"
)
"""Encodings that a file may declare; some of Python's others take quadratic time or are not text encodings."""


def read_bytes(path: Path, kind: str) -> bytes:
    """Like `files.read_bytes`, but raises LabelError."""
    with errors_as(LabelError):
        return files.read_bytes(path, kind)


def read_text(path: Path, kind: str, notes: Counter[str]) -> str:
    """Read a text file in UTF-8 or another encoding, see `decode_text`; raises LabelError."""
    try:
        return decode_text(read_bytes(path, kind), notes)
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: can't be read as text ({error})") from None


def decode_text(data: bytes, notes: Counter[str], declared: str | None = None) -> str:
    """Decode text by its byte order mark, else as declared, else as UTF-8, GB18030 or Latin-1, the first that fits.

    `notes` counts byte order marks and encodings other than UTF-8.

    Raises:
        UnicodeDecodeError: a UTF-16 byte order mark before data that is not UTF-16.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        notes["byte_order_mark"] += 1
        return data.decode("utf-16")
    if data.startswith(codecs.BOM_UTF8):
        notes["byte_order_mark"] += 1
        data = data.removeprefix(codecs.BOM_UTF8)
    for encoding in (_known(declared), "utf-8"):
        try:
            text = data.decode(encoding) if encoding else None
        except UnicodeDecodeError:
            continue
        if text is not None:
            if encoding not in ("utf-8", "ascii") and not text.isascii():
                notes["other_encoding"] += 1
            return text
    notes["other_encoding"] += 1
    return _guessed(data)


def read_json(path: Path, notes: Counter[str]) -> Any:
    """Read a JSON file; raises LabelError."""
    with errors_as(LabelError):
        return parse_json(read_text(path, "label file", notes), f"label file {printable(str(path))}")


def inside(root: Path, text: object, source: Path | str) -> Path:
    """Return the path below `root` that the file `source` names, with slashes of either kind.

    Raises:
        LabelError: the path leads out of the root, or is invalid.
    """
    name = str(text).replace("\\", "/")
    parts = PurePosixPath(posixpath.normpath(name)).parts
    if name.startswith("/") or _DRIVE.match(name) or parts[:1] == ("..",):
        raise LabelError(f"{source} names {str(text)[:120]!r}, which lies outside {root}")
    path = root.joinpath(*parts)
    try:
        path.is_file()
    except (OSError, ValueError) as error:  # a null byte, or too long
        raise LabelError(f"{source} names {str(text)[:120]!r}, which is not a path ({error})") from None
    if "\0" in name:
        raise LabelError(f"{source} names {str(text)[:120]!r}, which is not a path")
    return path


def posix_name(text: object) -> str:
    """Normalise a path from a file: forward slashes, no leading "./", composed letters (macOS decomposes umlauts)."""
    name = unicodedata.normalize("NFC", str(text).strip())
    return posixpath.normpath(name.replace("\\", "/")) if name else ""


def is_roboflow(name: str) -> bool:
    """Return whether a file name is that of a Roboflow export: `street_jpg.rf.<hash>.jpg` for street.jpg."""
    return _roboflow(PurePosixPath(name).stem) is not None


def _roboflow(stem: str) -> re.Match[str] | None:
    """Match a stem; a longer one than file systems have would take quadratic time."""
    return _ROBOFLOW.fullmatch(stem) if len(stem) <= _MAX_NAME and ".rf." in stem.lower() else None


def plain_stem(name: str) -> str:
    """Return a file's name without folders, extension, Roboflow's suffix and Label Studio's prefix to a stamp."""
    stem = PurePosixPath(name).stem
    found = _roboflow(stem) or _LABEL_STUDIO.fullmatch(stem)
    return found["stem"] if found else stem


def name_key(text: str) -> str:
    """Return the form of a name in which names of either case and either Unicode form are equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


class ImageNames(Generic[T]):
    """Entries of a label file by image path.

    An equal path has precedence. Otherwise a path matches if its name is equal (ignoring case, extension and Roboflow's
    suffix) and the folders of one path are the end of the other's: label files name images relative to other folders
    than the data set's root, or by file name only.

    Attributes:
        entries: values by the names as given.
    """

    def __init__(self, entries: Iterable[tuple[str, T]], source: Path) -> None:
        """Take (name normalised by `posix_name`, value) of the label file `source`; LabelError if a name is twice."""
        self.entries: dict[str, T] = {}
        self._alike: dict[tuple[str, ...], list[tuple[tuple[str, ...], T]]] = defaultdict(list)
        for name, value in entries:
            if name in self.entries:
                raise LabelError(
                    f"{source}: lists the image {name!r} twice: give it one entry, which all its annotations name"
                )
            self.entries[name] = value
            folders, keys = _folders_and_keys(name)
            for key in keys:
                self._alike[key].append((folders, value))
        for rows in self._alike.values():
            rows.sort(key=_folders_of)

    def find(self, path: str) -> T | None:
        """Return the value of the image at a path; None: not listed, or ambiguous."""
        name = posix_name(path)
        if name in self.entries:
            return self.entries[name]
        folders, keys = _folders_and_keys(name)
        for rows in (self._alike.get(key, []) for key in keys):
            for depth in range(len(folders), -1, -1):  # the more folders are equal, the better
                first = bisect_left(rows, folders[:depth], key=_folders_of)
                found = [
                    value
                    for other, value in rows[first : first + 2]
                    if other[:depth] == folders[:depth] and depth in (len(other), len(folders))
                ]
                if found:
                    return found[0] if len(found) == 1 else None
        return None


def _folders_and_keys(name: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the folders of a path, the deepest first, and the keys of its file name, the most exact first."""
    path, stem = PurePosixPath(name.casefold()), plain_stem(name).casefold()
    return path.parts[-2::-1], [(stem, path.name), (stem,)]


def _folders_of(row: tuple[tuple[str, ...], Any]) -> tuple[str, ...]:
    return row[0]


def _known(declared: str | None) -> str | None:
    """Return the codec of a declared encoding, if allowed; GB18030 for its subsets GB2312 and GBK."""
    if not declared:
        return None
    try:
        name = codecs.lookup(declared).name
    except (LookupError, ValueError):
        return None
    if name in _CHINESE:
        return "gb18030"
    return name if _SAFE_ENCODINGS.fullmatch(name) else None


def _guessed(data: bytes) -> str:
    """Decode as GB18030 if most letters are pairs of high bytes, as in Chinese text; else as Latin-1."""
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return data.decode("latin-1")
    foreign = [letter.encode("gb18030") for letter in text if ord(letter) > 127]
    common = sum(len(pair) == 2 and min(pair) >= 0xA1 for pair in foreign)
    return text if 2 * common >= len(foreign) else data.decode("latin-1")
