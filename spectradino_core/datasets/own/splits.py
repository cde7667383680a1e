"""Splits of a user's folder whose folder names show none: by data.yaml, or by lists of images such as `train.txt`.

No path in these files is opened: they are compared with the images and lists found in the folder.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from spectradino_core.data.images import IMAGE_ENDINGS
from spectradino_core.data.labels import LabelError
from spectradino_core.data.labels.files import name_key, plain_stem, posix_name, read_text
from spectradino_core.datasets.own.scan import SPLIT_WORDS, File, Scan
from spectradino_core.files import FileError, parse_yaml
from spectradino_core.text import counted

_VOC_FLAG = re.compile(r"\s+-?[01]$")
_WORD = re.compile(r"[a-z]+")

_Votes = dict[str, dict[str, str]]
"""By item name, the splits that list it, each with the file that does so."""


def assign_splits(found: Scan) -> None:
    """Assign splits if no folder shows one; images that are in no list of several are moved to `found.unlisted`.

    Raises:
        LabelError: an image is listed in two splits.
    """
    if any(file.split for file in found.images):
        return
    votes = _by_yaml(found) or _by_lists(found)
    if not votes:
        return
    for file in found.images:
        if len(sources := votes.get(file.name, {})) > 1:
            (first, one), (second, other) = list(sources.items())[:2]
            raise LabelError(
                f"{file.relative} is listed for {first} in {one} and for {second} in {other}: remove it from one, or "
                "list images with their folders"
            )
    splits = {name: next(iter(sources)) for name, sources in votes.items()}
    source = ", ".join(sorted({source for sources in votes.values() for source in sources.values()}))
    unlisted = [file for file in found.images if file.name not in splits]
    if "train" not in splits.values():
        splits |= {file.name: "train" for file in unlisted}
        if unlisted:
            found.remarks.append(f"{counted(len(unlisted), 'image')} not listed in {source} are for train")
    elif unlisted:
        found.unlisted = unlisted
        found.remarks.append(
            f"{counted(len(unlisted), 'image')}, such as {unlisted[0].relative}, left out: not listed in {source}"
        )
    found.images = [
        File(file.path, file.relative, splits[file.name], file.camera, file.name)
        for file in found.images
        if file.name in splits
    ]


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
    """Match lines of (text, split, source) by path; by file name if no path fits any image."""
    by_stem: dict[str, list[File]] = defaultdict(list)
    for file in found.images:
        for stem in {file.stem, file.full_stem, name_key(plain_stem(file.path.name))}:
            by_stem[stem].append(file)
    for by_path in (True, False):
        votes: _Votes = {}
        depths: dict[str, int] = {}
        lost: dict[str, list[str]] = defaultdict(list)
        for text, split, source in lines:
            # VOC's lists of one class append 1, 0 or -1, other lists the boxes.
            texts = (text, _VOC_FLAG.sub("", text), text.split()[0])
            matches = next((rows for one in texts if (rows := _matches(by_stem, one, by_path))), [])
            if not matches:
                lost[source].append(text)
            for depth, file in matches:
                if depth > depths.get(file.name, -1):  # the more folders are equal, the surer it is
                    depths[file.name], votes[file.name] = depth, {}
                if depth == depths[file.name]:
                    votes[file.name].setdefault(split, source)
        if votes:
            break
    for source, unknown in lost.items():
        found.remarks.append(f"{source}: {counted(len(unknown), 'line')} name no image, such as {unknown[0][:80]!r}")
    if votes and not by_path:
        found.remarks.append("the lists name images in other folders than theirs; matched by file name only")
    return votes


def _matches(by_stem: dict[str, list[File]], text: str, by_path: bool) -> list[tuple[int, File]]:
    """Return the images that a line may mean, each with the number of equal folders."""
    *folders, name = _parts(text) or ("",)
    is_file = PurePosixPath(name).suffix in IMAGE_ENDINGS
    found = []
    for file in by_stem.get(name_key(plain_stem(name if is_file else f"{name}.png")), ()):
        own = _parts(file.folder)
        depth = min(len(folders), len(own)) if by_path else 0
        if depth == 0 or tuple(folders[-depth:]) == own[-depth:]:
            found.append((depth, file))
    return found


def _by_yaml(found: Scan) -> _Votes:
    """Return the splits by the folders and lists that YAML files of YOLO name; {} if all images are for train."""
    votes: _Votes = defaultdict(dict)
    for yaml, split, entry, paths in _yaml_entries(found):
        listed = _resolve(found, paths)
        if not listed:
            found.remarks.append(f"{yaml.relative}: its {split} {entry[:80]!r} names no images of this folder")
        for name in listed:
            votes[name].setdefault(split, yaml.relative)
    for name, sources in votes.items():
        if sources.keys() > {"train"}:
            found.remarks.append(
                f"{', '.join(sorted(set(sources.values())))}: gives {', '.join(sources)} the same images, such as "
                f"{name}; its splits are not used"
            )
            return {}
        if len(sources) > 1:  # both are held out
            sources.pop("test")
    is_all_train = all(file.name in votes for file in found.images) and {*_splits(votes)} == {"train"}
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
        base = data.get("path") if isinstance(data.get("path"), str) else ""
        for key, value in data.items():
            split = SPLIT_WORDS.get(name_key(str(key))) if isinstance(key, str) else None
            for entry in (value if isinstance(value, list) else [value]) if split else ():
                if isinstance(entry, str) and entry.strip():
                    joined = posixpath.join(file.folder, posix_name(base), posix_name(entry))
                    parts = _parts(joined)
                    # The data may have been moved, so the first folders of a path need not exist.
                    yield file, split or "", entry, [parts[i:] for i in range(max(1, len(parts)))]


def _resolve(found: Scan, paths: Sequence[tuple[str, ...]]) -> set[str]:
    """Return the names of the images in the first of these folders or lists that there is."""
    for path in paths:
        if listed := {file.name for file in found.images if _parts(file.folder)[: len(path)] == path}:
            return listed
        for file in found.labels[".txt"]:
            if _parts(file.relative) == path:
                return set(_by_lines(found, [(line, "", file.relative) for line in _lines(file)]))
    return set()


def _lines(file: File) -> list[str]:
    lines = read_text(file.path, "list of names", Counter()).splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _parts(path: str) -> tuple[str, ...]:
    """Return the parts of a path as `name_key`; a path out of its folder is taken from there on."""
    return tuple(part for part in name_key(posix_name(path)).split("/") if part not in ("", ".", ".."))
