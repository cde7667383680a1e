"""Splits of a user's folder whose folder names show none: by data.yaml, or by lists of images such as `train.txt`.

No path in these files is opened: they are compared with the images and lists found in the folder.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePosixPath

from spectradino_core.data.images import IMAGE_ENDINGS
from spectradino_core.data.labels import LabelError
from spectradino_core.data.labels.files import name_key, plain_stem, posix_name, read_text
from spectradino_core.datasets.own.scan import MAX_DEPTH, SPLIT_WORDS, File, Scan, other_folders
from spectradino_core.files import FileError, parse_yaml
from spectradino_core.text import counted

_MAX_PATH = 4096
_VOC_FLAG = re.compile(r"(?<!\s)\s+-?[01]$")  # linear in the number of spaces
_WORD = re.compile(r"[a-z]+")

_Key = tuple[str | None, str]
_Votes = dict[_Key, dict[str, str]]
"""By an item's folder split and name: the splits that list it, each with the file that does so."""


def assign_splits(found: Scan) -> None:
    """Assign splits to images whose folders show none; images that the lists leave out are moved to `found.unlisted`.

    Without a list for train, those are for train.

    Raises:
        LabelError: an image is listed in two splits.
    """
    unsplit = [file for file in found.images if file.split is None]
    remarks = len(found.remarks)
    try:
        votes = _by_yaml(found) or _by_lists(found)
    except LabelError:
        if unsplit:
            raise
        votes = {}
    if not unsplit:
        del found.remarks[remarks:]
    source = ", ".join(sorted({source for sources in votes.values() for source in sources.values()}))
    stated = [file for file in found.images if file.split and _key(file) in votes]
    if differing := [file for file in stated if file.split not in votes[_key(file)]]:
        found.remarks.append(
            f"{source}: lists {counted(len(differing), 'image')}, such as {differing[0].relative}, for other splits "
            "than their folders show; the folders decide"
        )
    splits: dict[_Key, str] = {}
    for file in unsplit:
        sources = votes.get(_key(file), {})
        if len(sources) > 1:
            (first, one), (second, other) = list(sources.items())[:2]
            raise LabelError(
                f"{file.relative} is listed for {first} in {one} and for {second} in {other}: remove it from one, list "
                "images with their folders, or keep the lists of one fold only"
            )
        splits |= {_key(file): split for split in sources}
    unlisted = [file for file in unsplit if _key(file) not in splits]
    if not splits:
        return
    if "train" not in splits.values():
        splits |= {_key(file): "train" for file in unlisted}
        if unlisted:
            found.remarks.append(f"{counted(len(unlisted), 'image')} not listed in {source} are for train")
    elif unlisted:
        found.unlisted = unlisted
        found.remarks.append(
            f"{counted(len(unlisted), 'image')}, such as {unlisted[0].relative}, left out: not listed in {source}"
        )
    found.images = [
        replace(file, split=file.split or splits[_key(file)])
        for file in found.images
        if file.split or _key(file) in splits
    ]


def _key(file: File) -> _Key:
    return file.split, file.name


def _by_lists(found: Scan) -> _Votes:
    images = {file.full_stem for file in found.images} | {file.stem for file in found.images}
    texts = [file for file in found.labels[".txt"] if file.full_stem not in images]  # others are labels of an image
    lists = [(file, split) for file in texts if (split := SPLIT_WORDS.get(file.full_stem))]
    if not lists:  # align_train.txt, train_list.txt
        lists = [
            (file, splits.pop())
            for file in texts
            if len(splits := {SPLIT_WORDS[word] for word in _WORD.findall(file.full_stem) if word in SPLIT_WORDS}) == 1
            and all(len(line.split()) == 1 for line in _lines(file))
        ]
    # VOC has lists of other tasks, of fewer images.
    lists = [row for row in lists if _parts(row[0].relative)[-2:-1] == ("main",)] or lists
    return _by_lines(found, [(line, split, file.relative) for file, split in lists for line in _lines(file)])


def _by_lines(found: Scan, lines: Sequence[tuple[str, str, str]]) -> _Votes:
    """Match lines of (text, split, source) by path; by file name if no path fits any image.

    Raises:
        LabelError: a line with folders fits images of several recordings.
    """
    by_stem: dict[str, list[File]] = defaultdict(list)
    for file in found.images:
        for stem in {file.stem, file.full_stem, name_key(plain_stem(file.path.name))}:
            by_stem[stem].append(file)
    for by_path in (True, False):
        votes: _Votes = {}
        depths: dict[_Key, int] = {}
        lost: dict[str, list[str]] = defaultdict(list)
        for text, split, source in lines:
            # VOC's lists of one class append 1, 0 or -1, other lists the boxes; a path may be relative to its list.
            texts = (text, _VOC_FLAG.sub("", text), text.split()[0]) if len(text) <= _MAX_PATH else ()
            paths = [
                path for one in texts for path in (posixpath.join(posixpath.dirname(source), posix_name(one)), one)
            ]
            matches = next((rows for one in paths if (rows := _matches(by_stem, one, by_path))), [])
            if not matches:
                lost[source].append(text)
            deepest = max((depth for depth, _ in matches), default=0)
            likely = {file.recording: file for depth, file in matches if depth == deepest}
            if len(likely) > 1 and (deepest or not by_path):
                one, other = (file.relative for file in list(likely.values())[:2])
                raise LabelError(
                    f"{source}: {text[:80]!r} may be {one} or {other}: list images with the folders that they have here"
                )
            for depth, file in matches:
                key = _key(file)
                if depth > depths.get(key, -1):  # the more folders are equal, the surer it is
                    depths[key], votes[key] = depth, {}
                if depth == depths[key]:
                    votes[key].setdefault(split, source)
        if votes:
            break
    for source, unknown in lost.items():
        found.remarks.append(f"{source}: {counted(len(unknown), 'line')} without an image, such as {unknown[0][:80]!r}")
    if votes and not by_path:
        found.remarks.append("the lists name images in other folders than theirs; matched by file name only")
    return votes


def _matches(by_stem: dict[str, list[File]], text: str, by_path: bool) -> list[tuple[int, File]]:
    """Return the images that a line may mean, each with the number of equal folders."""
    *folders, name = _parts(text) or ("",)
    is_file = PurePosixPath(name).suffix in IMAGE_ENDINGS
    files = by_stem.get(name_key(plain_stem(name if is_file else f"{name}.png")), ())
    folders = folders[-MAX_DEPTH - 1 :]  # images have no more
    other = other_folders(folders) if files else ()
    found = []
    for file in files:
        own = _parts(file.parent)
        if not (by_path and folders and own):
            found.append((0, file))
        elif depth := _common_end(tuple(folders), own) or _common_end(other, file.folders):
            found.append((depth, file))
    return found


def _common_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Return the length of the shorter of two paths if it is the end of the other, else 0."""
    depth = min(len(one), len(other))
    return depth if depth and one[-depth:] == other[-depth:] else 0


def _by_yaml(found: Scan) -> _Votes:
    """Return the splits by the folders and lists that YAML files of YOLO name; {} if all images are for train."""
    votes: _Votes = defaultdict(dict)
    for yaml, split, entry, paths in _yaml_entries(found):
        listed = _resolve(found, paths)
        if not listed:
            found.remarks.append(f"{yaml.relative}: its {split} {entry[:80]!r} names no images of this folder")
        for key in listed:
            votes[key].setdefault(split, yaml.relative)
    for key, sources in votes.items():
        if sources.keys() > {"train"}:
            found.remarks.append(
                f"{', '.join(sorted(set(sources.values())))}: gives {', '.join(sources)} the same images, such as "
                f"{key[1]}; its splits are not used"
            )
            return {}
        if len(sources) > 1:  # both are held out
            sources.pop("test")
    is_all_train = all(_key(file) in votes for file in found.images) and {*_splits(votes)} == {"train"}
    return {} if is_all_train else dict(votes)


def _splits(votes: _Votes) -> Iterator[str]:
    return (split for sources in votes.values() for split in sources)


def _yaml_entries(found: Scan) -> Iterator[tuple[File, str, str, list[tuple[str, ...]]]]:
    """Yield (file, split, entry, folders or lists that it may mean, in order) of each entry."""
    for file in found.labels[".yaml"]:
        try:
            data = parse_yaml(read_text(file.path, "list of names", Counter()), "")
        except (FileError, LabelError):  # reported with the names of classes
            continue
        if not isinstance(data, dict):
            continue
        base = path if isinstance(path := data.get("path"), str) else ""
        for key, value in data.items():
            split = SPLIT_WORDS.get(name_key(key)) if isinstance(key, str) else None
            for entry in value if isinstance(value, list) else [value]:
                if split and isinstance(entry, str) and entry.strip():
                    if len(base) + len(entry) > _MAX_PATH:
                        yield file, split, entry, []
                        continue
                    joined = posixpath.join(file.parent, posix_name(base), posix_name(entry))
                    parts = _parts(joined)
                    # The data may have been moved, so the first folders of a path need not exist.
                    paths = [parts[i:] for i in range(max(0, len(parts) - MAX_DEPTH - 2), len(parts))]
                    yield file, split, entry, [()] if posix_name(joined) == "." else paths


def _resolve(found: Scan, paths: Sequence[tuple[str, ...]]) -> set[_Key]:
    """Return the keys of the images in the first of these folders or lists that there is."""
    for path in paths:
        if listed := {_key(file) for file in found.images if _parts(file.parent)[: len(path)] == path}:
            return listed
        for file in found.labels[".txt"]:
            if _parts(file.relative) == path:
                return set(_by_lines(found, [(line, "", file.relative) for line in _lines(file)]))
    return set()


def _lines(file: File) -> list[str]:
    lines = read_text(file.path, "list of names", Counter()).splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


@lru_cache(1 << 16)
def _parts(path: str) -> tuple[str, ...]:
    """Return the parts of a path as `name_key`; a path out of its folder is taken from there on."""
    return tuple(part for part in name_key(posix_name(path)).split("/") if part not in ("", ".", ".."))
