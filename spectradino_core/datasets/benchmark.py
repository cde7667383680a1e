"""Published data sets: description, class tables and scoring rules (`Benchmark`), and one split (`LabelledPairs`).

Labels index the class tables of the benchmark, not those of a model. Torch-free.

Letters: h x w a pair's pixel grid.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spectradino_core.data.images import IMAGE_ENDINGS, read_colour, read_counts
from spectradino_core.data.labels import Boxes, ImageLabels, LabelError, boxes_of, describe_notes
from spectradino_core.data.labels.files import is_roboflow
from spectradino_core.data.labels.masks import mask_of
from spectradino_core.data.labels.objects import LOSSES
from spectradino_core.data.labels.voc import read_voc
from spectradino_core.data.prefetch import prefetched
from spectradino_core.data.sample import PairedSample
from spectradino_core.datasets.files import BenchmarkError, by_stem, on_grid
from spectradino_core.files import errors_as
from spectradino_core.modality import Modality

log = logging.getLogger(__name__)

MAX_MISSING = 0.01
"""Maximum fraction of incomplete pairs in a split: published archives miss a file or two, truncated ones many."""

DAY, NIGHT = "day", "night"

NIGHT_BELOW = 140.0
"""Mean luminance of an RGB image by night, 0 .. 255. Of RoadScene's 14 labelled nights this finds 11, and it takes no
day for one: automatic exposure lifts dark streets to 70 .. 175. A darker camera needs another threshold."""


def time_of(rgb: np.ndarray) -> str:
    """Classify an RGB image uint8 [h, w, 3] as DAY or NIGHT by its luminance (Rec. 601)."""
    return NIGHT if float(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY).mean()) < NIGHT_BELOW else DAY


@dataclass(frozen=True)
class LabelledItem:
    """File paths of one pair, read by `LabelledPairs.load`.

    Attributes:
        name: unique within the split.
        rgb, infrared: files of the images; may be the same file (MFNet stores both in one).
        boxes, mask: files of the labels, or None.
        subsets: subsets according to the data set, such as "day" or "night".
        seed: seed of a rendered scene, which has no files.
        present: whether there is an RGB and an infrared image; the path of an absent one is meaningless.
    """

    name: str
    rgb: Path = Path()
    infrared: Path = Path()
    boxes: Path | None = None
    mask: Path | None = None
    subsets: tuple[str, ...] = ()
    seed: int | None = None
    present: tuple[bool, bool] = (True, True)

    @property
    def files(self) -> tuple[Path, ...]:
        """The item's files without repetition."""
        images = [path for path, there in zip((self.rgb, self.infrared), self.present, strict=True) if there]
        paths = () if self.seed is not None else (*images, self.boxes, self.mask)
        return tuple(dict.fromkeys(path for path in paths if path is not None))


def _images(item: LabelledItem) -> tuple[np.ndarray, np.ndarray]:
    rgb = read_colour(item.rgb)
    return rgb, on_grid(read_counts(item.infrared), rgb.shape, item.infrared)


def _voc_objects(item: LabelledItem) -> ImageLabels:
    assert item.boxes is not None
    return read_voc(item.boxes)


def _mask(table: Mapping[int, int], item: LabelledItem, notes: Counter[str]) -> np.ndarray:
    assert item.mask is not None
    return mask_of(item.mask, table, notes)


@dataclass
class Found:
    """Complete pairs that a reader found for one split, and functions that read them.

    Attributes:
        missing: first missing file of each incomplete pair, relative to the root.
        images: reads RGB uint8 [h, w, 3] and infrared uint8 or uint16 [h, w].
        objects: reads the objects, None if the item is not labelled; None: the data set has no boxes.
        mask: reads the class mask uint8 [h, w], 255 where unlabelled, and counts tolerated deviations; None: the data
            set has no masks.
        sample: reads a complete sample; replaces `images`, `objects` and `mask`.
        notes: deviations in the label files read so far, see `data.labels.NOTES`.
        remarks: further information for the user.
        difficult_counts: score VOC's difficult objects; otherwise they are ignored.
    """

    items: list[LabelledItem]
    missing: list[str] = field(default_factory=list)
    images: Callable[[LabelledItem], tuple[np.ndarray, np.ndarray]] = _images
    objects: Callable[[LabelledItem], ImageLabels | None] | None = None
    mask: Callable[[LabelledItem, Counter[str]], np.ndarray] | None = None
    sample: Callable[[LabelledItem], PairedSample] | None = None
    notes: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    difficult_counts: bool = True

    @classmethod
    def matched(
        cls,
        root: Path,
        folders: Mapping[str, str],
        names: Sequence[str] | None = None,
        stems: Mapping[str, str] | None = None,
        subsets: Callable[[str], tuple[str, ...]] = lambda name: (),
        table: Mapping[int, int] | None = None,
        **readers: Any,
    ) -> Found:
        """Find the files of each item in folders of one kind of file each.

        Args:
            root: folder of the data set.
            folders: folders below it by role: "rgb", "infrared", "boxes" (VOC XML), "mask" (PNG), or another one whose
                files only have to exist.
            names: names of the items; None: those of all images and masks.
            stems: stem of an item's file by role, with "{}" in place of the item's name; None: the name.
            subsets: subsets of an item by its name.
            table: class by stored mask value, 255: ignored; of sets with masks.
            readers: other attributes.
        """
        endings = {"boxes": (".xml",), "mask": (".png",)}
        files = {role: by_stem(root / folder, endings.get(role, IMAGE_ENDINGS)) for role, folder in folders.items()}
        if names is None:
            names = sorted(set().union(*(found for role, found in files.items() if role != "boxes")))
        complete: list[LabelledItem] = []
        missing: list[str] = []
        for name in names:
            wanted = {role: stems[role].format(name) if stems is not None else name for role in folders}
            lacking = [f"{folders[role]}/{stem}" for role, stem in wanted.items() if stem not in files[role]]
            if lacking:
                missing.append(lacking[0])
                continue
            paths = {role: files[role][stem] for role, stem in wanted.items()}
            labels = paths.get("boxes"), paths.get("mask")
            complete.append(LabelledItem(name, paths["rgb"], paths["infrared"], *labels, subsets(name)))
        if "boxes" in folders:
            readers.setdefault("objects", _voc_objects)
        if table is not None:
            readers.setdefault("mask", partial(_mask, table))
        return cls(complete, missing, **readers)


@dataclass(frozen=True)
class Benchmark:
    """A data set as published.

    Attributes:
        name, title: name on the command line and in papers.
        infrared: band of the infrared images.
        box_classes, mask_classes: names that box labels and mask values index; empty: there are none.
        palette: RGB of each mask class.
        splits: official splits and their numbers of pairs; None: unknown.
        train_split, report_split: splits that published figures are trained and reported on.
        find: finds the pairs for (root, split); picklable, so that other processes can open the benchmark.
        layout: expected files and folders.
        source: download location and form.
        licence: its terms in a phrase.
        ignore: pixels and boxes that are not scored, and how background is scored.
        notes: known traps, one per entry.
        time_rule: source of the subsets "day" and "night": "stated" by the data set, "luminance" (see `time_of`) or
            None.
        stated_subsets: subsets that the data set states.
        assumed: parts of this description that are not published and therefore assumed; empty: none.
        needs_root: False for rendered scenes.
    """

    name: str
    title: str
    infrared: Modality
    splits: Mapping[str, int | None]
    find: Callable[[Path, str], Found] = field(repr=False)
    layout: str
    source: str
    licence: str
    ignore: str
    train_split: str = "train"
    report_split: str = "test"
    box_classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    notes: tuple[str, ...] = ()
    time_rule: str | None = None
    stated_subsets: tuple[str, ...] = ()
    assumed: str = ""
    needs_root: bool = True

    @property
    def tasks(self) -> tuple[str, ...]:
        """Labelled tasks: "detection", "segmentation" or both."""
        return (*(("detection",) if self.box_classes else ()), *(("segmentation",) if self.mask_classes else ()))

    @property
    def subsets(self) -> tuple[str, ...]:
        """Subsets that its splits may have."""
        return tuple(dict.fromkeys((*self.stated_subsets, *((DAY, NIGHT) if self.time_rule else ()))))

    def open(self, root: str | Path | None, split: str, allow_missing: bool = False) -> LabelledPairs:
        """Open one split.

        Args:
            root: folder of the extracted data set, or its parent; None: rendered scenes.
            split: key of `splits`.
            allow_missing: accept any number of incomplete pairs.

        Raises:
            BenchmarkError: unknown split, or the root does not hold this data set or only part of it.
        """
        if split not in self.splits:
            raise BenchmarkError(f"{self.name} has no split {split!r}: choose one of {', '.join(self.splits)}")
        if root is None and self.needs_root:
            raise BenchmarkError(f"{self.name} needs --data, the folder it was extracted to. {self.advice}")
        folder = Path() if root is None else Path(root)
        try:
            found = self.find(folder, split)
        except LabelError as error:
            raise BenchmarkError(f"{error}. {self.advice}") from None
        found.notes["renamed"] += sum(
            any(is_roboflow(path.name) for path in item.files) and not is_roboflow(item.name) for item in found.items
        )
        if not found.items:
            lacking = f": {found.missing[0]} and {len(found.missing) - 1} more are missing" if found.missing else ""
            raise BenchmarkError(f"{root}: no complete pair of {self.name} {split}{lacking}. {self.advice}")
        if found.missing and not allow_missing:
            missing, total = len(found.missing), len(found.items) + len(found.missing)
            message = f"{missing} of {total} pairs of {self.name} {split} lack a file, such as {found.missing[0]}"
            if missing > MAX_MISSING * total:
                raise BenchmarkError(f"{root}: {message}; it seems only partly extracted. {self.advice}")
            log.warning("%s; they are skipped", message)
        return LabelledPairs(self, folder, split, found)

    @property
    def advice(self) -> str:
        """Expected layout and download location, for error messages."""
        return f"Looked for: {self.layout}. Get it: {self.source}"


class LabelledPairs(Sequence[LabelledItem]):
    """Labelled pairs of one split, or of a subset of it.

    Attributes:
        benchmark: description of the data set, of which most other attributes are.
        root, split: folder and split.
        name: data set, split and subset, for tables.
        missing, remarks: see `Found`.
    """

    def __init__(self, benchmark: Benchmark, root: Path, split: str, found: Found, subset: str | None = None) -> None:
        self.benchmark, self.root, self.split = benchmark, root, split
        self.name = " ".join(word for word in (benchmark.name, split, subset) if word)
        self.infrared, self.ignore, self.subsets = benchmark.infrared, benchmark.ignore, benchmark.subsets
        self.box_classes, self.mask_classes = benchmark.box_classes, benchmark.mask_classes
        self.palette = benchmark.palette
        self.missing, self.remarks = tuple(found.missing), tuple(found.remarks)
        self._found = found
        self._subset = subset
        self._notes: dict[str, Counter[str]] = {}
        self._warned: set[str] = set()

    @property
    def notes(self) -> Counter[str]:
        """Deviations in the labels read so far, counted once per pair; see `data.labels.NOTES`."""
        return sum(list(self._notes.values()), +self._found.notes)

    def __len__(self) -> int:
        return len(self._found.items)

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        """Return an item, or for a slice a `LabelledPairs`."""
        if isinstance(index, slice):
            return self._with(self._found.items[index], self._subset)
        return self._found.items[index]

    def load(self, item: LabelledItem) -> PairedSample:
        """Read a pair's images and labels; `subsets` of the sample includes day or night if the benchmark has a rule.

        Raises:
            BenchmarkError, ImageFileError: a file is missing or damaged, or a label is not in the class tables.
        """
        return self.load_with_boxes(item)[0]

    def load_with_boxes(self, item: LabelledItem) -> tuple[PairedSample, Boxes | None]:
        """Like `load`, with the boxes and the counts of skipped objects; None: not labelled."""
        with errors_as(BenchmarkError, LabelError):
            sample, boxes = self._read(item)
        sample.name = f"{self.benchmark.name}/{item.name}"
        sample.subsets = self._subsets_of(item, sample.rgb)
        return sample, boxes

    def boxes(self, item: LabelledItem, size: tuple[int, int]) -> Boxes | None:
        """Read an item's boxes, clipped to an image of (width, height); None: not labelled. Raises LabelError."""
        objects = None if self._found.objects is None else self._found.objects(item)
        return None if objects is None else boxes_of(objects, self.box_classes, size, self._found.difficult_counts)

    def samples(self, workers: int = 0) -> Iterator[PairedSample]:
        """Yield every pair, read lazily, or ahead by `workers` (see `prefetched`)."""
        return prefetched(self.load, self, workers)

    def subset(self, name: str) -> LabelledPairs:
        """Return the pairs of a subset. The rule "luminance" reads the RGB image of pairs without a stated subset."""
        if name not in self.subsets:
            raise BenchmarkError(
                f"{self.benchmark.name} has no subset {name!r}: choose one of {', '.join(self.subsets) or 'none'}"
            )
        return self._with([item for item in self._found.items if name in self._subsets_of(item)], name)

    def __reduce__(self) -> tuple[Callable[..., LabelledPairs], tuple[object, ...]]:
        """Pickle by reference: another process opens the folder and selects the same items in the same order."""
        names = [item.name for item in self._found.items]
        return _reopened, (self.benchmark, self.root, self.split, names, self._subset)

    def _read(self, item: LabelledItem) -> tuple[PairedSample, Boxes | None]:
        found = self._found
        if found.sample is not None:
            return found.sample(item), None
        rgb, infrared = found.images(item)
        sample = PairedSample(rgb, infrared, present=item.present)
        boxes = self.boxes(item, sample.size)
        if boxes is not None:
            sample = replace(sample, **boxes.fields())
        notes = Counter() if boxes is None else boxes.notes
        if found.mask is not None:
            sample.mask = found.mask(item, notes)
            if sample.mask.shape != rgb.shape[:2]:
                raise BenchmarkError(
                    f"{item.mask}: {sample.mask.shape[1]}x{sample.mask.shape[0]} pixels, its images have "
                    f"{rgb.shape[1]}x{rgb.shape[0]}"
                )
        self._note(item, notes)
        return sample, boxes

    def _note(self, item: LabelledItem, notes: Counter[str]) -> None:
        self._notes[item.name] = notes
        for kind in LOSSES & notes.keys() - self._warned:  # warn once per kind; `data check` counts them all
            if notes[kind]:
                self._warned.add(kind)
                text = describe_notes({kind: notes[kind]})[0]
                log.warning("%s, %s: %s, perhaps more in others", self.name, item.boxes or item.name, text)

    def _subsets_of(self, item: LabelledItem, rgb: np.ndarray | None = None) -> tuple[str, ...]:
        if self.benchmark.time_rule != "luminance" or {DAY, NIGHT} & set(item.subsets):
            return item.subsets
        return (*item.subsets, time_of(read_colour(item.rgb) if rgb is None else rgb))

    def _with(self, items: Sequence[LabelledItem], subset: str | None) -> LabelledPairs:
        return LabelledPairs(self.benchmark, self.root, self.split, replace(self._found, items=list(items)), subset)


def _reopened(benchmark: Benchmark, root: Path, split: str, names: Sequence[str], subset: str | None) -> LabelledPairs:
    pairs = benchmark.open(root, split, allow_missing=True)
    items = {item.name: item for item in pairs}
    return pairs._with([items[name] for name in names], subset)
