"""Search of a user's folder for images and label files, with camera, split and name from their paths.

Folder names show the camera (`rgb`, `visible_images`, `thermal`, `lwir`, ..) and the split (`train`, `val`, `valid`,
`test`), in any order and up to eight folders deep; other folders are part of an image's name. Images of the two
cameras with the same name are a pair. If no name shows the camera, grey images are taken for infrared.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from spectradino_core.data.images import IMAGE_ENDINGS, in_colour
from spectradino_core.data.labels import LabelError
from spectradino_core.data.labels.files import name_key, plain_stem, posix_name
from spectradino_core.files import folder_fault
from spectradino_core.modality import Modality
from spectradino_core.text import counted

RGB, INFRARED = "rgb", "infrared"
SPLITS = ("train", "val", "test")

SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
_RGB_WORDS = frozenset({"rgb", "color", "colour", "visible", "vis", "visual"})
_BANDS: dict[str, Modality | None] = {
    "nir": Modality.NIR, "swir": Modality.SWIR, "ir": None, "infrared": None, "lwir": Modality.LWIR,
    "thermal": Modality.LWIR, "fir": Modality.LWIR, "mwir": Modality.LWIR, "mir": Modality.LWIR, "tir": Modality.LWIR,
}  # fmt: skip
_CONTAINERS = frozenset({
    "images", "image", "imgs", "img", "jpegimages", "labels", "label", "annotations", "annotation", "anns", "xml",
    "txt", "yolo", "coco", "voc", "obj", "data", "boxes", "bboxes",
})  # fmt: skip
_MASK_WORDS = frozenset({
    "mask", "masks", "segmentation", "segmentationclass", "segmentationobject", "semantic", "label", "labels",
    "annotation", "annotations", "gt",
})  # fmt: skip
_IMAGE_WORDS = frozenset({"images", "image", "imgs", "img", "jpegimages"})
_BESIDE = {
    "vi": (RGB, ("ir",)),
    "t": (INFRARED, ("rgb",)),
    "img": (RGB, ("imgr",)),
    "imgr": (INFRARED, ("img",)),
    "label": (RGB, ("labelr",)),
    "labelr": (INFRARED, ("label", "imgr", "img")),
}
"""Words that show a camera beside a folder with one of the other words in their place, as of VT5000 or DroneVehicle."""

_LABELS = (".json", ".xml", ".txt", ".yaml", ".yml", ".names")
_CAMERA_WORDS = "|".join(sorted(_RGB_WORDS | _BANDS.keys()))
_IN_STEM = re.compile(  # "co" of VEDAI is the RGB camera, "previewdata" of FLIR the thermal one
    rf"(?:(?P<before>.+)(?:[\W_]|(?<=\d)))?(?P<camera>{_CAMERA_WORDS}|(?:co|previewdata)$)"
    r"(?:(?:[\W_]|(?=\d))(?P<after>.+))?"
)
_STEM_BANDS = {**_BANDS, "previewdata": Modality.LWIR}
_UNREAD = frozenset({
    ".arw", ".avif", ".bin", ".dng", ".exr", ".fff", ".gif", ".hdr", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".mat",
    ".npy", ".npz", ".pfm", ".raw", ".seq",
})  # fmt: skip
_WORD = re.compile(r"[a-z]+|\d+")
_GLUED = re.compile(  # trainimgr, valrgb
    f"({'|'.join(sorted(SPLIT_WORDS, key=len, reverse=True))})"
    f"({'|'.join(_IMAGE_WORDS | (_MASK_WORDS & _CONTAINERS) | _RGB_WORDS | _BANDS.keys() | _BESIDE.keys())})"
)
_SEPARATORS = re.compile(r"[\W_]+")
_DIGITS = re.compile(r"\d+")
_TIMES_OF_DAY = re.compile(r"dawn|morning|noon|afternoon|dusk|evening|night")
MAX_DEPTH, _MAX_FILES = 8, 2_000_000
_COLOUR_SAMPLES = 12


@dataclass(frozen=True)
class File:
    """An image or label file.

    Attributes:
        relative: path relative to the root, with forward slashes.
        split, camera: one of `SPLITS`, and RGB or INFRARED; None: not in the path.
        name: the other folders and the stem, as `name_key`, with Roboflow's renaming undone and without the camera.
        folders: those other folders in lower case; they relate labels to images.
        recording: `folders` without what describes the camera's folder, such as "16bit" of "thermal_16bit".
        band: word of the path that shows the infrared band.
    """

    path: Path
    relative: str
    split: str | None
    camera: str | None
    name: str
    folders: tuple[str, ...] = ()
    recording: tuple[str, ...] = ()
    band: str | None = None

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def full_stem(self) -> str:
        """The file's stem as `name_key`, as stored."""
        return name_key(self.path.stem)

    @property
    def parent(self) -> str:
        return self.relative.rpartition("/")[0]


@dataclass
class Scan:
    """Contents of a folder.

    Attributes:
        images: all images, with camera and split.
        unlisted: images left out, as the split's lists do not name them.
        labels: possible label files by ending.
        band: infrared band by folder names; None: unknown.
        remarks: assumptions and skipped files, as messages.
    """

    images: list[File] = field(default_factory=list)
    unlisted: list[File] = field(default_factory=list)
    labels: dict[str, list[File]] = field(default_factory=lambda: defaultdict(list))
    band: Modality | None = None
    remarks: list[str] = field(default_factory=list)


def scan(root: Path, rgb: str | None = None, infrared: str | None = None, band: Modality | None = None) -> Scan:
    """Search a folder; symbolic links in it are followed.

    Args:
        root: the folder.
        rgb, infrared: folders of the two cameras, if their names do not show the camera.
        band: the infrared band to use, if the folder holds several.

    Raises:
        LabelError: no such folder, or it or one in it can't be listed; it holds too many files, or no images; `rgb` and
            `infrared` are the same folder, or one without images; or the camera or band of some images is ambiguous.
    """
    if fault := folder_fault(root):
        raise LabelError(fault)
    given = {}
    for folder, camera in ((rgb, RGB), (infrared, INFRARED)):
        if folder is not None:
            given[_below(root, folder)] = camera
    if rgb is not None and infrared is not None and len(given) < 2:
        raise LabelError(f"--rgb and --ir name the same folder, {rgb}: give one for each camera")
    found = Scan()
    masks: list[File] = []
    doubtful: list[File] = []
    unread: Counter[str] = Counter()
    partial_splits: dict[str, str] = {}
    files, deep = _walk(root)
    if deep:
        found.remarks.append(f"folders more than {MAX_DEPTH} deep, such as {deep[0]}, are not searched: move them up")
    listed = {parts for _, parts in files}
    spelt = {(parts[:i], tuple(_words(part))) for parts in listed for i, part in enumerate(parts)}
    labelled = {path.with_suffix("") for path, _ in files if path.suffix.lower() in (".txt", ".xml", ".json")}
    for path, parts in files:
        ending = path.suffix.lower()
        unread[ending] += ending in _UNREAD
        if ending not in IMAGE_ENDINGS + _LABELS:
            continue
        file, mask = _described(path, parts, ending in IMAGE_ENDINGS, given, partial_splits, spelt)
        if ending not in IMAGE_ENDINGS:
            found.labels[".yaml" if ending == ".yml" else ending].append(file)
        elif mask == "yes" and path.with_suffix("") not in labelled:
            masks.append(file)
        else:
            (found.images if mask == "no" else doubtful).append(file)
    # Masks may lie in labels/rgb and have labels beside them: they have the names of other images.
    known = {(file.split, file.stem, camera) for file in found.images for camera in (file.camera, None)}
    for file in doubtful:
        (masks if (file.split, file.stem, file.camera) in known else found.images).append(file)
    if masks:
        found.remarks.append(
            f"{len(masks)} images in folders of labels or masks are skipped: own folders are read for boxes"
        )
    if skipped := {ending: count for ending, count in unread.items() if count}:
        kinds = ", ".join(f"{count} {ending}" for ending, count in skipped.items())
        found.remarks.append(f"files that are not read: {kinds}; convert images to PNG, TIFF or JPEG")
    for folder, split in partial_splits.items():
        found.remarks.append(f"the folder {folder!r} is taken for the split {split}: rename it if it is not")
    if not found.images:
        hint = (
            f"; {len(masks)} in folders of labels or masks, such as {masks[0].relative}, are skipped: rename the folder"
            if masks
            else f"; {found.remarks[0]}"
            if found.remarks
            else ""
        )
        raise LabelError(f"{root}: holds no images ({', '.join(IMAGE_ENDINGS)}) in it or its folders{hint}")
    for folder, camera in given.items():
        if not any(file.camera == camera for file in found.images):
            folders = list(dict.fromkeys(file.parent or "." for file in found.images))
            shown = ", ".join(folders[:8]) + (", .." if len(folders) > 8 else "")
            raise LabelError(f"{root}: no folder named {folder!r} holds images; choose from {shown}")
    unnamed = {file.relative for file in found.images if file.camera is None}
    _read_stems(found, not given)
    _read_titles(found)
    _choose_band(root, found, infrared, band)
    recognised = {file.relative for file in found.images if file.camera is None}
    _assign_cameras(root, found)
    _drop_camera_folders(found, unnamed, recognised)
    _drop_sensor_folders(found)
    found.images = _distinct(_named(found))
    return found


def _walk(root: Path) -> tuple[list[tuple[Path, tuple[str, ...]]], list[str]]:
    """List files in order with their folders below the root, and folders that are too deep to be visited.

    No folder is visited twice, in spite of links.
    """
    deep: list[str] = []
    found: list[tuple[Path, tuple[str, ...]]] = []
    seen: set[tuple[int, int]] = set()
    todo: deque[tuple[Path, tuple[str, ...]]] = deque([(root, ())])
    while todo:
        folder, parts = todo.popleft()
        try:
            state = folder.stat()
            if (state.st_dev, state.st_ino) in seen:
                continue
            if len(parts) > MAX_DEPTH:
                deep.append("/".join(parts))
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as entries:
                names = sorted((entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            raise LabelError(f"{folder}: can't be listed ({error.strerror})") from None
        found += [(folder / name, parts) for name, is_folder in names if not is_folder]
        todo += [(folder / name, (*parts, name)) for name, is_folder in names if is_folder]
        if len(found) > _MAX_FILES:
            raise LabelError(f"{root}: more than {_MAX_FILES} files; give the data set's own folder")
    return found, deep


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _below(root: Path, folder: str) -> str:
    """Return a folder given by the user, relative to the root if it lies below it, as a completed path does."""
    inner = os.path.relpath(folder, root)
    is_path = os.path.isabs(folder) or (os.path.isdir(folder) and not (root / folder).is_dir())
    return name_key(posix_name(inner if is_path and not inner.startswith(os.pardir) else folder))


def _described(
    path: Path,
    parts: Sequence[str],
    is_image: bool,
    given: Mapping[str, str],
    partial_splits: dict[str, str],
    spelt: Set[tuple[tuple[str, ...], tuple[str, ...]]],
) -> tuple[File, str]:
    """Return the file and whether an image is a mask, "yes", "no" or "doubtful".

    `partial_splits` gets folders whose name holds a split among other words; `spelt` holds the words of all
    folders' names, with the folders above.
    """
    split = camera = band = None
    folders: list[str] = []
    recording: list[str] = []
    mask = "no"
    for i, part in enumerate(parts):
        words = _words(part)
        by_path = given.get(name_key("/".join(parts[: i + 1]))) if given else None
        explicit = by_path or given.get(name_key(part))
        bands = [word for word in words if word in _BANDS]
        if explicit:
            camera, mask = explicit, "no"
            recording = [] if by_path else recording
            band = next(iter(bands), band) if explicit == INFRARED else None
            continue
        beside = {
            word: _BESIDE[word][0]
            for word in _BESIDE.keys() & set(words)
            if any((tuple(parts[:i]), _replaced(words, word, other)) in spelt for other in _BESIDE[word][1])
        }
        names_rgb = not _RGB_WORDS.isdisjoint(words) or RGB in beside.values()
        named = None if names_rgb == (bool(bands) or INFRARED in beside.values()) else RGB if names_rgb else INFRARED
        if named is not None:  # "rgb_thermal_pairs" shows neither; deeper folders take precedence
            band = bands[0] if bands else None
        shows_camera = named is not None and named not in given.values()
        camera = named if shows_camera else camera
        # Images in a folder of labels are masks, which would pass for infrared images because they are grey.
        if not _MASK_WORDS.isdisjoint(words) and _IMAGE_WORDS.isdisjoint(words):
            mask = "yes"
        elif mask == "yes" and (shows_camera or not _IMAGE_WORDS.isdisjoint(words)):
            mask = "doubtful"
        # Other words of a folder's name, such as the day of "thermal_day", are kept.
        known = (
            SPLIT_WORDS.keys() | _CONTAINERS | (_RGB_WORDS | _BANDS.keys() | beside.keys() if shows_camera else set())
        )
        kept = [word for word in words if word not in known]
        rest = [_without(name_key(part), known)] if kept or not words else []
        folders += rest
        recording += [] if shows_camera else rest
        stated = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)
        split = stated or split
        if stated and is_image and not shows_camera and any(len(word) > 2 and word.isalpha() for word in kept):
            partial_splits[part] = stated
    name = "/".join((*folders, name_key(plain_stem(path.name))))
    relative = "/".join((*parts, path.name))
    return File(path, relative, split, camera, name, tuple(folders), tuple(recording), band), mask


def _words(name: str) -> list[str]:
    """Return the words and numbers of a name; `trainimg` is two words."""
    return [part for word in _WORD.findall(name_key(name)) for part in _unglued(word)]


def _unglued(word: str) -> Sequence[str]:
    return match.groups() if (match := _GLUED.fullmatch(word)) else (word,)


def _replaced(words: Sequence[str], old: str, new: str) -> tuple[str, ...]:
    return tuple(new if word == old else word for word in words)


def _without(folder: str, words: Set[str]) -> str:
    """Return the name of a folder without some words; `seq1` and `seq_1` stay apart."""
    left = _WORD.sub(lambda match: "" if words >= set(_unglued(match[0])) else match[0], folder)
    return folder if left == folder else _SEPARATORS.sub("_", left).strip("_")


def other_folders(parts: Sequence[str]) -> tuple[str, ...]:
    """Return `File.folders` of a path of any machine, from its folders as `name_key`."""
    return _described(Path("x"), parts, False, {}, {}, set())[0].folders


def _read_stems(found: Scan, decide: bool) -> None:
    """Take the camera from stems such as `0001_rgb` and remove it, in folders where half of the images have one.

    Args:
        found: its images and labels are replaced.
        decide: the stem may give the camera; otherwise the user has.
    """
    folders: dict[str, dict[File, re.Match[str]]] = defaultdict(dict)
    for file in found.images:
        if match := _IN_STEM.fullmatch(file.stem):
            folders[file.parent][file] = match
    total = Counter(file.parent for file in found.images)
    changed: dict[File, File] = {}
    for folder, matches in folders.items():
        if 2 * len(matches) < total[folder]:
            continue
        of = {file: INFRARED if match["camera"] in _STEM_BANDS else RGB for file, match in matches.items()}
        is_mixed = len(set(of.values())) == 2  # otherwise the folder's name decides
        for file, match in matches.items():
            image = replace(file, name=_without_camera(file, match))
            if decide and (file.camera is None or is_mixed):
                word = match["camera"] if _STEM_BANDS.get(match["camera"]) else file.band
                image = replace(image, camera=of[file], band=word if of[file] == INFRARED else None)
            changed[file] = image
    named: dict[str, set[tuple[str | None, str | None]]] = defaultdict(set)
    for file, image in changed.items():
        named[file.full_stem].add((image.camera, image.band))
    found.images = [changed.get(file, file) for file in found.images]
    for ending in (".xml", ".txt"):
        for i, file in enumerate(found.labels[ending]):
            if (shown := named.get(file.full_stem)) and (match := _IN_STEM.fullmatch(file.stem)):
                if len(shown) == 1 and file.camera is None:
                    camera, band = next(iter(shown))
                    file = replace(file, camera=camera, band=band)
                found.labels[ending][i] = replace(file, name=_without_camera(file, match))


def _without_camera(file: File, match: re.Match[str]) -> str:
    return file.name.removesuffix(file.stem) + "_".join(filter(None, (match["before"], match["after"])))


def _read_titles(found: Scan) -> None:
    """Complete split, camera and band of label files of several images by their names: instances_thermal_train.json."""
    stems = {stem for file in found.images for stem in (file.stem, file.full_stem)}
    for ending in (".json", ".xml"):
        for i, file in enumerate(found.labels[ending]):
            if ending == ".xml" and not stems.isdisjoint((file.stem, file.full_stem)):
                continue  # VOC of one image
            split, camera, band = file.split, file.camera, file.band
            for word in _words(file.full_stem):
                split = split or SPLIT_WORDS.get(word)
                camera = camera or (RGB if word in _RGB_WORDS else INFRARED if word in _BANDS else None)
                band = band or (word if word in _BANDS and camera == INFRARED else None)
            found.labels[ending][i] = replace(file, split=split, camera=camera, band=band)


def _choose_band(root: Path, found: Scan, folder: str | None, band: Modality | None) -> None:
    """Find the infrared band, and remove images and labels of others, if `folder` (--ir) or `band` (--band) names it.

    Raises:
        LabelError: several bands, and none is chosen.
    """
    infrared = [file for file in found.images if file.camera == INFRARED]
    words = {file.band for file in infrared if file.band}
    bands = {one for word in words if (one := _STEM_BANDS[word])}
    others: list[File] = []
    if folder is not None:  # other infrared folders are not that camera's, such as MIR beside FIR
        own = {part for file in infrared for part in file.parent.split("/")}
        named = [file for file in found.images if file.camera is None and file.band]
        others = [
            file
            for file in named
            if own.isdisjoint(one for one in file.parent.split("/") if str(file.band) in name_key(one))
        ]
        words = {file.band for file in others if file.band} - words
    elif len(bands) > 1 and band in bands:
        bands = {band}
        words = {word for word in words if _STEM_BANDS[word] not in (None, band)}
        others = [file for file in infrared if file.band in words]
    if len(bands) > 1:
        names = " and ".join(sorted(one.name for one in bands))
        raise LabelError(
            f"{root}: holds images of {names}; a model takes one infrared band: name its folder with --ir, or the band "
            "of suffixes or folders with --band"
        )
    found.band = next(iter(bands), None)
    if others:
        found.remarks.append(
            f"{counted(len(others), 'image')} of another infrared camera, such as {others[0].relative}, and labels in "
            "folders or files of its name are skipped"
        )
        skipped = {file.relative for file in others}
        found.images = [file for file in found.images if file.relative not in skipped]
        for files in found.labels.values():
            files[:] = [file for file in files if file.band not in words]


def _assign_cameras(root: Path, found: Scan) -> None:
    """Assign a camera by colour to images whose folders do not show it."""
    groups: dict[str, list[File]] = defaultdict(list)
    for file in found.images:
        if file.camera is None:
            groups[file.name.rpartition("/")[0]].append(file)
    if not groups:
        return
    cameras: dict[str, str] = {}
    all_coloured: set[str] = set()
    remarks: dict[str, list[str]] = defaultdict(list)
    for group, files in groups.items():
        # At random: cameras may alternate in the order of names.
        sampled = Random(0).sample(files, min(len(files), _COLOUR_SAMPLES))
        coloured = sum(in_colour(file.path) for file in sampled)
        cameras[group] = RGB if 2 * coloured >= len(sampled) else INFRARED
        all_coloured |= {group} if coloured == len(sampled) else set()
        folders = {file.parent for file in files}
        shown = ", ".join(sorted(folders)[:3]) + (", .." if len(folders) > 3 else "") or root.name
        kind = "RGB, because they are in colour" if cameras[group] == RGB else "infrared, because they are grey"
        remarks[f"are taken for {kind}; --rgb and --ir name folders otherwise"].append(f"the images in {shown!r}")
        if 0 < coloured < len(sampled):
            remarks[
                "are in colour, the others are grey: if they are of two cameras, put those of each into a folder of "
                "its own"
            ].append(f"{coloured} of {len(sampled)} images sampled in {shown!r}")
    for text, of in remarks.items():
        more = f" (and of {counted(len(of) - 1, 'other folder')})" if len(of) > 1 else ""
        found.remarks.append(f"{of[0]}{more} {text}")
    stems = {group: {file.stem for file in files} for group, files in groups.items()}
    pair = [group for group in groups if any(stems[group] & stems[other] for other in groups if other != group)]
    is_unknown = len(pair) == len(groups) == 2 and all(pair) and cameras[pair[0]] == cameras[pair[1]]
    if is_unknown and INFRARED not in {file.camera for file in found.images}:
        one, other = (groups[group][0].parent for group in pair)
        named = f"give --rgb {one} --ir {other}, or the other way round"
        if not all_coloured.issuperset(pair):
            raise LabelError(
                f"{root}: {one!r} and {other!r} hold images of equal names, and it is not known which are infrared: "
                f"{named}; if one camera took both, move them into a folder of its name, such as thermal"
            )
        found.remarks.append(
            f"{one!r} and {other!r} hold images of equal names, all in colour: taken for two sequences of the RGB "
            f"camera; if one is a thermal camera in false colour, {named}"
        )
    found.images = [
        file if file.camera else replace(file, camera=cameras[file.name.rpartition("/")[0]]) for file in found.images
    ]


def _drop_camera_folders(found: Scan, unnamed: set[str], recognised: set[str]) -> None:
    """Remove from recordings the folder of a camera which its name does not show.

    It is the deepest that holds images of one camera only, if the other camera has images without it.

    Args:
        found: its images are replaced.
        unnamed, recognised: images whose folders do not show the camera; those of them whose colours do.
    """
    cameras: dict[str, set[str | None]] = defaultdict(set)
    for file in found.images:
        for part in file.folders:
            cameras[part].add(file.camera)

    def recording(file: File) -> tuple[str, ...]:
        own = [i for i, part in enumerate(file.folders) if len(cameras[part]) == 1][-1:]
        return tuple(part for i, part in enumerate(file.folders) if i not in own)

    known = {
        (file.camera, recording(file) if file.relative in recognised else file.recording)
        for file in found.images
        if file.relative in recognised or file.relative not in unnamed
    }
    found.images = [
        replace(file, recording=recording(file))
        if file.relative in unnamed and (RGB if file.camera == INFRARED else INFRARED, recording(file)) in known
        else file
        for file in found.images
    ]


def _drop_sensor_folders(found: Scan) -> None:
    """Remove from recordings folders that hold all images of one camera and none of the other, such as zed and flir.

    Those that differ by a number or the time of day are recordings, of which each has one camera only.
    """
    cameras = {camera: [file for file in found.images if file.camera == camera] for camera in (RGB, INFRARED)}
    if not all(cameras.values()):
        return
    parts = {camera: {part for file in files for part in file.recording} for camera, files in cameras.items()}
    common = {camera: set.intersection(*(set(file.recording) for file in files)) for camera, files in cameras.items()}
    rgb, infrared = common[RGB] - parts[INFRARED], common[INFRARED] - parts[RGB]
    kinds = ({_TIMES_OF_DAY.sub("day", _DIGITS.sub("0", part)) for part in own} for own in (rgb, infrared))
    if not rgb | infrared or set.intersection(*kinds):
        return
    if not (rgb and infrared):  # else `_named` reports it
        names = " and ".join(sorted(rgb | infrared))
        found.remarks.append(f"folders named {names} are taken for a camera's: rename them if they are recordings")
    found.images = [
        replace(file, recording=tuple(part for part in file.recording if part not in rgb | infrared))
        for file in found.images
    ]


def _named(found: Scan) -> list[File]:
    """Name images by their recording; by all folders if that distinguishes images of a camera, or both have these."""
    groups: dict[tuple[str | None, tuple[str, ...]], list[File]] = defaultdict(list)
    for file in found.images:
        groups[file.split, file.recording].append(file)
    images: list[File] = []
    remarks: dict[str, str] = {}
    for (_, recording), files in groups.items():
        rgb, infrared = ({file.folders for file in files if file.camera == camera} for camera in (RGB, INFRARED))
        named = {(file.camera, file.stem): file.relative for file in files}
        is_distinct = len(named) == len({(file.camera, file.stem, file.folders) for file in files})
        is_short = is_distinct and rgb & infrared <= {recording}
        both = (
            f"{named[RGB, stem]} and {named[one, stem]}"
            for one, stem in named
            if one == INFRARED and (RGB, stem) in named
        )
        text = ""
        if is_short and recording not in rgb | infrared:
            text = "taken for pairs: if they are of different recordings, move them into folders with other names"
        elif not is_short and not rgb & infrared:
            text = "not paired, as one camera has several images of that name: choose its folder by --rgb or --ir"
        if text and (pair := next(both, None)):
            remarks.setdefault(text, f"images of one name, such as {pair}, are {text}")
        images += [replace(file, name="/".join((*recording, file.stem))) if is_short else file for file in files]
    found.remarks += remarks.values()
    return images


def _distinct(images: list[File]) -> list[File]:
    """Make names unique per split and camera: copies of an image made by Roboflow keep its names for them."""
    count = Counter((file.split, file.camera, file.name) for file in images)
    return [
        file
        if count[file.split, file.camera, file.name] == 1 or plain_stem(file.path.name) == file.path.stem
        else replace(file, name=file.name.removesuffix(file.stem) + file.full_stem)
        for file in images
    ]
