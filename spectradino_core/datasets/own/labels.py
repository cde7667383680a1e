"""Labels of the images in a user's folder: COCO, VOC and YOLO, also mixed.

A label file applies to the images of the split and camera that its path shows; otherwise to any.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectradino_core.data.labels import ImageLabels, LabelError
from spectradino_core.data.labels.coco import CocoImage, coco_of
from spectradino_core.data.labels.files import ImageNames, read_json
from spectradino_core.data.labels.voc import read_voc
from spectradino_core.data.labels.yolo import read_yolo, read_yolo_names
from spectradino_core.datasets.own.scan import INFRARED, RGB, File, Scan

_NAME_LISTS = ("classes", "obj", "names", "labels", "predefined_classes")


@dataclass(frozen=True)
class Labelled:
    """Labels of one image or pair.

    Attributes:
        labels: objects; corners in pixels of the image of `camera`, or in fractions of its size if `relative`.
        path, format: label file, and "COCO", "VOC" or "YOLO".
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
    """All label files of a folder. JSON files are read at once, XML and text files on demand.

    Attributes:
        notes: deviations in files of several images, see `data.labels.NOTES`.
        damaged: error message of each unusable file.
        remarks: skipped files, as messages.
    """

    def __init__(self, found: Scan) -> None:
        self.notes: Counter[str] = Counter()
        self.damaged: list[str] = []
        self.remarks: list[str] = []
        self._declared: dict[str, None] = {}
        self._coco: list[_Coco] = []
        for file in found.labels[".json"]:
            self._read_coco(file, [*found.images, *found.unlisted])
        self._voc = _Files(found.labels[".xml"])
        names = {name for file in found.images for name in (file.name, file.stem, file.full_stem)}
        texts = [file for file in found.labels[".txt"] if names & {file.name, file.stem, file.full_stem}]
        self._yolo = _Files(texts)
        self._names: dict[int, str] | None = None
        self._no_names = ""
        self._name_files = [
            *found.labels[".yaml"],
            *found.labels[".names"],
            *(file for file in found.labels[".txt"] if file.path.stem.lower() in _NAME_LISTS),
        ]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names declared by the files read so far, in order."""
        return tuple(self._declared)

    def find(self, split: str | None, images: dict[str, File]) -> Labelled | None:
        """Find the labels of an item with these images by camera; None: none, or the file is in `damaged`."""
        for read in (self._of_coco, self._of_voc, self._of_yolo):
            try:
                labelled = read(split, images)
            except LabelError as error:
                if str(error) not in self.damaged:
                    self.damaged.append(str(error))
                return None
            if labelled is not None:
                return labelled
        return None

    def _read_coco(self, file: File, images: list[File]) -> None:
        notes: Counter[str] = Counter()
        try:
            data: Any = read_json(file.path, notes)
            if not isinstance(data, dict) or "annotations" not in data:
                if not (isinstance(data, dict) and "items" in data):  # this project's own index
                    self.remarks.append(f"{file.relative}: not COCO annotations, skipped")
                return
            coco = coco_of(file.path, data, notes)
            table = _Coco(file, coco.by_name())
        except LabelError as error:
            self.damaged.append(str(error))
            return
        self._declared |= dict.fromkeys(coco.classes)
        self.notes += coco.notes
        matched = table.matched(images)
        if not matched and coco.images:
            table.by_file_name = True
            matched = table.matched(images)
            if matched:
                self.remarks.append(
                    f"{file.relative}: names images in other folders than theirs; matched by file name only"
                )
        lost = [image.name for image in coco.images if id(image) not in matched]
        if lost:
            self.remarks.append(
                f"{file.relative}: {len(lost)} of the {len(coco.images)} images that it lists are missing, such as "
                f"{lost[0]}"
            )
        self._coco.append(table)

    def _of_coco(self, split: str | None, images: dict[str, File]) -> Labelled | None:
        for camera in (RGB, INFRARED):  # labels of RGB images take precedence
            image = images.get(camera)
            for table in self._coco:
                if image is None:
                    break
                if _fits(table.file, split, camera) and (found := table.find(image)) is not None:
                    names_camera = ("/" in found.name and not table.by_file_name) or image.is_suffixed
                    drawn_on = table.file.camera or (camera if names_camera else None)
                    return Labelled(found.labels, table.file.path, "COCO", drawn_on, split=table.file.split)
        return None

    def _of_voc(self, split: str | None, images: dict[str, File]) -> Labelled | None:
        file = self._voc.find(split, images.values())
        return None if file is None else Labelled(read_voc(file.path), file.path, "VOC", file.camera, split=file.split)

    def _of_yolo(self, split: str | None, images: dict[str, File]) -> Labelled | None:
        file = self._yolo.find(split, images.values())
        if file is None:
            return None
        labels = read_yolo(file.path, self._yolo_names(file), (1, 1))
        return Labelled(labels, file.path, "YOLO", file.camera, True, file.split)

    def _yolo_names(self, file: File) -> dict[int, str]:
        if self._names is None:
            self._names, self._no_names = self._find_yolo_names(file)
            self._declared |= dict.fromkeys(self._names.values())
        if not self._names:
            raise LabelError(self._no_names)
        return self._names

    def _find_yolo_names(self, file: File) -> tuple[dict[int, str], str]:
        """Return the names, or why there are none; `file` is an example of the labels."""
        found: list[tuple[File, dict[int, str]]] = []
        for listed in self._name_files:
            try:
                found.append((listed, read_yolo_names(listed.path)))
            except LabelError:
                self.remarks.append(f"{listed.relative}: holds no names of classes, skipped")
        for listed, names in found:
            if names != found[0][1]:
                first = found[0][0].relative
                return {}, f"{first} and {listed.relative} name the YOLO classes differently: keep one of them"
        if found:
            return found[0][1], ""
        return {}, (
            f"YOLO labels, such as {file.relative}, need the names of their classes: put a data.yaml with "
            "'names: [..]', or a classes.txt with one name a line, into the folder"
        )


@dataclass
class _Coco:
    """A COCO file; `by_file_name`: its images are matched by file name only."""

    file: File
    names: ImageNames[CocoImage]
    by_file_name: bool = False

    def find(self, image: File) -> CocoImage | None:
        return self.names.find(image.path.name if self.by_file_name else image.relative)

    def matched(self, images: Iterable[File]) -> set[int]:
        """Return the `id()` of each of its images that exists."""
        fitting = (image for image in images if _fits(self.file, image.split, image.camera))
        return {id(found) for image in fitting if (found := self.find(image)) is not None}


class _Files:
    """Label files of one image each, found by the image's name."""

    def __init__(self, files: list[File]) -> None:
        self._by_name: dict[str, list[File]] = defaultdict(list)
        self._by_stem: dict[str, list[File]] = defaultdict(list)
        for file in files:
            self._by_name[file.name].append(file)
            self._by_stem[file.full_stem].append(file)
            if file.stem != file.full_stem:
                self._by_stem[file.stem].append(file)

    def find(self, split: str | None, images: Iterable[File]) -> File | None:
        for image in images:
            camera = image.camera
            for table, key in (
                (self._by_name, image.name),
                (self._by_stem, image.full_stem),
                (self._by_stem, image.stem),
            ):
                fitting = [file for file in table.get(key, ()) if _fits(file, split, camera)]
                # A file of this split and camera takes precedence over one whose path shows neither.
                fitting.sort(key=lambda file: (file.split is None) + (file.camera is None))
                if fitting:
                    return fitting[0]
        return None


def _fits(file: File, split: str | None, camera: str | None) -> bool:
    return (split is None or file.split in (None, split)) and file.camera in (None, camera)
