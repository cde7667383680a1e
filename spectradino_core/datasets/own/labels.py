"""Labels of the images in a user's folder: COCO, CVAT XML, VOC and YOLO, also mixed.

A label file applies to the images of the split and camera that its path shows; otherwise to any. Its other folders
relate it to images as well: `labels/seq1/0001.txt` is not for `rgb/seq2/0001.jpg`. Where several images fit equally,
the labels are refused instead of used for the wrong image.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, islice, takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from spectradino_core.data.labels import ImageLabels, LabelError
from spectradino_core.data.labels.coco import CocoFile, CocoImage, coco_of
from spectradino_core.data.labels.cvat import read_cvat
from spectradino_core.data.labels.files import read_json
from spectradino_core.data.labels.objects import OtherFormatError, canonical
from spectradino_core.data.labels.voc import read_voc
from spectradino_core.data.labels.yolo import YoloNames, read_yolo, read_yolo_names
from spectradino_core.datasets.own.scan import INFRARED, RGB, File, Scan

_NAME_LISTS = ("classes", "obj", "names", "labels", "predefined_classes")
_CVAT_ROOT = re.compile(rb"<annotations[\s>]")
_HEAD_BYTES = 4096
_MAX_WORDS = 16
_POSE_FRACTION = 0.9
_GLUED = re.compile(r"train|valid|val|test|images?|imgs?|labels?|annotations?|anns?|[\W_]+")


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
        self._damaged: list[str] = []
        self._shapes: Counter[tuple[int, bool]] = Counter()
        self._long_lines = ""
        self._remarks: list[str] = []
        self._skipped: dict[str, list[str]] = defaultdict(list)
        self._both_cameras = 0
        self._hidden: list[str] = []
        self._elsewhere: list[str] = []
        self._declared: dict[str, None] = {}
        self._tables: list[_Table] = []
        images = [*found.images, *found.unlisted]  # labels of the latter fit no other images
        names = {name for file in images for name in (file.name, file.stem, file.full_stem)}

        def of_one_image(ending: str) -> list[File]:
            return [file for file in found.labels[ending] if names & {file.name, file.stem, file.full_stem}]

        single_xml = of_one_image(".xml")
        known = set(single_xml)
        for file in found.labels[".json"]:
            self._read_table(file, images, "COCO", self._coco)
        for file in found.labels[".xml"]:
            if file not in known and _is_cvat(file.path):
                self._read_table(file, images, "CVAT", self._cvat)
        self._voc = _Files(single_xml, images)
        self._yolo = _Files(of_one_image(".txt"), images)
        self._read: dict[Path, ImageLabels | None] = {}
        self._names: dict[str, tuple[YoloNames, str]] = {}
        self._name_lists: dict[File, YoloNames] | None = None
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
        likely = sum(count for (_, may_be_pose), count in self._shapes.items() if may_be_pose)
        # Polygons have any number of points, and those far from the image's centre make no box of their first values.
        if len({length for length, _ in self._shapes}) != 1 or likely < _POSE_FRACTION * self._shapes.total():
            return self._damaged
        length = next(iter(self._shapes))[0]
        message = (
            f"{self._long_lines}: its lines of {length} values are either boxes with key points, then add kpt_shape "
            "(such as [17, 3]) to data.yaml; or polygons, then add 'kpt_shape: []'"
        )
        return [*self._damaged, message]

    @property
    def remarks(self) -> list[str]:
        """Skipped files and choices between several labels, as messages."""
        skipped = [f"{len(names)} {kind}, skipped, such as {names[0]}" for kind, names in self._skipped.items()]
        found = [*self._remarks, *skipped]
        if self._both_cameras:
            found.append(f"{self._both_cameras} pairs are labelled on both cameras; those of RGB are used")
        if self._hidden:
            found.append(
                f"{len(self._hidden)} images have no object in the labels that are used, but some in others, such as "
                f"{self._hidden[0]}: remove the file that is out of date"
            )
        if self._elsewhere:
            found.append(
                f"{len(self._elsewhere)} unlabelled images have label files of their name in other folders only, "
                f"such as {self._elsewhere[0]}: if they are theirs, name the folders of labels like those of the images"
            )
        return found

    def find(self, images: dict[str, File]) -> Labelled | None:
        """Find the labels of an item with these images by camera; None: none, or the file is in `damaged`."""
        chosen: Labelled | None = None
        for read in (self._of_tables, self._of_voc, self._of_yolo):
            try:
                labelled = self._of_cameras(read, images)
            except LabelError as error:
                if chosen is None and str(error) not in self._damaged:
                    self._damaged.append(str(error))
                return chosen
            if chosen is not None and labelled is not None and labelled.labels.objects:
                self._hidden.append(f"{labelled.path.name} ({chosen.path.name} is used)")
                return chosen
            chosen = chosen or labelled
            if chosen is not None and chosen.labels.objects:
                return chosen
        if chosen is None:
            files = self._voc, self._yolo
            unused = ((file, image) for image in images.values() for kind in files for file in kind.named(image))
            shown = next((row for row in unused if self._read.get(row[0].path, True) is not None), None)
            if shown is not None:
                self._elsewhere.append(f"{shown[0].relative} for {shown[1].relative}")
        return chosen

    def _of_cameras(self, read: Callable[[File], Labelled | None], images: dict[str, File]) -> Labelled | None:
        """Return the labels of the RGB image, or of the infrared image if only those hold objects."""
        rgb, infrared = (read(images[camera]) if camera in images else None for camera in (RGB, INFRARED))
        if rgb is not None and infrared is not None:
            if rgb == infrared:  # the same labels, on whichever image they were drawn
                return rgb
            self._both_cameras += bool(rgb.labels.objects and infrared.labels.objects)
        if infrared is not None and (rgb is None or (infrared.labels.objects and not rgb.labels.objects)):
            return replace(infrared, camera=infrared.camera or INFRARED)
        return None if rgb is None else replace(rgb, camera=rgb.camera or RGB)

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
                raise OtherFormatError("COCO files hold no boxes (captions, panoptic masks)")
        return coco_of(file.path, data, notes)

    def _cvat(self, file: File) -> CocoFile:
        try:
            return read_cvat(file.path)
        except OtherFormatError:
            raise OtherFormatError("XML files are not 'CVAT for images'") from None

    def _read_table(self, file: File, images: list[File], form: str, read: Callable[[File], CocoFile]) -> None:
        try:
            coco = read(file)
            names = coco.by_name()
            fitting = [image for image in images if _fits(file, image)]
            found = [(image, entry) for image in fitting if (entry := names.find(image.relative)) is not None]
            by_file_name = not found
            if by_file_name:
                for image in fitting:
                    name = image.path.name
                    entry = names.find("/".join((*image.folders, name))) or names.find(name)
                    found += [] if entry is None else [(image, entry)]
            entries = _distinct(file, found)
        except OtherFormatError as error:
            if str(error):
                self._skipped[str(error)].append(file.relative)
            return
        except LabelError as error:
            self._damaged.append(str(error))
            return
        self._declared |= dict.fromkeys(coco.classes)
        self.notes += coco.notes
        if found and by_file_name:
            self._remarks.append(
                f"{file.relative}: names images in other folders than theirs; matched by file name only"
            )
        matched = {id(entry) for entry in entries.values()}
        lost = [image.name for image in coco.images if id(image) not in matched]
        if lost:
            self._remarks.append(
                f"{file.relative}: {len(lost)} of the {len(coco.images)} images that it lists are missing, such as "
                f"{lost[0]}"
            )
        used = frozenset(canonical(one.name) for image in coco.images for one in image.labels.objects)
        self._tables.append(_Table(file, form, entries, used))

    def _of_tables(self, image: File) -> Labelled | None:
        """Merge the objects of all tables that list the image, if their classes differ."""
        listed = [(table, table.entries[image.relative]) for table in self._tables if image.relative in table.entries]
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
        split = next((table.file.split for table, _ in listed if table.file.split), None)
        size = next((entry.size for _, entry in kept if entry.size), None)
        labels = ImageLabels(objects, size=size)
        return Labelled(labels, table.file.path, table.format, table.file.camera, split=split)

    def _of_voc(self, image: File) -> Labelled | None:
        return self._of_file(self._voc.find(image), "VOC", lambda file: read_voc(file.path))

    def _of_yolo(self, image: File) -> Labelled | None:
        def read(file: File) -> ImageLabels:
            shapes: Counter[tuple[int, bool]] = Counter()
            labels = read_yolo(file.path, self._yolo_names(file), (1, 1), shapes)
            if shapes and not self._shapes:
                self._long_lines = str(file.path)
            self._shapes += shapes
            return labels

        return self._of_file(self._yolo.find(image), "YOLO", read)

    def _of_file(
        self, files: list[tuple[Any, File]], form: str, read: Callable[[File], ImageLabels]
    ) -> Labelled | None:
        """Return the labels of the first file of the format; files of the same rank must not differ."""
        found: list[tuple[Any, File, ImageLabels]] = []
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
        _, file, labels = found[0]
        for _, other, others in found[1:]:
            if others.objects != labels.objects:
                raise LabelError(
                    f"{file.path} and {other.path} label the same image differently: keep one of them, or move them to "
                    "folders with the names of their images' folders"
                )
        return Labelled(labels, file.path, form, file.camera, form == "YOLO", file.split)

    def _yolo_names(self, file: File) -> YoloNames:
        if file.parent not in self._names:
            self._names[file.parent] = self._find_yolo_names(file)
            self._declared |= dict.fromkeys(self._names[file.parent][0].values())
        names, fault = self._names[file.parent]
        if not names:
            read_yolo(file.path, None, (1, 1))  # names would not help files of another format
            raise LabelError(fault)
        return names

    def _find_yolo_names(self, file: File) -> tuple[YoloNames, str]:
        """Return the names for the labels of a file's folder, or why there are none.

        Tools write a list with an order of its own into each folder, so lists of other folders are the last resort.
        """
        if self._name_lists is None:
            self._name_lists = {}
            for listed in self._name_files:
                try:
                    names = self._name_lists[listed] = read_yolo_names(listed.path)
                    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
                        self._remarks.append(f"{listed.relative}: gives several classes the name {twice[0]}: one class")
                except LabelError as error:
                    self._bad_lists.append(str(error))
                    self._remarks.append(f"{listed.relative}: holds no names of classes, skipped ({error})")
        above = {file.parent, *(str(path) for path in PurePosixPath(file.parent).parents)} | {""}
        near = [listed for listed in self._name_lists if listed.parent in above]
        found = near or list(self._name_lists)
        for listed in found:
            if self._name_lists[listed] != self._name_lists[found[0]]:
                return YoloNames(), (
                    f"{found[0].relative} and {listed.relative} name the YOLO classes differently: beside "
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
        lists = [self._name_lists[listed] for listed in found]
        return next((one for one in lists if one.key_points is not None), lists[0]), ""  # a YAML file may state them


@dataclass(frozen=True)
class _Table:
    """A label file of several images: their entries by the images' relative paths, and the classes of its objects."""

    file: File
    format: str
    entries: dict[str, CocoImage]
    classes: frozenset[str]


def _rounded(entry: CocoImage) -> set[tuple[Any, ...]]:
    return {(canonical(one.name), *(round(value, 1) for value in one.corners)) for one in entry.labels.objects}


def _distinct(file: File, found: list[tuple[File, CocoImage]]) -> dict[str, CocoImage]:
    """Assign each entry of a label file to at most one image of each camera.

    A file in a folder, or with its name, applies to the images of that folder first.

    Raises:
        LabelError: an entry fits several images equally.
    """
    words = [word for word in re.split(r"[\W_]+", file.path.stem.casefold())[:_MAX_WORDS] if word]
    titles = {"".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
    own = {*_plain(file.folders), *titles}  # annotations/seq_1.json
    near = {image.relative: sum(part in own for part in _plain(image.folders)) for image, _ in found}
    nearest = max(near.values(), default=0)
    claims: dict[tuple[int, str | None], list[tuple[Any, File, CocoImage]]] = defaultdict(list)
    for image, entry in found:
        path = PurePosixPath(entry.name)
        parts = _plain(tuple(path.parent.as_posix().casefold().split("/")))
        listed = sum(part in parts for part in _plain(image.folders))
        if near[image.relative] < nearest and not listed:
            continue
        is_other = image.relative != entry.name, image.path.name != path.name
        rank = *is_other, -listed, -near[image.relative], len(image.folders)
        claims[id(entry), image.camera].append((rank, image, entry))
    entries: dict[str, CocoImage] = {}
    for rows in claims.values():
        best = min(rank for rank, _, _ in rows)
        images = [image for rank, image, _ in rows if rank == best]
        if len(images) > 1:
            raise LabelError(
                f"{file.path}: lists {rows[0][2].name!r} once, but {images[0].relative} and {images[1].relative} both "
                "have that name: write the folder into its file_name, or put one file into each folder"
            )
        entries[images[0].relative] = rows[0][2]
    return entries


class _Files:
    """Label files of one image each, found by the image's name and folders."""

    def __init__(self, files: list[File], images: list[File]) -> None:
        # The container of all labels may have any name: annotated/seq1 and annotated/seq2 go with raw/seq1, raw/seq2.
        distinct = {_plain(file.folders) for file in files}
        parts = {part for image in images for part in _plain(image.folders)}
        levels = zip(*distinct, strict=False)
        common = takewhile(lambda level: len({*level}) == 1 and level[0] not in parts, levels)
        self._container = len([*common]) if len(distinct) > 1 else 0
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
            near = known & _parts_of(_plain(image.folders))
            self._placed |= near
            for stem in {image.full_stem, image.stem} & self._files.keys():
                self._images[stem].append(image)
                for folders in near:
                    self._near_images[stem, folders].append(image)
        self._owners: dict[tuple[str, str, str | None], list[File]] = {}

    def _folders(self, file: File) -> tuple[str, ...]:
        return _plain(file.folders)[self._container :]

    def named(self, image: File) -> Iterator[File]:
        """Yield the files with an image's name, split and camera in any folder."""
        stems = {image.full_stem, image.stem}
        return (file for stem in stems for file in self._files.get(stem, ()) if _fits(file, image))

    def find(self, image: File) -> list[tuple[Any, File]]:
        """Return the files of an image with their ranks, the best first.

        Raises:
            LabelError: a file fits several images equally.
        """
        for stem in dict.fromkeys((image.full_stem, image.stem)):
            near = [
                file
                for folders in _parts_of(_plain(image.folders))
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
        """Return the only file of that name, if neither it nor the image has a folder that relates it to others."""
        if self._known & _parts_of(_plain(image.folders)) - {()}:
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
                ((image.full_stem != file.full_stem, len(_plain(image.folders))), image)
                for image in images
                if image.camera == camera and _fits(file, image)
            ]
            best = min(rank for rank, _ in ranked)
            self._owners[key] = [image for rank, image in ranked if rank == best]
        return self._owners[key]


def _plain(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Return folders without separators and words glued to others: `trainimg`, `trainlabel`; `seq1`, `seq_1`."""
    return tuple(plain for part in folders if (plain := _GLUED.sub("", part)))


def _parts_of(folders: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Return every selection of the folders, in their order: few, as the depth of folders is limited."""
    return {part for count in range(len(folders) + 1) for part in combinations(folders, count)}


def _fits(file: File, image: File) -> bool:
    return (image.split is None or file.split in (None, image.split)) and file.camera in (None, image.camera)


def _is_cvat(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _CVAT_ROOT.search(file.read(_HEAD_BYTES)) is not None
    except OSError:
        return False
