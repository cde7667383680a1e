"""Labels of the images in a user's folder: COCO, CVAT XML, VOC and YOLO, also mixed.

A label file applies to the images of the split and camera that its path shows; otherwise to any. Its other folders
relate it to images as well: `labels/seq1/0001.txt` is not for `rgb/seq2/0001.jpg`. Where several images fit equally,
the labels are refused instead of used for the wrong image.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations, islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from spectradino_core.data.labels import ImageLabels, LabelError
from spectradino_core.data.labels.coco import CocoFile, CocoImage, coco_of
from spectradino_core.data.labels.cvat import read_cvat
from spectradino_core.data.labels.files import name_key, plain_stem, posix_name, read_json
from spectradino_core.data.labels.objects import OtherFormatError, canonical
from spectradino_core.data.labels.voc import read_voc
from spectradino_core.data.labels.yolo import YoloNames, read_yolo, read_yolo_names
from spectradino_core.datasets.own import scan
from spectradino_core.datasets.own.scan import INFRARED, RGB, SPLIT_WORDS, File, Scan
from spectradino_core.text import counted

_BOTH_CAMERAS = "{} pairs are labelled on both cameras; those of RGB are used"
_HIDDEN = (
    "{} images have no object in the labels that are used, but some in others, such as {}: remove the file that is out "
    "of date"
)
_ALSO = (
    "{} images are also labelled in files of another format, which are not used, such as {}: remove those that are out "
    "of date"
)
_OTHER_FOLDERS = "{} label files are used for images in folders of other names, such as {}: check that they are theirs"
_ELSEWHERE = (
    "{} unlabelled images have label files of their name in other folders only, such as {}: if they are theirs, name "
    "the folders of labels like those of the images"
)
_CASES = (_BOTH_CAMERAS, _HIDDEN, _ALSO, _OTHER_FOLDERS, _ELSEWHERE)
"""Remarks with the number of cases and one of them."""

_NAME_LISTS = ("classes", "obj", "names", "labels", "predefined_classes")
_CVAT_ROOT = re.compile(rb"<annotations[\s>]")
_HEAD_BYTES = 4096
_MAX_WORDS = 16
_POSE_FRACTION = 0.9
_WORD = re.compile(r"[^\W\d_]+|\d+")


def _any_of(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(sorted(words, key=len, reverse=True))})"


_KINDS = _any_of(scan._IMAGE_WORDS | (scan._MASK_WORDS & scan._CONTAINERS))
_GLUED = re.compile(f"^({_any_of(SPLIT_WORDS)}){_KINDS}|{_KINDS}$")
"""Words of no meaning glued to others, such as DroneVehicle's `trainimgr` and `trainlabelr`."""


@dataclass(frozen=True)
class Labelled:
    """Labels of one image or pair.

    Attributes:
        labels: objects; corners in pixels of the image of `camera`, or in fractions of its size if `relative`.
        path, format: label file, and "COCO", "CVAT", "VOC" or "YOLO".
        camera: camera of the labelled image; None: unknown.
        split: split according to the file's path.
    """

    labels: ImageLabels
    path: Path
    format: str
    camera: str | None
    relative: bool = False
    split: str | None = None


class Labels:
    """All label files of a folder. JSON files and CVAT's XML are read at once, the others on demand.

    Attributes:
        notes: deviations in files of several images, see `data.labels.NOTES`.
    """

    def __init__(self, found: Scan) -> None:
        self.notes: Counter[str] = Counter()
        self._damaged: dict[str, None] = {}
        self._used: dict[Path, None] = {}
        self._shapes: dict[Path, Counter[tuple[int, bool]]] = {}
        self._remarks: list[str] = []
        self._skipped: dict[str, list[str]] = defaultdict(list)
        self._cases: dict[str, dict[object, str]] = {text: {} for text in _CASES}  # by item or file
        self._other_folders: dict[Path, str] = {}
        self._declared: dict[str, None] = {}
        self._listed: dict[str, list[tuple[_Table, CocoImage]]] = defaultdict(list)
        images = [*found.images, *found.unlisted]  # labels of the latter fit no other images
        names = {name for file in images for name in (file.name, file.stem, file.full_stem)}

        def of_one_image(ending: str) -> list[File]:
            return [file for file in found.labels[ending] if names & {file.name, file.stem, file.full_stem}]

        single_xml = of_one_image(".xml")
        known = set(single_xml)
        cvat = [file for file in found.labels[".xml"] if file not in known and _is_cvat(file.path)]
        tables = _Images(images, _Folders(images, [*found.labels[".json"], *cvat]))
        for file in found.labels[".json"]:
            self._read_table(file, tables, "COCO", self._coco)
        for file in cvat:
            self._read_table(file, tables, "CVAT", lambda file: read_cvat(file.path))
        self._voc = _Files(single_xml, images)
        self._yolo = _Files(of_one_image(".txt"), images)
        self._read: dict[Path, ImageLabels | None] = {}
        self._names: dict[str, tuple[YoloNames, str]] = {}
        self._bad_lists: list[str] = []
        self._name_files = [
            *found.labels[".yaml"],
            *found.labels[".names"],
            *(file for file in found.labels[".txt"] if file.path.stem.lower() in _NAME_LISTS),
        ]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names declared by the files read so far, in order."""
        return tuple(self._declared)

    @property
    def damaged(self) -> list[str]:
        """Error message of each unusable file."""
        shapes = {path: self._shapes[path] for path in self._used if self._shapes.get(path)}
        count = sum(shapes.values(), Counter[tuple[int, bool]]())
        lengths = {length for length, _ in count}
        # Polygons have any number of points, and those far from the image's centre make no box of their first values.
        if len(lengths) != 1 or sum(count[one] for one in count if one[1]) < _POSE_FRACTION * count.total():
            return list(self._damaged)
        message = (
            f"{next(iter(shapes))}: its lines of {lengths.pop()} values are either boxes with key points, then add "
            "kpt_shape (such as [17, 3]) to data.yaml; or polygons, then add 'kpt_shape: []'"
        )
        return [*self._damaged, message]

    @property
    def remarks(self) -> list[str]:
        """Skipped files and choices between several labels, as messages."""
        skipped = [f"{len(names)} {kind}, skipped, such as {names[0]}" for kind, names in self._skipped.items()]
        cases = [text.format(len(found), next(iter(found.values()))) for text, found in self._cases.items() if found]
        return [*self._remarks, *skipped, *cases]

    def find(self, images: dict[str, File]) -> Labelled | None:
        """Find the labels of an item with these images by camera; None: none, or the file is in `damaged`."""
        item = next(iter(images.values())).relative
        chosen: Labelled | None = None
        for read in (self._of_tables, self._of_voc, self._of_yolo):
            try:
                labelled = self._of_cameras(read, images)
            except LabelError as error:
                if chosen is None:
                    self._damaged[str(error)] = None
                return chosen
            if chosen is None:
                chosen = labelled
            elif labelled is not None and labelled.labels.objects:
                text = _ALSO if chosen.labels.objects else _HIDDEN
                other, used = ("/".join(one.path.parts[-2:]) for one in (labelled, chosen))
                self._cases[text][item] = f"{other} ({used} is used)"
                break
        if chosen is not None:
            if chosen.path in self._other_folders:
                self._cases[_OTHER_FOLDERS][chosen.path] = self._other_folders[chosen.path]
            self._used[chosen.path] = None
        else:
            files = self._voc, self._yolo
            unused = ((file, image) for image in images.values() for kind in files for file in kind.named(image))
            shown = next((row for row in unused if self._read.get(row[0].path, True) is not None), None)
            if shown is not None:
                self._cases[_ELSEWHERE][item] = f"{shown[0].relative} for {shown[1].relative}"
        return chosen

    def _of_cameras(self, read: Callable[[File], Labelled | None], images: dict[str, File]) -> Labelled | None:
        """Return the labels of the RGB image, or of the infrared image if only those hold objects."""
        rgb, infrared = (read(images[camera]) if camera in images else None for camera in (RGB, INFRARED))
        found = [one for one in (rgb, infrared) if one is not None]
        if not found:
            return None
        chosen, camera = found[0], RGB if rgb is not None else INFRARED
        split = _split_of(next(iter(images.values())), ((one.split, one.path) for one in found))
        if rgb is not None and infrared is not None:
            if rgb == replace(infrared, camera=rgb.camera):  # the same labels, on whichever image they were drawn
                return rgb
            if rgb.labels.objects and infrared.labels.objects:
                self._cases[_BOTH_CAMERAS][images[RGB].relative] = ""
            if infrared.labels.objects and not rgb.labels.objects:
                chosen, camera = infrared, INFRARED
        return replace(chosen, camera=chosen.camera or camera, split=split)

    def _coco(self, file: File) -> CocoFile:
        notes: Counter[str] = Counter()
        data: Any = read_json(file.path, notes)
        annotations = data.get("annotations") if isinstance(data, dict) else None
        if annotations is None:
            if isinstance(data, dict) and "items" in data and "categories" not in data:  # this project's own index
                raise OtherFormatError("")
            raise OtherFormatError("JSON files are not COCO annotations")
        if isinstance(annotations, list) and (annotations or "categories" not in data):
            keys = {"bbox", "segmentation"}
            if not any(isinstance(one, dict) and keys & one.keys() for one in annotations):
                raise OtherFormatError("JSON files hold no boxes of COCO (captions, panoptic masks, other formats)")
        return coco_of(file.path, data, notes)

    def _read_table(self, file: File, images: _Images, form: str, read: Callable[[File], CocoFile]) -> None:
        try:
            coco = read(file)
            entries, by_file_name = images.match(file, coco)
        except OtherFormatError as error:
            if str(error):
                self._skipped[str(error)].append(file.relative)
            return
        except LabelError as error:
            self._damaged[str(error)] = None
            return
        self._declared |= dict.fromkeys(coco.classes)
        self.notes += coco.notes
        if by_file_name:
            self._remarks.append(
                f"{file.relative}: names images in other folders than theirs; matched by file name only"
            )
        if other := [path for path in entries if not _fits(file, images.by_path[path])]:
            self._remarks.append(
                f"{file.relative}: lists {counted(len(other), 'image')}, such as {other[0]}, of another camera or "
                "split than its name shows; their paths decide"
            )
        for path, entry in entries.items():
            own = {*images.by_path[path].folders, *posix_name(entry.name).casefold().split("/")[:-1]}
            if file.folders and own.isdisjoint(file.folders) and images.by_path[path].folders:
                self._other_folders.setdefault(file.path, f"{file.relative} for {path}")
        matched = {id(entry) for entry in entries.values()}
        lost = [image.name for image in coco.images if id(image) not in matched]
        elsewhere = [name for name in lost if images.has(name)]
        others = "are in folders of another split, camera or recording than its path shows, and not labelled by it"
        missing = [name for name in lost if not images.has(name)]
        for names, why in ((elsewhere, others), (missing, "are missing")):
            if names:
                self._remarks.append(
                    f"{file.relative}: {len(names)} of the {len(coco.images)} images that it lists {why}, such as "
                    f"{names[0]}"
                )
        used = frozenset(canonical(one.name) for image in coco.images for one in image.labels.objects)
        for relative, entry in entries.items():
            self._listed[relative].append((_Table(file, form, used), entry))

    def _of_tables(self, image: File) -> Labelled | None:
        """Merge the objects of all tables that list the image, if their classes differ."""
        listed = self._listed.get(image.relative)
        if not listed:
            return None
        kept: list[tuple[_Table, CocoImage]] = []
        for table, entry in sorted(listed, key=lambda row: -len(row[1].labels.objects)):
            # Files that repeat a part of another's objects, such as COCO's person_keypoints, add nothing.
            if not any(_rounded(entry) <= _rounded(other) for _, other in kept):
                kept.append((table, entry))
        for (one, first), (other, second) in combinations(kept, 2):
            if one.classes & other.classes or len({first.size, second.size} - {None}) > 1:
                names = " and ".join(sorted(str(table.file.path) for table in (one, other)))
                raise LabelError(
                    f"{names} list the same images with different objects of the same classes, or with different "
                    "sizes: keep one of them"
                )
        objects = [one for _, entry in kept for one in entry.labels.objects]
        table = kept[0][0]
        split = _split_of(image, ((table.file.split, table.file.path) for table, _ in listed))
        size = next((entry.size for _, entry in kept if entry.size), None)
        labels = ImageLabels(objects, size=size)
        camera = image.camera if kept[0][1].name == image.relative else table.file.camera
        return Labelled(labels, table.file.path, table.format, camera, split=split)

    def _of_voc(self, image: File) -> Labelled | None:
        return self._of_file(image, self._voc, "VOC", lambda file: read_voc(file.path))

    def _of_yolo(self, image: File) -> Labelled | None:
        def read(file: File) -> ImageLabels:
            shapes = self._shapes[file.path] = Counter()
            return read_yolo(file.path, self._yolo_names(file), (1, 1), shapes)

        return self._of_file(image, self._yolo, "YOLO", read)

    def _of_file(self, image: File, kind: _Files, form: str, read: Callable[[File], ImageLabels]) -> Labelled | None:
        """Return the labels of the first file of the format; files of the same rank must not differ."""
        found: list[tuple[Any, File, ImageLabels]] = []
        files = kind.find(image)
        for rank, file in files:
            if found and rank != found[0][0]:
                break
            if file.path not in self._read:
                try:
                    self._read[file.path] = read(file)
                except OtherFormatError:
                    self._read[file.path] = None
                    self._skipped[f"XML files are not {form} labels"].append(file.relative)
            labels = self._read[file.path]
            if labels is not None:
                found.append((rank, file, labels))
        if not found:
            return None
        best, file, labels = found[0]
        if best == ():
            self._other_folders.setdefault(file.path, f"{file.relative} for {image.relative}")
        split = _split_of(image, ((file.split, file.path) for _, file in files))
        for _, other, others in found[1:]:
            if others.objects != labels.objects:
                raise LabelError(
                    f"{file.path} and {other.path} label the same image differently: keep one of them, or move them to "
                    "folders with the names of their images' folders"
                )
        return Labelled(labels, file.path, form, file.camera, form == "YOLO", split)

    def _yolo_names(self, file: File) -> YoloNames:
        if file.parent not in self._names:
            self._names[file.parent] = self._find_yolo_names(file)
            self._declared |= dict.fromkeys(self._names[file.parent][0].values())
        names, fault = self._names[file.parent]
        if not names:
            read_yolo(file.path, None, (1, 1))  # names would not help files of another format
            raise LabelError(fault)
        return names

    @cached_property
    def _name_lists(self) -> dict[File, YoloNames]:
        lists = {}
        for listed in self._name_files:
            try:
                names = lists[listed] = read_yolo_names(listed.path)
                if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
                    self._remarks.append(f"{listed.relative}: gives several classes the name {twice[0]}: one class")
            except LabelError as error:
                self._bad_lists.append(str(error))
                self._remarks.append(f"{listed.relative}: holds no names of classes, skipped ({error})")
        return lists

    def _find_yolo_names(self, file: File) -> tuple[YoloNames, str]:
        """Return the names for the labels of a file's folder, or why there are none.

        Tools write a list with an order of its own into each folder, so lists of other folders are the last resort.
        """
        above = {"", *(str(path) for path in PurePosixPath(file.relative).parents)}
        near = [listed for listed in self._name_lists if listed.parent in above]
        found = near or list(self._name_lists)
        lists = [self._name_lists[listed] for listed in found]
        if differing := [listed for listed, names in zip(found, lists, strict=True) if names != lists[0]]:
            return YoloNames(), (
                f"{found[0].relative} and {differing[0].relative} name the YOLO classes differently: beside "
                f"{file.relative}, or in a folder above it, put only the names with which it was written"
            )
        if not found:
            return YoloNames(), (
                f"YOLO labels, such as {file.relative}, need the names of their classes: put a data.yaml with "
                "'names: [..]', or a classes.txt with one name a line, into the folder"
                + "".join(f"; unusable: {fault}" for fault in self._bad_lists[:3])
            )
        if not near:
            self._remarks.append(
                f"{file.parent or 'root'}: no names of classes in this folder or above it; those of "
                f"{found[0].relative} are used"
            )
        return next((one for one in lists if one.key_points is not None), lists[0]), ""  # a YAML file may state them


@dataclass(frozen=True)
class _Table:
    """A label file of several images, and the classes of its objects."""

    file: File
    format: str
    classes: frozenset[str]


def _rounded(entry: CocoImage) -> set[tuple[Any, ...]]:
    return {(canonical(one.name), *(round(value, 1) for value in one.corners)) for one in entry.labels.objects}


def _split_of(image: File, stated: Iterable[tuple[str | None, Path]]) -> str | None:
    """Return the split of an image according to label files, given with their splits.

    Raises:
        LabelError: they disagree, and the image's own path shows no split.
    """
    files = {split: path for split, path in stated if split is not None}
    if len(files) > 1 and image.split is None:
        (split, path), (other_split, other) = list(files.items())[:2]
        raise LabelError(
            f"{path} and {other} list {image.relative} for {split} and for {other_split}: remove it from one of them"
        )
    return next(iter(files), None)


class _Folders:
    """Folders in a plain form, in which `seq1`, `seq_1` and `seq1_labels` are equal.

    Where images, or labels, of one camera have two folders of the same form, these are compared as they are.
    """

    def __init__(self, images: Iterable[File], labels: Iterable[File]) -> None:
        spelt: dict[tuple[bool, str | None, str], set[str]] = defaultdict(set)
        for is_label, files in enumerate((images, labels)):
            for camera, folders in {(file.camera, file.folders) for file in files}:
                for part in folders:
                    spelt[bool(is_label), camera, _form(part)].add(part)
        self._kept = {part for parts in spelt.values() if len(parts) > 1 for part in parts}
        self._plain: dict[tuple[str, ...], tuple[str, ...]] = {}

    def of(self, folders: tuple[str, ...]) -> tuple[str, ...]:
        if folders not in self._plain:
            plain = (part if part in self._kept else _form(part) for part in folders)
            self._plain[folders] = tuple(filter(None, plain))
        return self._plain[folders]


class _Location(NamedTuple):
    """Split, camera and plain folders of images."""

    split: str | None
    camera: str | None
    folders: tuple[str, ...]


class _Images:
    """Images by path, location and stem, among which label files of several images find theirs."""

    def __init__(self, images: list[File], folders: _Folders) -> None:
        self._folders = folders
        self.by_path = {image.relative: image for image in images}
        self._locations: dict[_Location, dict[str, list[File]]] = defaultdict(lambda: defaultdict(list))
        self._with_folder: dict[tuple[str, str], list[File]] = defaultdict(list)  # by stem and folder; "": any
        for image in images:
            location = _Location(image.split, image.camera, folders.of(image.folders))
            for stem in {plain_stem(posix_name(image.relative)).casefold(), image.stem}:
                self._locations[location][stem].append(image)
                for folder in {"", *location.folders}:
                    self._with_folder[stem, folder].append(image)
        self._with_part: dict[str, list[_Location]] = defaultdict(list)
        for one in self._locations:
            for part in set(one.folders):
                self._with_part[part].append(one)

    def match(self, file: File, coco: CocoFile) -> tuple[dict[str, CocoImage], bool]:
        """Return the entries of a label file by the images' paths, and whether only their file names match.

        A file in a folder, or with its name, applies to the images of that folder, and to others only if it names their
        folders. An image whose whole path is listed belongs to it whatever camera or split the file's name shows.

        Raises:
            LabelError: an entry fits several images equally.
        """
        names = coco.by_name()
        near = self._near(file)
        nearest = max(near.values(), default=(0, False))
        best = {location for location, rank in near.items() if rank == nearest}
        stems: dict[str, set[str]] = defaultdict(set)
        for name in names.entries:
            stems[name.rpartition("/")[0]].add(plain_stem(name).casefold())
        parts = {folder: _parts_of_paths([folder]) for folder in stems}
        known = {part for part in set().union(*parts.values()) if any(_fits(file, one) for one in self._having([part]))}
        listed = {
            (stem, part)
            for folder, own in stems.items()
            for part in parts[folder] & known or ([] if best else [""])
            for stem in own
        }
        wanted = set().union(*stems.values())
        candidates = [image for key in listed for image in self._with_folder.get(key, ()) if _fits(file, image)]
        for here in (self._locations[location] for location in best):
            candidates += [image for stem in here.keys() & wanted for image in here[stem]]
        candidates += [self.by_path[path] for path in self.by_path.keys() & names.entries.keys()]
        fitting = {image.relative: image for image in candidates}
        images = [fitting[path] for path in sorted(fitting)]

        def found(*ways: Callable[[File], str]) -> list[tuple[File, CocoImage]]:
            rows = ((image, (names.find(way(image)) for way in ways)) for image in images)
            return [(image, entry) for image, found in rows if (entry := next(filter(None, found), None)) is not None]

        # COCO may list 0001.jpg for 0001_rgb.jpg and 0001_ir.jpg.
        rows = found(lambda image: image.relative, lambda image: f"{image.parent}/{image.stem}{image.path.suffix}")
        by_name = [] if rows else found(lambda one: "/".join((*one.folders, one.path.name)), lambda one: one.path.name)
        return self._distinct(file, rows or by_name, near), bool(by_name)

    def has(self, name: str) -> bool:
        """Return whether a file name without folders is that of an image in any folder."""
        name = posix_name(name)
        return "/" not in name and (plain_stem(name).casefold(), "") in self._with_folder

    def _having(self, parts: Iterable[str]) -> set[_Location]:
        return {location for part in parts for location in self._with_part.get(part, ())}

    def _near(self, file: File) -> dict[_Location, tuple[int, bool]]:
        """Return the locations with folders in a label file's path: how many words, and if one is the whole name."""
        parts = re.split(r"[\W_]+", name_key(file.path.stem))[:_MAX_WORDS]
        words = [word for part in parts if (word := _form(part))]
        titles = {"_".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
        whole = {"_".join(words), name_key(file.path.stem)}
        own = {*self._folders.of(file.folders), *titles, *whole}
        return {
            location: (
                sum(len(_WORD.findall(part)) for part in location.folders if part in own),
                not whole.isdisjoint(location.folders),
            )
            for location in self._having(own)
            if _fits(file, location)
        }

    def _distinct(
        self, file: File, found: list[tuple[File, CocoImage]], near: dict[_Location, tuple[int, bool]]
    ) -> dict[str, CocoImage]:
        """Assign each entry to at most one image of each camera."""
        claims: dict[tuple[int, str | None], list[tuple[Any, File, CocoImage]]] = defaultdict(list)
        nearest = max(near.values(), default=(0, False))
        for image, entry in found:
            path = PurePosixPath(entry.name)
            folders = self._folders.of(image.folders)
            parts = _parts_of_paths([path.parent.as_posix()])
            listed = sum(part in parts for part in folders)
            words, is_whole = near.get(_Location(image.split, image.camera, folders), (0, False))
            is_other = image.relative != entry.name, image.path.name != path.name
            if (words, is_whole) < nearest and not listed and is_other[0]:
                continue
            rank = *is_other, -listed, -words, not is_whole, len(image.folders)
            claims[id(entry), image.camera].append((rank, image, entry))
        entries: dict[str, CocoImage] = {}
        for rows in claims.values():
            best = min(rank for rank, _, _ in rows)
            images = [image for rank, image, _ in rows if rank == best]
            if len(images) > 1:
                raise LabelError(
                    f"{file.path}: lists {rows[0][2].name!r} once, but {images[0].relative} and {images[1].relative} "
                    "both have that name: write the folder into its file_name, or put one file into each folder"
                )
            entries[images[0].relative] = rows[0][2]
        return entries


class _Files:
    """Label files of one image each, found by the image's name and folders."""

    def __init__(self, files: list[File], images: list[File]) -> None:
        # The container of all labels may have any name: annotated/seq1 and annotated/seq2 go with raw/seq1, raw/seq2.
        self._plain = _Folders(images, files).of
        distinct = {self._plain(file.folders) for file in files}
        parts = {part for image in images for part in self._plain(image.folders)}
        self._container = set.intersection(*map(set, distinct)) - parts if len(distinct) > 1 else set()
        self._files: dict[str, list[File]] = defaultdict(list)
        self._near_files: dict[tuple[str, tuple[str, ...]], list[File]] = defaultdict(list)
        for file in files:
            for stem in {file.full_stem, file.stem}:
                self._files[stem].append(file)
                self._near_files[stem, self._folders(file)].append(file)
        self._images: dict[str, list[File]] = defaultdict(list)
        self._near_images: dict[tuple[str, tuple[str, ...]], list[File]] = defaultdict(list)
        self._known = known = {self._folders(file) for file in files}
        self._placed: set[tuple[str, ...]] = set()
        for image in images:
            near = known & _parts_of(self._plain(image.folders))
            self._placed |= near
            for stem in {image.full_stem, image.stem} & self._files.keys():
                self._images[stem].append(image)
                for folders in near:
                    self._near_images[stem, folders].append(image)
        self._owners: dict[tuple[str, str, str | None], list[File]] = {}

    def _folders(self, file: File) -> tuple[str, ...]:
        return tuple(part for part in self._plain(file.folders) if part not in self._container)

    def named(self, image: File) -> Iterator[File]:
        """Yield the files with an image's name, split and camera in any folder."""
        stems = dict.fromkeys((image.full_stem, image.stem))
        return (file for stem in stems for file in self._files.get(stem, ()) if _fits(file, image))

    def find(self, image: File) -> list[tuple[Any, File]]:
        """Return the files of an image with their ranks, the best first.

        Raises:
            LabelError: a file fits several images equally.
        """
        for stem in dict.fromkeys((image.full_stem, image.stem)):
            near = [
                file
                for folders in sorted(self._known & _parts_of(self._plain(image.folders)))
                for file in self._near_files.get((stem, folders), ())
            ]
            found = []
            for file in near:
                if not _fits(file, image):
                    continue
                owners = self._owners_of(stem, file, image.camera)
                if image not in owners:
                    continue
                if len(owners) > 1:
                    raise LabelError(
                        f"{file.path} fits {owners[0].relative} and {owners[1].relative}: put it into a folder with "
                        "the name of its image's folder"
                    )
                # A file of this split and camera takes precedence over one whose path shows neither.
                found.append(((-len(self._folders(file)), (file.split is None) + (file.camera is None)), file))
            if found:
                return sorted(found, key=lambda row: row[0])
            if not near and (other := self._of_other_folder(stem, image)) is not None:
                return [((), other)]
        return []

    def _of_other_folder(self, stem: str, image: File) -> File | None:
        """Return the only file of that name, if neither it nor the image has a folder that relates it to others.

        Where the folders of other labels have the names of their images' folders, those of other names are not used.
        """
        folders = self._plain(image.folders)
        if self._known & _parts_of(folders) - {()} or (folders and self._placed - {()}):
            return None
        fitting = (file for file in self._files.get(stem, ()) if self._folders(file) not in self._placed)
        found = list(islice((file for file in fitting if _fits(file, image)), 2))
        if not found:
            return None
        others = (one for one in self._images[stem] if one.camera == image.camera and _fits(found[0], one))
        if len(list(islice(others, 2))) == 2:
            return None
        if len(found) == 2:
            raise LabelError(
                f"{found[0].relative} and {found[1].relative} both fit {image.relative}: keep one of them, or name "
                "their folders like those of their images, or rgb and thermal"
            )
        return found[0]

    def _owners_of(self, stem: str, file: File, camera: str | None) -> list[File]:
        """Return the images of a camera that are the closest to a file."""
        key = stem, file.relative, camera
        if key not in self._owners:
            images = self._near_images[stem, self._folders(file)]
            ranked = [
                ((image.full_stem != file.full_stem, len(self._plain(image.folders))), image)
                for image in images
                if image.camera == camera and _fits(file, image)
            ]
            best = min(rank for rank, _ in ranked)
            self._owners[key] = [image for rank, image in ranked if rank == best]
        return self._owners[key]


@lru_cache(1 << 16)
def _form(folder: str) -> str:
    return "_".join(filter(None, (_GLUED.sub(r"\1", word) for word in _WORD.findall(folder))))


def _parts_of_paths(folders: Iterable[str]) -> set[str]:
    """Return all folders of paths, as they are and in plain form."""
    parts = {name_key(part) for path in folders for part in path.split("/")}
    return parts | {_form(part) for part in parts}


@lru_cache(1 << 16)
def _parts_of(folders: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    """Return every selection of the folders, in their order: few, as the depth of folders is limited."""
    return frozenset(part for count in range(len(folders) + 1) for part in combinations(folders, count))


def _fits(file: File, image: File | _Location) -> bool:
    return (image.split is None or file.split in (None, image.split)) and file.camera in (None, image.camera)


def _is_cvat(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _CVAT_ROOT.search(file.read(_HEAD_BYTES)) is not None
    except OSError:
        return False
